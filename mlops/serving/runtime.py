"""Puts a whole replica together, and runs it: its parts, its background work and its HTTP app.

`Runtime` is one replica in this process. `headless_replica` runs one without HTTP in a thread, for
a rollout in a notebook where no replica serves.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlops.data.market_clock import Clock, market_clock
from mlops.data.recent_bars import HELD_BARS, RecentBars
from mlops.errors import ServingError
from mlops.models.bundle import Trust
from mlops.registry.fetching import BundleFolders
from mlops.registry.markets import MarketBook
from mlops.rollout.controller import Controller, controller_loop
from mlops.serving.app import App
from mlops.serving.dispatcher import Dispatcher
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import ModelPool
from mlops.serving.forecast_gaps import list_arms
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.market_feed import MarketFeed
from mlops.serving.metrics import (
    Metrics,
    read_backlog_gauges,
    read_engine_gauges,
    read_route_gauges,
)
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.replay_trials import OwnInputTrials, ReplayTrials
from mlops.serving.request_counters import RequestCounters
from mlops.serving.request_log import RequestLog
from mlops.serving.services import Specs
from mlops.serving.store_sync import LOADER_S, Identity, StoreSync
from mlops.store import Route, Store, get_route

MIB = 1024**2

LOAD_S = 60.0
"""`HeadlessReplica.forecast` waits so long for champion and challenger to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a replica.

    Args:
        queue_limit: Windows that may wait for a forecast.
        max_body_mb: Largest body of a request, MiB.
        budget_s: Seconds that a version may take for a forecast.
        max_age_bars: Age in bars from which the newest bar is too old to forecast from.
        log_days: Days for which the request log is kept.
        log_mb: Disk that the request log may take, MiB; that of all replicas together.
        spool_mb: Disk that forecasts may take while the store is away, MiB.
        batching: Whether windows that wait together are forecast together.
        clock: The market's clock, or that of a rehearsal.
        held_bars: Newest bars of a market that are kept in memory; None keeps all, for a
            rehearsal that starts in the past.
    """

    queue_limit: int = 1024
    max_body_mb: float = 16.0
    budget_s: float = 5.0
    max_age_bars: float = 2.0
    log_days: float = 30.0
    log_mb: float = 1024.0
    spool_mb: float = 256.0
    batching: bool = True
    exchange_base_url: str | None = None
    clock: Clock = market_clock
    held_bars: int | None = HELD_BARS


class Runtime:
    """One replica in this process.

    `background_threads` and `run_until_cancelled` do what a replica does beside its requests.

    Args:
        home: Folder of the spool and the request log.
        bundles: Where this machine has bundles, or puts them.
        bars_root: Folder of the bar cache that the feed writes and the replica reads.
    """

    def __init__(
        self,
        store: Store,
        *,
        identity: Identity,
        home: Path,
        trust: Trust,
        bundles: BundleFolders,
        bars_root: Path,
        options: Options,
    ) -> None:
        name = identity.name
        self.store = store
        self.pool = ModelPool(bundles=bundles, trust=trust)
        self.counters = RequestCounters(name, identity.incarnation)
        self.spool = ForecastSpool(
            home / "spool", identity.incarnation, max_bytes=int(options.spool_mb * MIB)
        )
        markets = MarketBook(store)
        self.store_sync = StoreSync(
            identity=identity,
            store=store,
            markets=markets,
            pool=self.pool,
            counters=self.counters,
            spool=self.spool,
        )
        self.batcher = Batcher(limit=options.queue_limit, batching=options.batching)
        bars = RecentBars(bars_root, markets, options.clock, held_bars=options.held_bars)
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(
            replica_id=name,
            pool=self.pool,
            batcher=self.batcher,
            counters=self.counters,
            route_view=self.store_sync.route_view,
            versions=self.store_sync.versions,
            budget_s=options.budget_s,
            on_fault=self.metrics.count_fault,
        )
        self.feed = MarketFeed(
            store,
            name,
            markets=markets,
            bars_root=bars_root,
            services=lambda: self.store_sync.route_view().routes,
            exchange_base_url=options.exchange_base_url,
        )
        self.publisher = ForecastPublisher(
            replica_id=name,
            store=store,
            pool=self.pool,
            batcher=self.batcher,
            bars=bars,
            spool=self.spool,
            route_view=self.store_sync.route_view,
            versions=self.store_sync.versions,
            budget_s=options.budget_s,
            max_age_bars=options.max_age_bars,
            feed_trouble=self.feed.trouble,
        )
        self.replay, self.own_inputs = (
            trials(
                pool=self.pool,
                batcher=self.batcher,
                counters=self.counters,
                bars=bars,
                route_view=self.store_sync.route_view,
                versions=self.store_sync.versions,
            )
            for trials in (ReplayTrials, OwnInputTrials)
        )
        self.request_log = RequestLog(
            home / "request-log",
            identity.incarnation,
            keep_days=options.log_days,
            max_bytes=int(options.log_mb * MIB),
        )
        self.app = App(
            dispatcher=self.dispatcher,
            publisher=self.publisher,
            store_sync=self.store_sync,
            specs=Specs(self.pool),
            metrics=self.metrics,
            request_log=self.request_log,
            max_body_bytes=int(options.max_body_mb * MIB),
        )
        self.metrics.add_gauges(partial(read_engine_gauges, self.batcher, self.pool))
        self.metrics.add_gauges(partial(read_route_gauges, self.store_sync, self.publisher))
        self.metrics.add_gauges(
            partial(read_backlog_gauges, self.spool, self.counters, self.request_log)
        )

    @contextmanager
    def background_threads(self) -> Iterator[None]:
        """Sync with the store, and stand by as controller and as feed, while the block lasts."""
        identity = self.store_sync.identity
        # With the incarnation, so that a restarted process does not take over its old lease.
        holder = f"controller@{identity.name}:{identity.incarnation}"
        loops = (controller_loop(Controller(self.store, holder)), self.feed.loop())
        self.store_sync.start()
        for loop in loops:
            loop.start()
        try:
            yield
        finally:
            for loop in loops:
                loop.stop()
            self.store_sync.stop()
            self.request_log.close()

    async def run_until_cancelled(self, *, on_demand: bool = False) -> None:
        """Try challengers and failing champions, and forecast each new bar, until cancelled.

        Args:
            on_demand: Do not poll for new bars; forecast only when `HeadlessReplica.forecast` is
                called.
        """
        self.batcher.start()
        try:
            works = [self.replay.run(), self.own_inputs.run()]
            await asyncio.gather(*works, *([] if on_demand else [self.publisher.run()]))
        finally:
            self.batcher.stop()


@dataclass(frozen=True, slots=True)
class HeadlessReplica:
    """A replica without HTTP, in a thread of this process."""

    runtime: Runtime
    loop: asyncio.AbstractEventLoop

    def forecast(self, service: str) -> None:
        """Forecast the newest bar by champion and challenger, once both have loaded, and store it.

        A challenger that fails to load is not waited for, nor longer than `LOAD_S`.

        Raises:
            ServingError: when no version answers, or the champion does not load in time.
        """
        route = self._await_arms(service)
        updating = self.runtime.publisher.update(route)
        asyncio.run_coroutine_threadsafe(updating, self.loop).result()
        self.runtime.spool.drain(self.runtime.store)

    def _await_arms(self, service: str) -> Route:
        """The route of a service, once its champion and its challenger have loaded."""
        deadline = time.monotonic() + LOAD_S
        while True:
            # Read again each time: the rollout may end while its challenger is waited for.
            route = get_route(self.runtime.store, service)
            if route is None:
                raise ServingError(
                    f"nothing serves {service}; train it, or register a model for it"
                )
            missing = self._list_missing(route)
            late = time.monotonic() > deadline
            if late and route.champion in missing:
                raise ServingError(
                    f"{route.champion} did not load within {LOAD_S:g} s; see the log"
                )
            if late or not missing:
                return route
            time.sleep(LOADER_S)

    def _list_missing(self, route: Route) -> list[str]:
        """Champion and challenger where they have not loaded, but not a challenger that failed."""
        sync, ready = self.runtime.store_sync, self.runtime.pool.ready()
        return [
            arm
            for arm in list_arms(route, sync.identity.name)
            if arm not in ready and (arm == route.champion or not sync.failed_for_now(arm))
        ]


@contextmanager
def headless_replica(
    store: Store,
    *,
    home: Path,
    trust: Trust,
    bundles: BundleFolders,
    bars_root: Path,
    options: Options | None = None,
    on_demand: bool = False,
) -> Iterator[HeadlessReplica]:
    """Run a replica without HTTP in a thread of this process while the block lasts.

    It loads models, replays bars to the challenger and acknowledges the route, so that a rollout
    in a notebook, where no replica serves, rests on measured trials too.

    Args:
        home: Folder of the spool and the request log.
        bundles: Where this machine has bundles, or puts them.
        bars_root: Folder of the bar cache.
        on_demand: Do not poll for new bars; forecast only when `HeadlessReplica.forecast` is
            called.
    """
    runtime = Runtime(
        store,
        # A name of its own, because two notebooks may run one each.
        identity=Identity.of("headless:0", f"headless-{secrets.token_hex(4)}"),
        home=home,
        trust=trust,
        bundles=bundles,
        bars_root=bars_root,
        options=options or Options(),
    )
    loop = asyncio.new_event_loop()
    task = loop.create_task(runtime.run_until_cancelled(on_demand=on_demand))

    def run_loop() -> None:
        asyncio.set_event_loop(loop)
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run_loop, name="headless-replica", daemon=True)
    with runtime.background_threads():
        thread.start()
        try:
            yield HeadlessReplica(runtime, loop)
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
