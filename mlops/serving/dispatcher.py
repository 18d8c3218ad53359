"""Answers requests: picks a version by the route, and falls back to the next one on a fault.

    pinned version -> that version alone
    else challenger's share of keys -> challenger, all other keys -> champion
    on a fault, or with too few bars for it -> the next of challenger, champion, previous champion,
    baseline that is ready

Each answer names its version. An input that no version can compute is refused and counted nowhere:
it says nothing about any version.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
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
from mlops.serving.protocol.request_bars import refused
from mlops.serving.request_counters import TIMEOUT, RequestCounters, TooShort, Try
from mlops.serving.route_view import RouteState, RouteView
from mlops.store import ModelVersion, Route
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
        versions: The store's row of each version that this process has read.
        budget_s: Seconds that a version may take for one window.
        on_fault: Called with the service and the fault, for each fault that is counted.
    """

    def __init__(
        self,
        *,
        replica_id: str,
        pool: ModelPool,
        batcher: Batcher,
        counters: RequestCounters,
        route_view: Callable[[], RouteView],
        versions: Mapping[str, ModelVersion],
        budget_s: float,
        on_fault: Callable[[str, ModelFault], None],
    ) -> None:
        self.replica_id = replica_id
        self.pool = pool
        self.batcher = batcher
        self.counters = counters
        self.route_view = route_view
        self.versions = versions
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
            RequestRefused: when the service or the pinned version is not loaded here, the pinned
                version needs more bars, or no version can compute the windows.
            ModelFault: when no version answered, one of them because of a time-out.
            NotReady: when no version is ready yet.
            QueueFull: when too many windows wait.
        """
        state = self.route_state(service)
        route = state.route
        if pinned is not None:
            return await self._answer_pinned(route, pinned, windows)
        drawn = deal(route.salt, key or uuid.uuid4().hex) if route.challenger else 0
        first = goes_to_challenger(route, self.replica_id, drawn, valid=state.valid)
        order = ask_order(route, self.pool.ready(), challenger_first=first)
        if not order:
            self.counters.count_turned_away(service, route.champion)
            raise NotReady(service)
        answer, faults = await self._try_in_order(route, order, windows, key)
        if drawn < route.mirror_bp:
            self._start_mirror(route, windows, key, faults.get(route.champion))
        return answer

    def resolve_pinned(self, route: Route, pinned: str) -> str | None:
        """The model_id of a pinned version, which may not be loaded; None without a challenger.

        Raises:
            RequestRefused: when it is a version of another service.
        """
        model_id = route.challenger if pinned == CHALLENGER else pinned
        version = None if model_id is None else self.versions.get(model_id)
        if version is not None and version.service != route.service:
            raise self._refuse_pinned(route, pinned)
        return model_id

    async def _answer_pinned(self, route: Route, pinned: str, windows: Sequence[Window]) -> Answer:
        model_id = self.resolve_pinned(route, pinned)
        if model_id is None or model_id not in self.pool.ready():
            raise self._refuse_pinned(route, pinned)
        with self.pool.borrow(model_id) as model:
            fitted = fit_windows(model, windows)
            if isinstance(fitted, TooShort):
                raise refused(f"version {model_id} cannot answer: {fitted}")
            try:
                forecasts = await self._forecast_all(model, fitted)
            except ModelFault as fault:
                if fault.kind == TIMEOUT:
                    raise
                raise refused(
                    f"version {model_id} can make no forecast from these bars; send others, or "
                    "name no version, so that another one may answer"
                ) from fault
        return Answer(forecasts, model_id, variant_of(route, model_id), route.generation)

    async def _try_in_order(
        self, route: Route, order: Sequence[str], windows: Sequence[Window], key: str | None
    ) -> tuple[Answer, Mapping[str, str]]:
        """The answer of the first version that gives one, and the kinds of the faults before it."""
        tries: list[Try] = []
        faults: list[ModelFault] = []
        too_short: dict[str, TooShort] = {}
        answer: Answer | None = None
        for model_id in order:
            began = perf_counter()
            try:
                with self.pool.borrow(model_id) as model:
                    fitted = fit_windows(model, windows)
                    if isinstance(fitted, TooShort):
                        too_short[model_id] = fitted
                        continue
                    forecasts = await self._forecast_all(model, fitted)
            except NotLoaded:
                # The model was dropped after `order` was made.
                continue
            except (QueueFull, TimedOut):
                self.counters.count_turned_away(route.service, model_id)
                raise
            except ModelFault as fault:
                faults.append(fault)
                tries.append(Try(model_id, perf_counter() - began, fault.kind))
                continue
            tries.append(Try(model_id, perf_counter() - began))
            answer = Answer(forecasts, model_id, variant_of(route, model_id), route.generation)
            break
        short_challenger = too_short.get(route.challenger or "")
        self.counters.count_request(route, tries, key=key, too_short=short_challenger)
        if answer is None:
            raise self._explain_failure(route, faults, too_short)
        for hidden in faults:
            self.on_fault(route.service, hidden)
        return answer, {tried.model_id: tried.fault for tried in tries if tried.fault is not None}

    def _explain_failure(
        self, route: Route, faults: Sequence[ModelFault], too_short: Mapping[str, TooShort]
    ) -> Exception:
        """The error of a request that no version answered."""
        if any(fault.kind == TIMEOUT for fault in faults):
            for fault in faults:
                self.on_fault(route.service, fault)
            return faults[-1]
        if faults:
            return refused(
                "no version of this service can make a forecast from these bars; check them for "
                "prices and volumes that no market has, and send others"
            )
        if too_short:
            least = min(too_short.values(), key=lambda short: short.needed)
            return refused(f"no version that is loaded here can answer: {least}")
        return NotReady(route.service)

    async def _forecast_all(self, model: LoadedModel, fitted: Sequence[Window]) -> list[float]:
        if len(fitted) == 1:
            return [await self._forecast_one(model, fitted[0])]
        request = object()
        tasks = [asyncio.ensure_future(self._forecast_one(model, w, request)) for w in fitted]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _forecast_one(
        self, model: LoadedModel, window: Window, request: object = None
    ) -> float:
        forecasts = await self.batcher.forecast(
            model, window, timeout_s=self.budget_s, request=request
        )
        return last_forecast(model, forecasts)

    def _refuse_pinned(self, route: Route, pinned: str) -> RequestRefused:
        own = (version for version in self.versions.values() if version.service == route.service)
        loaded = sorted({version.model_id for version in own} & self.pool.ready())
        return RequestRefused(
            404,
            "RESOURCE_DOES_NOT_EXIST",
            f"version {pinned!r} of {route.service} is not loaded in this replica; loaded: "
            f"{', '.join(loaded) or 'none'}",
        )

    def _start_mirror(
        self, route: Route, windows: Sequence[Window], key: str | None, champion_fault: str | None
    ) -> None:
        """Have the challenger forecast from the same windows, in a task that is not awaited."""
        challenger = route.challenger
        if challenger not in self.pool.ready() or len(self._mirrors) >= MIRROR_TASKS:
            return
        mirror = self._mirror(route, challenger, windows, key, champion_fault)
        task = asyncio.get_running_loop().create_task(mirror)
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def _mirror(
        self,
        route: Route,
        challenger: str,
        windows: Sequence[Window],
        key: str | None,
        champion_fault: str | None,
    ) -> None:
        fault: str | None = None
        try:
            with self.pool.borrow(challenger) as model:
                fitted = fit_windows(model, windows)
                if isinstance(fitted, TooShort):
                    self.counters.count_request(route, (), key=key, too_short=fitted)
                    return
                for window in fitted:
                    forecasts = await self.batcher.shadow(model, window)
                    if forecasts is None:
                        # Dropped under load: this is no trial.
                        return
                    last_forecast(model, forecasts)
        except (NotLoaded, TimedOut):
            return
        except ModelFault as error:
            fault = error.kind
            self.on_fault(route.service, error)
        self.counters.count_pair(route, Source.MIRROR, champion=champion_fault, challenger=fault)


def fit_windows(model: LoadedModel, windows: Sequence[Window]) -> list[Window] | TooShort:
    """The newest bars of each window, as many as one forecast of the model needs.

    More bars would each be forecast too.

    Returns:
        What is missing, where a window has fewer bars, no times for a model that reads the clock,
        or a gap in the sequence that the model reads. All windows of a request decide together.
    """
    needed, fitted = model.warm_up, []
    for window in windows:
        if model.needs_clock and not window.timed:
            return TooShort(0, needed)
        if len(window) < needed:
            return TooShort(len(window), needed)
        newest = window
        if len(window) > needed:
            newest = window.part(len(window) - needed, len(window))
        # Of so few values this finds the last one faster than numpy does.
        last_hole = newest.hole_before.tobytes().rfind(1, 1)
        if last_hole > 0 and needed - last_hole < model.unbroken_bars:
            return TooShort(needed - last_hole, model.unbroken_bars, has_gap=True)
        fitted.append(newest)
    return fitted


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
