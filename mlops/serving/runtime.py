"""A whole replica put together: what it holds, what it does beside requests, and its app."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlops.data.market_clock import Clock, market_clock
from mlops.data.recent_bars import RecentBars
from mlops.errors import ServingError
from mlops.models.bundle import Trust
from mlops.rollout.controller import Controller, run_controller
from mlops.serving.app import App
from mlops.serving.dispatcher import Dispatcher
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import ModelPool
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.market_feed import MarketFeed
from mlops.serving.metrics import Metrics, read_gauges
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.replay_trials import ReplayTrials
from mlops.serving.request_counters import RequestCounters
from mlops.serving.request_log import RequestLog
from mlops.serving.services import Specs
from mlops.serving.store_sync import LOADER_S, Identity, StoreSync
from mlops.serving.traffic import TrafficCounts
from mlops.store import Store, get_route

MIB = 1024**2

LOAD_S = 60.0
"""So long a version that is live may take to load where somebody waits for its forecast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be set of a replica; sizes in MiB, times in seconds unless they say days."""

    queue_limit: int = 1024
    max_body_mb: float = 16.0
    budget_s: float = 5.0
    max_age_bars: float = 2.0
    log_days: float = 30.0
    spool_mb: float = 256.0
    batching: bool = True
    exchange_base_url: str | None = None
    clock: Clock = market_clock


class Runtime:
    """One replica in this process; `running` starts and stops everything beside the requests."""

    def __init__(
        self,
        store: Store,
        *,
        identity: Identity,
        home: Path,
        trust: Trust,
        bars_root: Path,
        options: Options,
    ) -> None:
        name = identity.name
        self.store = store
        self.shelf = ModelPool(cache=home / "bundles", trust=trust)
        self.counts = RequestCounters(name, identity.incarnation)
        self.traffic = TrafficCounts(name, identity.incarnation)
        self.spool = ForecastSpool(
            home / "spool", identity.incarnation, max_bytes=int(options.spool_mb * MIB)
        )
        self.keeper = StoreSync(
            identity=identity,
            store=store,
            shelf=self.shelf,
            counts=self.counts,
            traffic=self.traffic,
            spool=self.spool,
        )
        self.batcher = Batcher(limit=options.queue_limit, batching=options.batching)
        bars = RecentBars(bars_root, options.clock)
        self.metrics = Metrics()
        self.desk = Dispatcher(
            replica_id=name,
            shelf=self.shelf,
            batcher=self.batcher,
            counts=self.counts,
            traffic=self.traffic,
            sight=self.keeper.sight,
            budget_s=options.budget_s,
            on_fault=self.metrics.fault,
        )
        self.newest = ForecastPublisher(
            replica_id=name,
            store=store,
            shelf=self.shelf,
            batcher=self.batcher,
            bars=bars,
            spool=self.spool,
            sight=self.keeper.sight,
            versions=self.keeper.versions,
            budget_s=options.budget_s,
            max_age_bars=options.max_age_bars,
        )
        self.replay = ReplayTrials(
            shelf=self.shelf,
            batcher=self.batcher,
            counts=self.counts,
            bars=bars,
            sight=self.keeper.sight,
            versions=self.keeper.versions,
        )
        self.request_log = RequestLog(
            home / "request-log", identity.incarnation, keep_days=options.log_days
        )
        self.app = App(
            desk=self.desk,
            newest=self.newest,
            keeper=self.keeper,
            specs=Specs(self.shelf),
            metrics=self.metrics,
            request_log=self.request_log,
            max_body_bytes=int(options.max_body_mb * MIB),
        )
        self.metrics.gauges(partial(read_gauges, self))
        self.feed = MarketFeed(
            store,
            name,
            bars_root=bars_root,
            services=lambda: self.keeper.sight().routes,
            exchange_base_url=options.exchange_base_url,
        )

    @contextmanager
    def roles(self) -> Iterator[None]:
        """Keep up with the store, and stand by as controller and as feed."""
        stop = threading.Event()
        me = self.keeper.identity
        # A restarted process of the same name is another holder.
        controller = Controller(self.store, f"controller@{me.name}:{me.incarnation}")
        works = (partial(run_controller, controller, stop), partial(self.feed.run, stop))
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        self.keeper.start()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=5.0)
            self.keeper.stop()
            self.request_log.close()

    async def attend(self, *, told: bool = False) -> None:
        """Replay old bars and forecast new ones, until cancelled.

        ``told``: new ones are forecast when somebody says so, and not before.
        """
        self.batcher.start()
        try:
            await asyncio.gather(self.replay.run(), *([] if told else [self.newest.run()]))
        finally:
            self.batcher.stop()


@dataclass(frozen=True, slots=True)
class Headless:
    """A replica without HTTP, in a thread of this process."""

    runtime: Runtime
    loop: asyncio.AbstractEventLoop

    def forecast(self, service: str) -> None:
        """Have the newest bar forecast by what is live, as soon as it has loaded; on record.

        Raises:
            ServingError: when no version answers, or the champion does not load in time.
        """
        route = get_route(self.runtime.store, service)
        if route is None:
            raise ServingError(f"nothing serves {service}; train it, or register a model for it")
        self._wait_for(route.champion)
        updating = self.runtime.newest.update(route)
        asyncio.run_coroutine_threadsafe(updating, self.loop).result()
        self.runtime.spool.drain(self.runtime.store)

    def _wait_for(self, model_id: str) -> None:
        until = time.monotonic() + LOAD_S
        while model_id not in self.runtime.shelf.ready():
            if time.monotonic() > until:
                raise ServingError(f"{model_id} did not load within {LOAD_S:g} s; see the log")
            time.sleep(LOADER_S)


@contextmanager
def headless_replica(
    store: Store,
    *,
    home: Path,
    trust: Trust,
    bars_root: Path,
    options: Options | None = None,
    told: bool = False,
) -> Iterator[Headless]:
    """A replica without HTTP for as long as the block lasts: it loads, replays and acknowledges.

    So a rollout in a notebook, where nothing serves, still rests on what the version did.
    ``told``: it forecasts new bars when it is told to, and not by itself.
    """
    runtime = Runtime(
        store,
        identity=Identity.of("headless:0"),
        home=home,
        trust=trust,
        bars_root=bars_root,
        options=options or Options(),
    )
    loop = asyncio.new_event_loop()
    task = loop.create_task(runtime.attend(told=told))

    def attend() -> None:
        asyncio.set_event_loop(loop)
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=attend, name="headless-replica", daemon=True)
    with runtime.roles():
        thread.start()
        try:
            yield Headless(runtime, loop)
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()


__all__ = ["Headless", "Options", "Runtime", "StoreSync", "headless_replica"]
