"""Answers one request: deals it by the route, asks, and asks the next where one fails.

A client never sees the fault of a challenger, nor of a champion while the one before it or the
baseline can answer; the answer says which version gave it.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

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
from mlops.store import Route, Source

Floats = NDArray[np.float64]

CHALLENGER, CHAMPION, PREVIOUS, BASELINE = "challenger", "champion", "previous", "baseline"
MIRROR_TASKS = 64
"""Mirrored requests under way at most; further ones are not mirrored."""


def _unheard(service: str, fault: ModelFault) -> None:
    """Tell nobody of a fault."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One forecast a window, from its last bar, and who gave it."""

    forecasts: Sequence[float]
    model_id: str
    variant: str
    generation: int


class Dispatcher:
    """The one place where requests meet models.

    ``sight`` gives what the replica last saw; ``budget_s`` is how long a version may take;
    ``on_fault`` hears of each fault of a version, with the service.
    """

    def __init__(
        self,
        *,
        replica_id: str,
        shelf: ModelPool,
        batcher: Batcher,
        counts: RequestCounters,
        traffic: TrafficCounts,
        sight: Callable[[], RouteView],
        budget_s: float,
        on_fault: Callable[[str, ModelFault], None] = _unheard,
    ) -> None:
        self.replica_id = replica_id
        self.shelf = shelf
        self.batcher = batcher
        self.counts = counts
        self.traffic = traffic
        self.sight = sight
        self.budget_s = budget_s
        self.on_fault = on_fault
        self._mirrors: set[asyncio.Task[None]] = set()

    def sighted(self, service: str) -> RouteState:
        """Raises: RequestRefused: when there is no such service."""
        found = self.sight().routes.get(service)
        if found is None:
            known = ", ".join(sorted(self.sight().routes)) or "none yet"
            raise RequestRefused(
                404, "RESOURCE_DOES_NOT_EXIST", f"no service {service!r} is live; known: {known}"
            )
        return found

    async def answer(
        self,
        service: str,
        windows: Sequence[Window],
        *,
        key: str | None = None,
        pinned: str | None = None,
    ) -> Answer:
        """Forecast from each window.

        ``key`` is the client's own key, by which it stays with one version; ``pinned`` a
        model_id, or ``challenger`` for a preview, which is asked alone and not counted.

        Raises:
            RequestRefused: when the service or the pinned version is not here.
            ModelFault: when no version could answer.
            NotReady: when nothing is ready yet.
            QueueFull: when too much is waiting.
        """
        sighted = self.sighted(service)
        route = sighted.route
        if pinned is not None:
            return await self._pinned(route, windows, pinned)
        drawn = deal(route.salt, key or uuid.uuid4().hex) if route.challenger else 0
        first = goes_to_challenger(route, self.replica_id, drawn, valid=sighted.valid)
        order = ask_order(route, self.shelf.ready(), challenger_first=first)
        if not order:
            self.traffic.turned_away(service, route.champion)
            raise NotReady(service)
        answer = await self._asked(route, order, windows, key)
        if drawn < route.mirror_bp:
            self._mirror(route, windows)
        return answer

    async def _asked(
        self, route: Route, order: Sequence[str], windows: Sequence[Window], key: str | None
    ) -> Answer:
        faults: dict[str, str] = {}
        last: ModelFault | None = None
        for model_id in order:
            began = perf_counter()
            try:
                forecasts = await self._ask(model_id, windows)
            except NotLoaded:
                # It was let go between the look and the question.
                continue
            except (QueueFull, TimedOut):
                self.traffic.turned_away(route.service, model_id)
                raise
            except ModelFault as fault:
                faults[model_id], last = fault.kind, fault
                self.traffic.took(route.service, model_id, perf_counter() - began, fault=True)
                self.on_fault(route.service, fault)
                continue
            self.traffic.took(route.service, model_id, perf_counter() - began)
            self._count(route, order, faults, key)
            return Answer(forecasts, model_id, variant_of(route, model_id), route.generation)
        if last is not None:
            raise last
        raise NotReady(route.service)

    def _count(
        self, route: Route, order: Sequence[str], faults: dict[str, str], key: str | None
    ) -> None:
        """The version that was dealt the request answers for it; others only for faults."""
        dealt = order[0]
        self.counts.live(
            route, challenger=dealt == route.challenger, fault=faults.get(dealt), key=key
        )
        if dealt != route.champion and route.champion in faults:
            self.counts.live(route, challenger=False, fault=faults[route.champion], key=key)

    async def _ask(self, model_id: str, windows: Sequence[Window]) -> list[float]:
        with self.shelf.borrow(model_id) as model:
            if len(windows) == 1:
                return [await self._forecast(model, windows[0])]
            return await self._ask_all(model, windows)

    async def _forecast(self, model: LoadedModel, window: Window) -> float:
        """From the window's last bar; what comes before the bars it needs is not computed."""
        needed = newest_bars(model, window)
        return last_of(model, await self.batcher.forecast(model, needed, timeout_s=self.budget_s))

    async def _ask_all(self, model: LoadedModel, windows: Sequence[Window]) -> list[float]:
        asked = [asyncio.ensure_future(self._forecast(model, window)) for window in windows]
        try:
            return list(await asyncio.gather(*asked))
        except BaseException:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            raise

    async def _pinned(self, route: Route, windows: Sequence[Window], pinned: str) -> Answer:
        model_id = route.challenger if pinned == CHALLENGER else pinned
        if model_id is None or model_id not in self.shelf.ready():
            raise RequestRefused(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"version {pinned!r} of {route.service} is not loaded in this replica; loaded: "
                f"{', '.join(sorted(self.shelf.ready())) or 'none'}",
            )
        forecasts = await self._ask(model_id, windows)
        return Answer(forecasts, model_id, variant_of(route, model_id), route.generation)

    def _mirror(self, route: Route, windows: Sequence[Window]) -> None:
        """Show the request to the challenger as well; nobody waits for it."""
        if route.challenger not in self.shelf.ready() or len(self._mirrors) >= MIRROR_TASKS:
            return
        task = asyncio.get_running_loop().create_task(self._shadowed(route, windows))
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def _shadowed(self, route: Route, windows: Sequence[Window]) -> None:
        assert route.challenger is not None
        fault: str | None = None
        try:
            with self.shelf.borrow(route.challenger) as model:
                for window in windows:
                    forecasts = await self.batcher.shadow(model, newest_bars(model, window))
                    if forecasts is None:
                        # Dropped under load: nothing was learned.
                        return
                    last_of(model, forecasts)
        except NotLoaded:
            return
        except ModelFault as error:
            fault = error.kind
            self.on_fault(route.service, error)
        self.counts.paired(route, Source.MIRROR, champion=None, challenger=fault)


def newest_bars(model: LoadedModel, window: Window) -> Window:
    """The bars of a window that the model needs for its last one.

    A version that needs more than its callers send would break them once it is live, so that
    counts as its fault.

    Raises:
        ModelFault: when there are too few.
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


def last_of(model: LoadedModel, forecasts: Floats) -> float:
    """The forecast of the last bar.

    Raises:
        ModelFault: when there is none.
    """
    value = float(forecasts[-1])
    if not math.isfinite(value):
        raise ModelFault(model.model_id, "no_forecast", "none can be made from the last bar")
    return value


def variant_of(route: Route, model_id: str) -> str:
    """What a version is to a service just now."""
    names = {
        route.baseline: BASELINE,
        route.previous_champion: PREVIOUS,
        route.challenger: CHALLENGER,
        route.champion: CHAMPION,
    }
    return names.get(model_id, "pinned")
