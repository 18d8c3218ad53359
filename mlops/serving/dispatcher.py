"""Answers requests: picks a version by the route, and falls back to the next one on a fault.

    pinned version -> that version alone
    else challenger's share of keys -> challenger, all other keys -> champion
    on a fault -> the next of challenger, champion, previous champion, baseline that is ready

The client sees an error only where no version could answer; each answer names its version.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from mlops.arrays import FloatArray
from mlops.errors import (
    ModelFault,
    NotLoaded,
    NotReady,
    QueueFull,
    RequestRefused,
    TimedOut,
)
from mlops.models.windows import Window
from mlops.rollout.routing import ask_order, deal, goes_to_challenger
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteState, RouteView
from mlops.serving.traffic import TrafficCounts
from mlops.store import Route
from mlops.store.request_counts import Source

CHALLENGER, CHAMPION, PREVIOUS, BASELINE = "challenger", "champion", "previous", "baseline"
MIRROR_TASKS = 64
"""Mirrored requests under way at once; further requests are not mirrored."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One forecast for each window, from its last bar, and the version that gave them."""

    forecasts: Sequence[float]
    model_id: str
    variant: str
    generation: int


class Dispatcher:
    """Forecasts for requests, by the versions of this process.

    Args:
        route_view: Returns the routes as this replica last read them.
        budget_s: Seconds that a version may take for one window.
        on_fault: Called with the service and the fault, for each fault of a version.
    """

    def __init__(
        self,
        *,
        replica_id: str,
        pool: ModelPool,
        batcher: Batcher,
        counters: RequestCounters,
        traffic: TrafficCounts,
        route_view: Callable[[], RouteView],
        budget_s: float,
        on_fault: Callable[[str, ModelFault], None],
    ) -> None:
        self.replica_id = replica_id
        self.pool = pool
        self.batcher = batcher
        self.counters = counters
        self.traffic = traffic
        self.route_view = route_view
        self.budget_s = budget_s
        self.on_fault = on_fault
        self._mirrors: set[asyncio.Task[None]] = set()

    def route_state(self, service: str) -> RouteState:
        """The route of a service, as last read.

        Raises:
            RequestRefused: when there is no such service.
        """
        state = self.route_view().routes.get(service)
        if state is None:
            known = ", ".join(sorted(self.route_view().routes)) or "none yet"
            raise RequestRefused(
                404, "RESOURCE_DOES_NOT_EXIST", f"no service {service!r} is live; known: {known}"
            )
        return state

    async def answer(
        self,
        service: str,
        windows: Sequence[Window],
        *,
        key: str | None = None,
        pinned: str | None = None,
    ) -> Answer:
        """Forecast from each window.

        Args:
            key: The client's own key: requests with one key go to one version.
            pinned: A model_id, or ``challenger`` for a preview. That version alone is asked, and
                the request is not counted.

        Raises:
            RequestRefused: when the service or the pinned version is not loaded here.
            ModelFault: when no version could answer.
            NotReady: when no version is ready yet.
            QueueFull: when too many windows wait.
        """
        state = self.route_state(service)
        route = state.route
        if pinned is not None:
            model_id = self._find_pinned(route, pinned)
            forecasts = await self._forecast_all(model_id, windows)
            return Answer(forecasts, model_id, variant_of(route, model_id), route.generation)
        drawn = deal(route.salt, key or uuid.uuid4().hex) if route.challenger else 0
        first = goes_to_challenger(route, self.replica_id, drawn, valid=state.valid)
        order = ask_order(route, self.pool.ready(), challenger_first=first)
        if not order:
            self.traffic.count_turned_away(service, route.champion)
            raise NotReady(service)
        answer = await self._try_in_order(route, order, windows, key)
        if drawn < route.mirror_bp:
            self._start_mirror(route, windows)
        return answer

    async def _try_in_order(
        self, route: Route, order: Sequence[str], windows: Sequence[Window], key: str | None
    ) -> Answer:
        faults: dict[str, str] = {}
        last: ModelFault | None = None
        for model_id in order:
            began = perf_counter()
            try:
                forecasts = await self._forecast_all(model_id, windows)
            except NotLoaded:
                # The model was dropped after `order` was made.
                continue
            except (QueueFull, TimedOut):
                self.traffic.count_turned_away(route.service, model_id)
                raise
            except ModelFault as fault:
                seconds = perf_counter() - began
                faults[model_id], last = fault.kind, fault
                self.traffic.count_answer(route.service, model_id, seconds, fault=True)
                self.on_fault(route.service, fault)
                continue
            self.traffic.count_answer(route.service, model_id, perf_counter() - began)
            self._count_trials(route, order[0], faults, key)
            return Answer(forecasts, model_id, variant_of(route, model_id), route.generation)
        raise last or NotReady(route.service)

    def _count_trials(
        self, route: Route, dealt: str, faults: dict[str, str], key: str | None
    ) -> None:
        """Count success or failure for the version the router chose.

        A fallback is charged only if it also failed, and only the champion is.
        """
        challenger, fault = dealt == route.challenger, faults.get(dealt)
        self.counters.count_request(route, challenger=challenger, fault=fault, key=key)
        if dealt != route.champion and route.champion in faults:
            fault = faults[route.champion]
            self.counters.count_request(route, challenger=False, fault=fault, key=key)

    async def _forecast_all(self, model_id: str, windows: Sequence[Window]) -> list[float]:
        with self.pool.borrow(model_id) as model:
            if len(windows) == 1:
                return [await self._forecast_one(model, windows[0])]
            tasks = [asyncio.ensure_future(self._forecast_one(model, w)) for w in windows]
            try:
                return list(await asyncio.gather(*tasks))
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    async def _forecast_one(self, model: LoadedModel, window: Window) -> float:
        # Bars before the needed ones would each be forecast too.
        needed = cut_to_needed_bars(model, window)
        forecasts = await self.batcher.forecast(model, needed, timeout_s=self.budget_s)
        return last_forecast(model, forecasts)

    def _find_pinned(self, route: Route, pinned: str) -> str:
        model_id = route.challenger if pinned == CHALLENGER else pinned
        if model_id is None or model_id not in self.pool.ready():
            raise RequestRefused(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"version {pinned!r} of {route.service} is not loaded in this replica; loaded: "
                f"{', '.join(sorted(self.pool.ready())) or 'none'}",
            )
        return model_id

    def _start_mirror(self, route: Route, windows: Sequence[Window]) -> None:
        """Have the challenger forecast from the same windows, in a task that is not awaited."""
        challenger = route.challenger
        if challenger not in self.pool.ready() or len(self._mirrors) >= MIRROR_TASKS:
            return
        task = asyncio.get_running_loop().create_task(self._mirror(route, challenger, windows))
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def _mirror(self, route: Route, challenger: str, windows: Sequence[Window]) -> None:
        fault: str | None = None
        try:
            with self.pool.borrow(challenger) as model:
                for window in windows:
                    forecasts = await self.batcher.shadow(model, cut_to_needed_bars(model, window))
                    if forecasts is None:
                        # Dropped under load: this is no trial.
                        return
                    last_forecast(model, forecasts)
        except NotLoaded:
            return
        except ModelFault as error:
            fault = error.kind
            self.on_fault(route.service, error)
        self.counters.count_pair(route, Source.MIRROR, champion=None, challenger=fault)


