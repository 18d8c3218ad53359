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
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mlops.background import Repeated
from mlops.code_version import code_version
from mlops.errors import MlopsError, NotLoaded, ReplicaNameTaken, StoreError
from mlops.logs import RepeatedLines
from mlops.registry.markets import MarketBook
from mlops.rollout.routing import FAILED, ask_order, may_drop, next_to_load, wanted
from mlops.serving.engine.model_pool import ModelPool, ModelState, State, cause_of
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteView, read_route_view
from mlops.store import ModelVersion, Replica, Route, Store, get_version, list_replicas
from mlops.store.replicas import (
    HeldModel,
    LoadCause,
    Namesake,
    ReplicaState,
    acknowledge,
    check_replica,
    find_namesake,
    heartbeat,
    remove_replica,
)
from mlops.store.request_counts import record_tallies, write_traffic

log = logging.getLogger(__name__)

LEASE_S = 5.0
"""A replica without a heartbeat for so long no longer counts as live."""

INTERVAL_S = 1.0
FLUSH_S = 30.0
"""Seconds between two writes of the hourly traffic."""

JITTER = 0.2
LOADER_S = 0.1
NAMESAKE_LOOK_S = 0.2
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""A failed load is tried again after the first pause, which doubles up to the last one."""

VERSION_TRIES = 5
"""A version is reported as broken after so many failures in a row, which takes 12 seconds at least:
its files may have been copied just then."""


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """The last failure to load a version.

    ``tries`` counts the failures in a row from this cause; the next try is at ``retry_at``, a
    `time.monotonic` second.
    """

    error: str
    cause: LoadCause
    tries: int
    retry_at: float

    @property
    def is_sure(self) -> bool:
        """Whether it is reported; until then the version counts as loading."""
        return self.cause is LoadCause.REPLICA or self.tries >= VERSION_TRIES


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
        """The identity of this process; without a name it is called by its host and port.

        Raises:
            StoreError: for a name or an address that the store could not keep.
        """
        known = name or f"{socket.gethostname()}-{address.rpartition(':')[2] or os.getpid()}"
        check_replica(known, address)
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
        markets: MarketBook,
        pool: ModelPool,
        counters: RequestCounters,
        spool: ForecastSpool,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.identity = identity
        self.store = store
        self.markets = markets
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
        self._failed: dict[str, FailedLoad] = {}
        self._lines = RepeatedLines(log)
        # A generator of its own: drawing from the shared one here would change the random
        # numbers of every seeded computation in this process.
        self._jitter = random.Random()
        self._loops: tuple[Repeated, ...] = ()

    def route_view(self) -> RouteView:
        """The routes as last read; the same object until the next reading."""
        return self._route_view

    def start(self) -> None:
        """Start the sync thread and the loader thread.

        Raises:
            ReplicaNameTaken: when another living process has this replica's name.
        """
        self._wait_for_name()
        self._loops = (
            # With a jitter, so that the replicas of a host do not all read at the same moment.
            Repeated("store-sync", self.interval_s, self.sync_once, jitter=JITTER),
            Repeated("loader", LOADER_S, self.load_next),
        )
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End both threads, write what is left, and leave the store's list of replicas."""
        for loop in self._loops:
            loop.stop(wait_s=LEASE_S)
        try:
            self.write()
            self.write_traffic()
            remove_replica(self.store, self.identity.name, self.identity.incarnation)
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

    def failed_for_now(self, model_id: str) -> bool:
        """Whether a version is reported as failed to load; it is tried again all the same."""
        failed = self._failed.get(model_id)
        return failed is not None and failed.is_sure

    def ready(self) -> bool:
        """Whether this replica takes requests: see `_mark_ready`."""
        return self.state is ReplicaState.READY

    def _wait_for_name(self) -> None:
        """Wait while a process of this name that was killed still counts as live, or drains."""
        first = None
        while namesake := self._find_namesake():
            first = first or namesake
            renewed = namesake.lease_until != first.lease_until
            if renewed and namesake.state is not ReplicaState.DRAINING:
                raise ReplicaNameTaken(self.identity.name, namesake.address)
            time.sleep(NAMESAKE_LOOK_S)

    def _find_namesake(self) -> Namesake | None:
        try:
            return find_namesake(self.store, self.identity.name, self.identity.incarnation)
        except StoreError as error:
            # Each acknowledgement compares the incarnation again.
            log.warning("whether another process has this replica's name is unknown: %s", error)
            return None

    # The sync thread -----------------------------------------------------------------------------

    def sync_once(self) -> None:
        """One round with the store; a store that is away ends the round early."""
        try:
            self._route_view = read_route_view(self.store, self._route_view)
            self.markets.refresh()
            self._drop_unwanted()
            self._mark_ready()
            self._acknowledge_unless_named_twice()
            self.write()
            if time.monotonic() - self._flushed_at >= FLUSH_S:
                self.write_traffic()
            self.store_away_since = None
        except StoreError as error:
            if self.store_away_since is None:
                self.store_away_since = time.monotonic()
                log.warning(
                    "the store takes no word from here, serving goes on by what was last seen: %s",
                    error,
                )

    def _acknowledge_unless_named_twice(self) -> None:
        """Acknowledge; what this replica has counted and forecast is written in any case."""
        try:
            self.acknowledge()
        except ReplicaNameTaken as error:
            self._lines.write("name", f"no rollout sees this replica: {error}")

    def acknowledge(self) -> None:
        """Tell the store what this replica holds: in full after a change, else by a heartbeat.

        Raises:
            StoreError: when the store is away.
        """
        replica = self._describe_replica()
        known = replica == self._acknowledged and heartbeat(
            self.store, self.identity.name, self.identity.incarnation, seconds=LEASE_S
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
        failed, states = dict(self._failed), self.pool.states()
        models = {
            model_id: _describe_model(
                model_id, states.get(model_id, ModelState(State.FAILED)), failed.get(model_id)
            )
            for model_id in dict.fromkeys((*states, *failed))
        }
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
        for model_id in {*states, *self._failed}:
            version = self.versions.get(model_id)
            own_routes = [r for r in routes if version is None or r.service == version.service]
            if all(may_drop(route, name, model_id, states) for route in own_routes):
                self.pool.drop(model_id)
                self._failed.pop(model_id, None)

    def _mark_ready(self) -> None:
        """Turn starting into ready; never back.

        At least one service has a ready version here, and so has each service that any live
        replica can answer.
        """
        if self.state is not ReplicaState.STARTING:
            return
        ready, routes = self.pool.ready(), self._routes()
        waiting = [route for route in routes if not ask_order(route, ready, challenger_first=False)]
        if len(waiting) < len(routes) and not self._is_any_answerable(waiting):
            self.state = ReplicaState.READY

    def _is_any_answerable(self, routes: Sequence[Route]) -> bool:
        """Whether another replica holds a version of a route, or this one has not tried all."""
        if not routes:
            return False
        replicas, failed = list_replicas(self.store), self._failed
        for route in routes:
            known = wanted(route, self.identity.name)
            for model_id in ask_order(route, known, challenger_first=False):
                if model_id not in failed or any(one.holds(model_id) for one in replicas):
                    return True
        return False

    # The loader thread ---------------------------------------------------------------------------

    def load_next(self) -> bool:
        """Load the most urgent missing model of all services; False where none is missing."""
        self._read_bars_needed()
        states, now = self._model_states(), time.monotonic()
        # A failed model counts as missing again once its pause is over, behind the others.
        due = {model_id for model_id, failed in self._failed.items() if failed.retry_at <= now}
        without_due = {
            model_id: state
            for model_id, state in states.items()
            if state != FAILED or model_id not in due
        }
        for known in (states, without_due):
            missing = (next_to_load(route, self.identity.name, known) for route in self._routes())
            most_urgent = next((model_id for model_id in missing if model_id is not None), None)
            if most_urgent is not None:
                self._load_model(most_urgent)
                return True
        return False

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
            self._failed.pop(model_id, None)
            log.info("service=%s model_id=%s is ready", version.service, model_id, extra=fields)
        except StoreError:
            # The version's row cannot be read now; the next round asks again.
            return
        except NotLoaded:
            # It was dropped meanwhile.
            return
        except MlopsError as error:
            failed = self._note_failure(model_id, error)
            log.warning(
                "model_id=%s did not load (try %d, by the %s): %s",
                model_id, failed.tries, failed.cause, failed.error, extra=fields,
            )  # fmt: skip

    def _note_failure(self, model_id: str, error: MlopsError) -> FailedLoad:
        """Note a failure and when to try again: after a pause that doubles, with a jitter."""
        before, cause = self._failed.get(model_id), cause_of(error)
        tries = 1 + (before.tries if before is not None and before.cause is cause else 0)
        pause_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(tries - 1, 10))
        pause_s *= self._jitter.uniform(1 - JITTER, 1)
        # Some file names, for instance, are no text that a database can keep.
        text = str(error).encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
        failed = FailedLoad(text, cause, tries, time.monotonic() + pause_s)
        self._failed[model_id] = failed
        return failed


def _describe_model(model_id: str, model: ModelState, failed: FailedLoad | None) -> HeldModel:
    """A model as the store is told; a failed one stays failed while it is tried again."""
    is_ready = model.state in (State.READY, State.DRAINING)
    failure = failed if failed is not None and failed.is_sure and not is_ready else None
    state = "loading" if model.state == FAILED else str(model.state)
    return HeldModel(
        model_id=model_id,
        state=FAILED if failure is not None else state,
        digest=model.digest,
        bytes=model.bytes,
        load_ms=round(model.load_ms, 1),
        error=None if failed is None or is_ready else failed.error,
        cause=None if failure is None else failure.cause,
    )
