"""Paired trials on recent bars, so that a rollout has evidence where few requests come.

A service that forecasts once an hour never sees hundreds of requests. Its last `REPLAY_BARS` bars,
forecast again in this process by champion and challenger, are as many trials within a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from mlops.data.recent_bars import RecentBars
from mlops.errors import MlopsError, ModelFault
from mlops.models.windows import Window
from mlops.service import Service
from mlops.serving.dispatcher import cut_to_needed_bars, last_forecast
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.newest_forecast import newest_window
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteView
from mlops.store import ModelVersion, Route
from mlops.store.request_counts import Source

log = logging.getLogger(__name__)

REPLAY_BARS = 600
"""So many trials without a fault bound the fault rate below 1 %; some are spare, for holes."""

TOGETHER = 16
"""Windows whose trials run at the same time."""

LOOK_S = 0.5
"""Seconds between two looks for new challengers."""

_DROPPED = "dropped"


class ReplayTrials:
    """Tries each challenger once per rollout, as soon as it is ready in this process.

    Args:
        route_view: Returns the routes as this replica last read them.
        versions: The store's row of each loaded version.
    """

    def __init__(
        self,
        *,
        pool: ModelPool,
        batcher: Batcher,
        counters: RequestCounters,
        bars: RecentBars,
        route_view: Callable[[], RouteView],
        versions: Mapping[str, ModelVersion],
    ) -> None:
        self.pool = pool
        self.batcher = batcher
        self.counters = counters
        self.bars = bars
        self.route_view = route_view
        self.versions = versions
        self._tried: dict[str, str] = {}

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
        version = self.versions.get(challenger_id)
        if version is None:
            return 0
        service = Service.parse(route.service)
        recent = await asyncio.to_thread(self.bars.load, service, version.notes)
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
        champion_fault = await self._find_fault(champion, window)
        challenger_fault = await self._find_fault(challenger, window)
        if _DROPPED in (champion_fault, challenger_fault):
            return False
        self.counters.count_pair(
            route, Source.REPLAY, champion=champion_fault, challenger=challenger_fault
        )
        return True

    async def _find_fault(self, model: LoadedModel, window: Window) -> str | None:
        try:
            forecasts = await self.batcher.shadow(model, cut_to_needed_bars(model, window))
            if forecasts is None:
                return _DROPPED
            last_forecast(model, forecasts)
        except ModelFault as fault:
            return fault.kind
        return None
