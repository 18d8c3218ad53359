"""Recent bars as trials: on thin traffic, what the market gave is asked of both versions.

A service that forecasts once an hour never sees hundreds of requests. Its last bars, forecast
again in this process by champion and challenger, are as many paired trials within a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from mlops.data.recent_bars import RecentBars
from mlops.errors import MlopsError, ModelFault
from mlops.models.windows import Window
from mlops.service import Service
from mlops.serving.dispatcher import last_of, newest_bars
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.newest_forecast import newest_window
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteView
from mlops.store import ModelVersion, Route, Source

log = logging.getLogger(__name__)

REPLAY_BARS = 600
"""So many bars without a fault bound the fault rate below 1 %, with a reserve for holes."""

TOGETHER = 16
LOOK_S = 0.5


class ReplayTrials:
    """Tries each challenger once in this process, as soon as it is ready."""

    def __init__(
        self,
        *,
        shelf: ModelPool,
        batcher: Batcher,
        counts: RequestCounters,
        bars: RecentBars,
        sight: Callable[[], RouteView],
        versions: Mapping[str, ModelVersion],
    ) -> None:
        self.shelf = shelf
        self.batcher = batcher
        self.counts = counts
        self.bars = bars
        self.sight = sight
        self.versions = versions
        self._done: dict[str, str] = {}

    async def run(self) -> None:
        """Look for challengers to try, again and again."""
        while True:
            for sighted in tuple(self.sight().routes.values()):
                await self.attend(sighted.route)
            await asyncio.sleep(LOOK_S)

    async def attend(self, route: Route) -> None:
        """Try the challenger of a route, unless that was done in this rollout."""
        ready = self.shelf.ready()
        if route.challenger not in ready or route.champion not in ready:
            return
        if self._done.get(route.service) == route.salt:
            return
        self._done[route.service] = route.salt
        tried, about = 0, {"service": route.service, "model_id": route.challenger}
        try:
            tried = await self._try(route)
            told = (route.service, tried, route.challenger)
            log.info("service=%s replayed %d bars to %s", *told, extra=about)
        except MlopsError as error:
            told_why = (route.service, error)
            log.warning("service=%s bars cannot be replayed: %s", *told_why, extra=about)
        except Exception:
            # Without evidence a rollout is held and undone; the replica goes on.
            log.exception("service=%s bars cannot be replayed", route.service, extra=about)
        if not tried:
            # It will be tried again: what has no evidence is held, never promoted.
            self._done.pop(route.service, None)

    async def _try(self, route: Route) -> int:
        assert route.challenger is not None
        version = self.versions.get(route.challenger)
        if version is None:
            return 0
        service = Service.parse(route.service)
        recent = await asyncio.to_thread(self.bars.of, service, version.notes)
        if recent is None:
            return 0
        self.counts.restart(route, Source.REPLAY)
        tried = 0
        with (
            self.shelf.borrow(route.champion) as champion,
            self.shelf.borrow(route.challenger) as challenger,
        ):
            size = max(champion.warm_up, challenger.warm_up)
            whole = newest_window(challenger, service, recent.frame.iloc[-(REPLAY_BARS + size) :])
            windows = [part for part in whole.sliding(size) if not part.hole_before[1:].any()]
            for first in range(0, len(windows), TOGETHER):
                part = windows[first : first + TOGETHER]
                pairs = [self._pair(route, champion, challenger, window) for window in part]
                tried += sum(await asyncio.gather(*pairs))
        return tried

    async def _pair(
        self, route: Route, champion: LoadedModel, challenger: LoadedModel, window: Window
    ) -> bool:
        """Whether both were asked: under load, shadow work is dropped."""
        first = await self._fault(champion, window)
        second = await self._fault(challenger, window)
        if _DROPPED in (first, second):
            return False
        self.counts.paired(route, Source.REPLAY, champion=first, challenger=second)
        return True

    async def _fault(self, model: LoadedModel, window: Window) -> str | None:
        try:
            forecasts = await self.batcher.shadow(model, newest_bars(model, window))
            if forecasts is None:
                return _DROPPED
            last_of(model, forecasts)
        except ModelFault as fault:
            return fault.kind
        return None


_DROPPED = "dropped"
