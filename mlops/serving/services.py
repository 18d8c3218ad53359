"""`GET /services`: what is served here, since when, and what a request needs.

[[What a request to a service must look like, by the champion that will answer it.]]
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson

from mlops.data.calendar import load_calendar
from mlops.errors import NotLoaded, NotReady
from mlops.features.indicators import reads_clock
from mlops.models.recipe import Recipe
from mlops.rollout.routing import ask_order
from mlops.service import Service
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.protocol.request_bars import InputSpec, unbroken_bars
from mlops.serving.route_view import RouteState
from mlops.serving.store_sync import StoreSync
from mlops.store import Route

MAX_BARS = 20_000
MAX_WINDOWS = 512


class Specs:
    """Specifications by version, made once."""

    def __init__(self, shelf: ModelPool) -> None:
        self.shelf = shelf
        self._made: dict[str, InputSpec] = {}

    def of(self, route: Route) -> InputSpec:
        """What the version that answers first asks for.

        Raises:
            NotReady: when nothing is ready.
        """
        order = ask_order(route, self.shelf.ready(), challenger_first=False)
        if not order:
            raise NotReady(route.service)
        made = self._made.get(order[0])
        if made is None:
            with self.shelf.borrow(order[0]) as model:
                made = self._made[order[0]] = spec_of(model, Service.parse(route.service))
        return made


def spec_of(model: LoadedModel, service: Service) -> InputSpec:
    """What one version asks for."""
    config = model.bundle.config
    recipe = Recipe.from_dict(config["model"]["recipe"])
    return InputSpec(
        timeframe=service.timeframe,
        calendar=load_calendar(str(config["calendar"])),
        min_bars=model.warm_up,
        max_bars=MAX_BARS,
        max_windows=MAX_WINDOWS,
        unbroken_bars=unbroken_bars(recipe),
        needs_clock=any(reads_clock(name) for name in recipe.every_feature),
    )


def list_services(keeper: StoreSync, newest: ForecastPublisher) -> bytes:
    """Every service as JSON."""
    services = [
        _described(sighted, keeper, newest) for _, sighted in sorted(keeper.sight().routes.items())
    ]
    body = {"replica": keeper.identity.name, "services": services}
    return orjson.dumps(body)


def bars_to_send(route: Route, keeper: StoreSync) -> int | None:
    """So many bars let whoever a request is dealt to answer it; None where nothing is ready."""
    names = (route.champion, route.challenger, route.previous_champion, route.baseline)
    needs = []
    for name in names:
        # One that is let go between two looks is asked for no more.
        with suppress(NotLoaded):
            needs += [] if name is None else [keeper.shelf.warm_up(name)]
    return max(needs, default=None)


def _described(sighted: RouteState, keeper: StoreSync, newest: ForecastPublisher) -> dict[str, Any]:
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
