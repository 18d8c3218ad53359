"""Keeps one replica in step with the store: reads the routes, loads and drops models, reports.

    sync thread, each second: read routes -> drop unwanted models -> mark ready -> acknowledge
                              -> write counts and forecasts
    loader thread:            load one missing model at a time
    event loop:               answers requests

No thread waits for another one, and none needs the store to go on answering: while the store is
away the last routes read stay in force.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mlops.code_version import code_version
from mlops.errors import MlopsError, NotLoaded, StoreError
from mlops.rollout.routing import FAILED, may_drop, next_to_load, wanted
from mlops.serving.engine.model_pool import ModelPool
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteView, read_route_view
from mlops.store import ModelVersion, Replica, Route, Store, get_version
from mlops.store.replicas import HeldModel, ReplicaState, acknowledge, heartbeat, remove_replica
from mlops.store.request_counts import record_tallies, write_traffic

log = logging.getLogger(__name__)

LEASE_S = 5.0
"""A replica without a heartbeat for so long no longer counts as live."""

INTERVAL_S = 1.0
FLUSH_S = 30.0
"""Seconds between two writes of the hourly traffic."""

JITTER = 0.2
LOADER_S = 0.1
LOAD_TRIES = 3
BACKOFF_S = 0.3
RETRY_S = 60.0
"""A model whose `LOAD_TRIES` loads all failed is tried again after so long."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which replica this process is.

    Args:
        name: Stays the same over restarts.
        incarnation: Random; differs in each life of the process.
        address: ``host:port`` of its HTTP server.
    """

    name: str
    incarnation: str
    address: str

    @classmethod
    def of(cls, address: str, name: str | None = None) -> Identity:
        """The identity of this process; without a name it is called by its host and port."""
        known = name or f"{socket.gethostname()}-{address.rpartition(':')[2] or os.getpid()}"
        return cls(known, secrets.token_hex(8), address)


class StoreSync:
    """The background half of a replica; `start` and `stop` run its two threads.

    Args:
        interval_s: Mean seconds between two rounds with the store.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        store: Store,
        pool: ModelPool,
        counters: RequestCounters,
        spool: ForecastSpool,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.identity = identity
        self.store = store
        self.pool = pool
        self.counters = counters
        self.spool = spool
        self.interval_s = interval_s
        self.state = ReplicaState.STARTING
        self.versions: dict[str, ModelVersion] = {}
        self._bars_needed: dict[str, int | None] = {}
        self.store_away_since: float | None = None
        self._route_view = RouteView()
        self._flushed_at = time.monotonic()
        self._acknowledged: Replica | None = None
        self._tries: dict[str, int] = {}
        self._tried_at: dict[str, float] = {}
        # A generator of its own: drawing from the shared one here would change the random
        # numbers of every seeded computation in this process.
        self._jitter = random.Random()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def route_view(self) -> RouteView:
        """The routes as last read; the same object until the next reading."""
        return self._route_view

    def start(self) -> None:
        """Start the sync thread and the loader thread."""
        works: dict[str, tuple[Callable[[], object], Callable[[], float]]] = {
            # With a jitter, so that the replicas of a host do not all read at the same moment.
            "store-sync": (
                self.sync_once,
                lambda: self.interval_s * self._jitter.uniform(1 - JITTER, 1 + JITTER),
            ),
            "loader": (self.load_next, lambda: LOADER_S),
        }
        for name, work in works.items():
            thread = threading.Thread(target=self._repeat, args=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End both threads, write what is left, and leave the store's list of replicas."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=LEASE_S)
        try:
            self.write()
            self.write_traffic()
            remove_replica(self.store, self.identity.name)
        except StoreError as error:
            # The lease runs out by itself, and the next process writes what is in the spool.
            log.warning("left without telling the store: %s", error)
        self.spool.close()

    def drain(self) -> None:
        """Mark this replica as draining, so that no rollout waits for it from now on."""
        self.state = ReplicaState.DRAINING
        try:
            self.acknowledge()
        except StoreError as error:
            log.warning("the store does not know yet that this replica drains: %s", error)

    def bars_needed(self, model_id: str) -> int | None:
        """Bars that one forecast of a version needs; None where that is not known here yet."""
        with suppress(NotLoaded):
            return self.pool.warm_up(model_id)
        return self._bars_needed.get(model_id)

    def ready(self) -> bool:
        """Whether this replica answers for every service whose route it has read."""
        return self.state is ReplicaState.READY

    def _repeat(self, work: Callable[[], object], pause_s: Callable[[], float]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except Exception:
                # The thread must outlive any error: a replica without a heartbeat counts as dead.
                log.exception("a round of %s failed", threading.current_thread().name)
            self._stop.wait(pause_s())

    # The sync thread -----------------------------------------------------------------------------

    def sync_once(self) -> None:
        """One round with the store; a store that is away ends the round early."""
        try:
            self._route_view = read_route_view(self.store, self._route_view)
            self._drop_unwanted()
            self._mark_ready()
            self.acknowledge()
            self.write()
            if time.monotonic() - self._flushed_at >= FLUSH_S:
                self.write_traffic()
            self.store_away_since = None
        except StoreError as error:
            if self.store_away_since is None:
                self.store_away_since = time.monotonic()
                log.warning("the store is away, serving goes on by what was last seen: %s", error)

    def acknowledge(self) -> None:
        """Tell the store what this replica holds: in full after a change, else by a heartbeat.

        Raises:
            StoreError: when the store is away.
        """
        replica = self._describe_replica()
        known = replica == self._acknowledged and heartbeat(
            self.store, self.identity.name, seconds=LEASE_S
        )
        if not known:
            acknowledge(self.store, replica, seconds=LEASE_S)
            self._acknowledged = replica

    def write(self) -> None:
        """Write the rollout counts and the spooled forecasts to the store.

        Raises:
            StoreError: when the store is away; the counts are kept for the next round.
        """
        try:
            record_tallies(self.store, self.counters.take_evidence())
        except StoreError:
            self.counters.evidence.give_back()
            raise
        self.spool.drain(self.store)
        self.counters.forget_evidence(self._routes())

    def write_traffic(self) -> None:
        """Write the hourly traffic of each version to the store.

        Raises:
            StoreError: when the store is away; the traffic is kept for the next round.
        """
        try:
            write_traffic(self.store, self.counters.take_traffic())
        except StoreError:
            self.counters.traffic.give_back()
            raise
        finally:
            self.counters.forget_traffic()
        self._flushed_at = time.monotonic()

    def _routes(self) -> list[Route]:
        return [state.route for state in self._route_view.routes.values()]

    def _model_states(self) -> dict[str, str]:
        return {model_id: str(model.state) for model_id, model in self.pool.states().items()}

    def _describe_replica(self) -> Replica:
        models = {}
        for model_id, model in self.pool.states().items():
            # A load that is tried again shortly is not reported as failed: it would end a rollout.
            retried = model.state == FAILED and self._tries.get(model_id, 0) < LOAD_TRIES
            models[model_id] = HeldModel(
                model_id=model_id,
                state="loading" if retried else model.state,
                digest=model.digest,
                bytes=model.bytes,
                load_ms=round(model.load_ms, 1),
                error=model.error,
            )
        return Replica(
            id=self.identity.name,
            incarnation=self.identity.incarnation,
            address=self.identity.address,
            state=self.state,
            build=code_version(),
            generations={route.service: route.generation for route in self._routes()},
            models=models,
        )

    def _drop_unwanted(self) -> None:
        """Drop the models that no route of their service needs any longer."""
        states, routes, name = self._model_states(), self._routes(), self.identity.name
        for model_id in states:
            version = self.versions.get(model_id)
            own_routes = [r for r in routes if version is None or r.service == version.service]
            if all(may_drop(route, name, model_id, states) for route in own_routes):
                self.pool.drop(model_id)
                self._tries.pop(model_id, None)

    def _mark_ready(self) -> None:
        """Turn starting into ready once each service has a ready version; never back."""
        if self.state is not ReplicaState.STARTING:
            return
        ready, routes, name = self.pool.ready(), self._routes(), self.identity.name
        if routes and all(any(m in ready for m in wanted(route, name)) for route in routes):
            self.state = ReplicaState.READY

    # The loader thread ---------------------------------------------------------------------------

    def load_next(self) -> bool:
        """Load the most urgent missing model of all services; False where none is missing."""
        self._read_bars_needed()
        states = {}
        for model_id, state in self._model_states().items():
            tries = self._tries.get(model_id, 0)
            pause_s = BACKOFF_S * tries if tries < LOAD_TRIES else RETRY_S
            waited_s = time.monotonic() - self._tried_at.get(model_id, 0.0)
            # A failed model counts as missing again once its pause is over.
            if state != FAILED or waited_s <= pause_s:
                states[model_id] = state
        missing = (next_to_load(route, self.identity.name, states) for route in self._routes())
        most_urgent = next((missing_id for missing_id in missing if missing_id is not None), None)
        if most_urgent is None:
            return False
        self._load_model(most_urgent)
        return True

    def _read_bars_needed(self) -> None:
        """Find out what the targets of open rollouts need, before a replica may load them."""
        routes = self._route_view.routes.values()
        targets = {state.target for state in routes if state.target is not None}
        for model_id in targets - self._bars_needed.keys() - self.pool.ready():
            try:
                version = self.versions.get(model_id) or get_version(self.store, model_id)
            except StoreError:
                # The next round asks again.
                return
            self._bars_needed[model_id] = None
            with suppress(MlopsError):
                # Where its bundle cannot be read, the load of the version says why.
                self._bars_needed[model_id] = self.pool.read_warm_up(version)
        for model_id in self._bars_needed.keys() - targets:
            del self._bars_needed[model_id]

    def _load_model(self, model_id: str) -> None:
        fields = {"model_id": model_id}
        try:
            version = self.versions.get(model_id) or get_version(self.store, model_id)
            self.versions[model_id] = version
            fields["service"] = version.service
            self.pool.forget(model_id)
            self.pool.load(version)
            self._tries.pop(model_id, None)
            log.info("service=%s model_id=%s is ready", version.service, model_id, extra=fields)
        except StoreError:
            # The version's row cannot be read now; the next round asks again.
            return
        except MlopsError as error:
            self._tries[model_id] = self._tries.get(model_id, 0) + 1
            self._tried_at[model_id] = time.monotonic()
            log.warning(
                "model_id=%s did not load (try %d of %d): %s",
                model_id, self._tries[model_id], LOAD_TRIES, error, extra=fields,
            )  # fmt: skip