def cut_to_needed_bars(model: LoadedModel, window: Window) -> Window:
    """The newest bars of a window: as many as one forecast of the model needs.

    Raises:
        ModelFault: when the window has fewer. That is a fault of the version: clients send what
            the champion needs, and a version that needs more would break them once it is live.
    """
    needed = model.warm_up
    if len(window) == needed:
        return window
    if len(window) < needed:
        raise ModelFault(
            model.model_id, "too_few_bars", f"it needs {needed} bars, the request has {len(window)}"
        )
    values, times, holes = window.values, window.open_time, window.hole_before
    return Window(values[-needed:], times[-needed:], holes[-needed:])


def last_forecast(model: LoadedModel, forecasts: FloatArray) -> float:
    """The forecast of the last bar.

    Raises:
        ModelFault: when it is NaN or infinite.
    """
    value = float(forecasts[-1])
    if not math.isfinite(value):
        raise ModelFault(model.model_id, "no_forecast", "none can be made from the last bar")
    return value


def variant_of(route: Route, model_id: str) -> str:
    """The part a version plays in a route: champion, challenger, previous or baseline.

    A version that the route does not name is ``pinned``.
    """
    variants = {
        route.baseline: BASELINE,
        route.previous_champion: PREVIOUS,
        route.challenger: CHALLENGER,
        route.champion: CHAMPION,
    }
    return variants.get(model_id, "pinned")
