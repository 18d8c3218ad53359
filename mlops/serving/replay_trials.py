"""Trials on inputs of our own: of a challenger before it goes live, of a champion that is failing.

A service that forecasts once an hour never sees hundreds of requests. Its last `REPLAY_BARS` bars,
forecast again in this process by champion and challenger, are as many paired trials within a
second. What clients send may be what no market has, so a champion that fails on requests is asked
its golden examples and the newest bars too, before it may lose its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mlops.data.calendar import load_calendar
from mlops.data.recent_bars import RecentBars
from mlops.errors import MlopsError, ModelFault, NotLoaded, TimedOut
from mlops.models import golden
from mlops.models.windows import Window, window_of
from mlops.rollout.fallback import WINDOW_S
from mlops.service import Service
from mlops.serving.dispatcher import fit_windows, last_forecast
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.newest_forecast import newest_window
from mlops.serving.request_counters import RequestCounters, TooShort
from mlops.serving.route_view import RouteView
from mlops.store import ModelVersion, Route
from mlops.store.request_counts import Source

log = logging.getLogger(__name__)

REPLAY_BARS = 600
"""So many trials without a fault bound the fault rate below 1 %; some are spare, for holes."""

TOGETHER = 16
"""Windows whose trials run at the same time."""

LOOK_S = 0.5
"""Seconds between two looks for new challengers, and for champions that fail."""

OWN_BARS = 20
"""A failing champion is asked for the forecasts of so many newest bars."""

OWN_EVERY_S = 30.0
"""Seconds between two such checks, while requests go on failing."""

_DROPPED = "dropped"


@dataclass(kw_only=True)
class _OwnTrials:
    """What trials on inputs of our own need.

    Args:
        route_view: Returns the routes as this replica last read them.
        versions: The store's row of each loaded version.
    """

    pool: ModelPool
    batcher: Batcher
    counters: RequestCounters
    bars: RecentBars
    route_view: Callable[[], RouteView]
    versions: Mapping[str, ModelVersion]


@dataclass(kw_only=True)
class ReplayTrials(_OwnTrials):
    """Tries each challenger once per rollout, as soon as it is ready in this process."""

    _tried: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Try the challenger of each route, every `LOOK_S` seconds, until cancelled."""
        while True:
            for state in tuple(self.route_view().routes.values()):
                await self.try_challenger(state.route)
            await asyncio.sleep(LOOK_S)

    async def try_challenger(self, route: Route) -> None:
        """Try the challenger of a route, unless this rollout's challenger was tried before."""
        ready = self.pool.ready()
        if route.challenger is None or not {route.challenger, route.champion} <= ready:
            return
        if self._tried.get(route.service) == route.salt:
            return
        self._tried[route.service] = route.salt
        service, trials = route.service, 0
        fields = {"service": service, "model_id": route.challenger}
        try:
            trials = await self._run_trials(route, route.challenger)
            log.info(
                "service=%s replayed %d bars to %s",
                service, trials, route.challenger, extra=fields,
            )  # fmt: skip
        except MlopsError as error:
            log.warning("service=%s bars cannot be replayed: %s", service, error, extra=fields)
        except Exception:
            # A rollout without evidence is held and undone; the replica must go on serving.
            log.exception("service=%s bars cannot be replayed", service, extra=fields)
        if not trials:
            # The next round tries again.
            self._tried.pop(service, None)

    async def _run_trials(self, route: Route, challenger_id: str) -> int:
        """The number of trials made; 0 where this replica has no bars of the market."""
        service = Service.parse(route.service)
        recent = await asyncio.to_thread(self.bars.load, service)
        if recent is None:
            return 0
        self.counters.restart(route, Source.REPLAY)
        trials = 0
        with (
            self.pool.borrow(route.champion) as champion,
            self.pool.borrow(challenger_id) as challenger,
        ):
            size = max(champion.warm_up, challenger.warm_up)
            frame = recent.frame.iloc[-(REPLAY_BARS + size) :]
            whole = newest_window(challenger, service, frame)
            windows = [part for part in whole.sliding(size) if not part.hole_before[1:].any()]
            for first in range(0, len(windows), TOGETHER):
                pairs = [
                    self._try_pair(route, champion, challenger, window)
                    for window in windows[first : first + TOGETHER]
                ]
                trials += sum(await asyncio.gather(*pairs))
        return trials

    async def _try_pair(
        self, route: Route, champion: LoadedModel, challenger: LoadedModel, window: Window
    ) -> bool:
        """Have both forecast; False, and nothing counted, where one was dropped under load."""
        champion_fault = await _find_fault(self.batcher, champion, window)
        challenger_fault = await _find_fault(self.batcher, challenger, window)
        if _DROPPED in (champion_fault, challenger_fault):
            return False
        self.counters.count_pair(
            route, Source.REPLAY, champion=champion_fault, challenger=challenger_fault
        )
        return True


