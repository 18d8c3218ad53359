"""The services of a replica: what `GET /services` lists, and what a request must hold.

What a request must hold follows from the version that will answer it: its `InputSpec`.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from mlops.data.calendar import load_calendar
from mlops.errors import NotReady
from mlops.rollout.routing import ask_order
from mlops.service import Service
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.protocol.request_bars import InputSpec
from mlops.serving.route_view import RouteState
from mlops.serving.store_sync import StoreSync
from mlops.store import Route

MAX_BARS = 20_000
MAX_WINDOWS = 512


class Specs:
    """The `InputSpec` of each version, made once and kept."""

    def __init__(self, pool: ModelPool) -> None:
        self.pool = pool
        self._specs: dict[str, InputSpec] = {}

    def for_route(self, route: Route) -> InputSpec:
        """What the version that answers first asks of a request.

        Raises:
            NotReady: when no version is ready.
        """
        order = ask_order(route, self.pool.ready(), challenger_first=False)
        if not order:
            raise NotReady(route.service)
        spec = self._specs.get(order[0])
        if spec is None:
            with self.pool.borrow(order[0]) as model:
                spec = self._specs[order[0]] = input_spec_of(model, Service.parse(route.service))
        return spec


def input_spec_of(model: LoadedModel, service: Service) -> InputSpec:
    """What one version asks of a request."""
    config = model.bundle.config
    return InputSpec(
        timeframe=service.timeframe,
        calendar=load_calendar(str(config["calendar"])),
        min_bars=model.warm_up,
        max_bars=MAX_BARS,
        max_windows=MAX_WINDOWS,
        unbroken_bars=model.unbroken_bars,
        needs_clock=model.needs_clock,
    )


def list_services(store_sync: StoreSync, publisher: ForecastPublisher) -> bytes:
    """The answer of `GET /services`, as JSON."""
    ready, services = store_sync.pool.ready(), []
    for service, state in sorted(store_sync.route_view().routes.items()):
        route, published = state.route, publisher.latest(service)
        versions = {route.champion, route.previous_champion, route.challenger}
        services.append(
            {
                "service": service,
                "champion": route.champion,
                "since": state.since,
                "generation": route.generation,
                "previous_champion": route.previous_champion,
                "baseline": route.baseline,
                "challenger": route.challenger,
                "challenger_share": route.weight_bp / 10_000 if state.valid else 0.0,
                "ready": sorted(model_id for model_id in versions if model_id in ready),
                "bars": bars_to_send(state, store_sync.bars_needed),
                "newest_bar": None if published is None else published.row.bar,
                "fresh": published is not None and published.fresh,
            }
        )
    return orjson.dumps({"replica": store_sync.identity.name, "services": services})


def bars_to_send(state: RouteState, bars_needed: Callable[[str], int | None]) -> int | None:
    """Bars with which any version of a route can answer, also one whose rollout was requested.

    Args:
        bars_needed: Returns the bars that a version needs; None where they are not known yet.

    Returns:
        None where those of no version are known.
    """
    route = state.route
    named = (
        route.champion,
        route.challenger,
        state.target,
        route.previous_champion,
        route.baseline,
    )
    needs = (None if model_id is None else bars_needed(model_id) for model_id in named)
    return max((bars for bars in needs if bars is not None), default=None)
