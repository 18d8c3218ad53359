"""`GET /services`: what is served here, since when, and what a request needs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson

from mlops.errors import NotLoaded
from mlops.serving.newest_forecast import Newest
from mlops.serving.route_view import Sighted
from mlops.serving.store_sync import Keeper
from mlops.store.routes import Route


def list_services(keeper: Keeper, newest: Newest) -> bytes:
    """Every service as JSON."""
    services = [
        _described(sighted, keeper, newest) for _, sighted in sorted(keeper.sight().routes.items())
    ]
    body = {"replica": keeper.identity.name, "services": services}
    return orjson.dumps(body)


def bars_to_send(route: Route, keeper: Keeper) -> int | None:
    """So many bars let whoever a request is dealt to answer it; None where nothing is ready."""
    names = (route.champion, route.challenger, route.previous_champion, route.baseline)
    needs = []
    for name in names:
        # One that is let go between two looks is asked for no more.
        with suppress(NotLoaded):
            needs += [] if name is None else [keeper.shelf.warm_up(name)]
    return max(needs, default=None)


def _described(sighted: Sighted, keeper: Keeper, newest: Newest) -> dict[str, Any]:
    route = sighted.route
    published = newest.of(route.service)
    return {
        "service": route.service,
        "champion": route.champion,
        "since": sighted.since,
        "generation": route.generation,
        "previous_champion": route.previous_champion,
        "baseline": route.baseline,
        "challenger": route.challenger,
        "challenger_share": route.weight_bp / 10_000 if sighted.valid else 0.0,
        "ready": sorted(
            model_id
            for model_id in {route.champion, route.previous_champion, route.challenger}
            if model_id in keeper.shelf.ready()
        ),
        "bars": bars_to_send(route, keeper),
        "newest_bar": None if published is None else published.row.bar,
        "fresh": published is not None and published.fresh,
    }
