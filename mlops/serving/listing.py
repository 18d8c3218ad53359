"""`GET /services`: what is served here, since when, and what a request needs."""

from __future__ import annotations

from typing import Any

import orjson

from mlops.errors import NotReady
from mlops.serving.newest import Newest
from mlops.serving.replica import Keeper
from mlops.serving.sight import Sighted
from mlops.serving.specs import Specs


def list_services(keeper: Keeper, newest: Newest, specs: Specs) -> bytes:
    """Every service as JSON."""
    services = [
        _described(sighted, keeper, newest, specs)
        for _, sighted in sorted(keeper.sight().routes.items())
    ]
    body = {"replica": keeper.identity.name, "services": services}
    return orjson.dumps(body)


def _described(sighted: Sighted, keeper: Keeper, newest: Newest, specs: Specs) -> dict[str, Any]:
    route = sighted.route
    published = newest.of(route.service)
    try:
        bars: int | None = specs.of(route).min_bars
    except NotReady:
        bars = None
    return {
        "service": route.service,
        "champion": route.champion,
        "since": route.updated_at,
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
        "bars": bars,
        "newest_bar": None if published is None else published.row.bar,
        "fresh": published is not None and published.fresh,
    }