@dataclass(frozen=True, slots=True)
class _OwnInput:
    """A window, and the forecast that a golden example expects from it."""

    window: Window
    expected: float | None = None


@dataclass(kw_only=True)
class OwnInputTrials(_OwnTrials):
    """Tries a champion on inputs of our own while it fails on requests."""

    _tried_at: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Try each champion that fails on requests, every `LOOK_S` seconds, until cancelled."""
        while True:
            for state in tuple(self.route_view().routes.values()):
                try:
                    await self.try_champion(state.route)
                except NotLoaded:
                    # Another version serves by now.
                    continue
                except Exception:
                    # Without a result the champion keeps its place; the replica must go on serving.
                    log.exception(
                        "service=%s inputs of our own cannot be tried", state.route.service
                    )
            await asyncio.sleep(LOOK_S)

    async def try_champion(self, route: Route) -> None:
        """Try the champion, where it lately failed on a request and was not tried just before."""
        champion, now = route.champion, self.counters.clock()
        failed_at = self.counters.champion_fault_at(champion)
        if failed_at is None or now - failed_at > WINDOW_S:
            return
        if now - self._tried_at.get(champion, 0.0) < OWN_EVERY_S:
            return
        self._tried_at[champion] = now
        with self.pool.borrow(champion) as model:
            inputs = await asyncio.to_thread(self._gather_inputs, route, model)
            faults: list[str | None] = []
            for first in range(0, len(inputs), TOGETHER):
                tries = [self._find_fault(model, own) for own in inputs[first : first + TOGETHER]]
                faults += await asyncio.gather(*tries)
        tried = [fault for fault in faults if fault != _DROPPED]
        if any(tried) or (tried and len(tried) == len(faults)):
            # A result with inputs that were dropped under load shows no champion sound.
            self.counters.put_own_trials(route, tried)

    def _gather_inputs(self, route: Route, model: LoadedModel) -> list[_OwnInput]:
        """The golden examples and the windows that end at the newest bars, where there are any."""
        service, inputs = Service.parse(route.service), list[_OwnInput]()
        calendar = load_calendar(str(model.bundle.config["calendar"]))
        try:
            for example in model.bundle.examples():
                window = window_of(example.bars, service.timeframe, calendar)
                inputs.append(_OwnInput(window, example.expected))
        except (MlopsError, OSError) as error:
            log.warning("service=%s golden examples cannot be read: %s", service.key, error)
        try:
            recent = self.bars.load(service)
        except MlopsError as error:
            log.warning("service=%s bars cannot be read: %s", service.key, error)
            recent = None
        if recent is not None:
            frame = recent.frame.iloc[-(model.warm_up + OWN_BARS - 1) :]
            windows = newest_window(model, service, frame).sliding(model.warm_up)
            inputs += [_OwnInput(window) for window in windows]
        return [own for own in inputs if not isinstance(fit_windows(model, [own.window]), TooShort)]

    async def _find_fault(self, model: LoadedModel, own: _OwnInput) -> str | None:
        return await _find_fault(self.batcher, model, own.window, expected=own.expected)


async def _find_fault(
    batcher: Batcher, model: LoadedModel, window: Window, *, expected: float | None = None
) -> str | None:
    """The kind of the fault of a version on a window that is long enough, or `_DROPPED`."""
    fitted = fit_windows(model, [window])
    assert not isinstance(fitted, TooShort)
    try:
        forecasts = await batcher.shadow(model, fitted[0])
        if forecasts is None:
            return _DROPPED
        value = last_forecast(model, forecasts)
    except TimedOut:
        return _DROPPED
    except ModelFault as fault:
        return fault.kind
    spread = float(model.bundle.config["spread"])
    if (
        expected is not None
        and golden.deviation(value, expected, spread) > golden.RELATIVE_TOLERANCE
    ):
        return "golden"
    return None
