"""One process is one replica: it brings what it holds in line with the store, again and again.

Three threads share little: the keeper reads routes, acknowledges and writes what was counted;
the loader loads one model at a time; the event loop answers. None of them waits for another, and
none needs the store to go on answering.
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
from dataclasses import dataclass
from pathlib import Path

from mlops.code_version import code_version
from mlops.errors import MlopsError, StoreError
from mlops.models.bundle import Trust
from mlops.rollout.routing import FAILED, READY, may_drop, next_to_load, wanted
from mlops.serving.engine.model_pool import ModelPool
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteView, read_route_view
from mlops.serving.traffic import FLUSH_S, TrafficCounts
from mlops.store import (
    HeldModel,
    ModelVersion,
    Replica,
    ReplicaState,
    Store,
    acknowledge,
    get_version,
    heartbeat,
    record_tallies,
    remove_replica,
    write_traffic,
)

log = logging.getLogger(__name__)

LEASE_S = 5.0
"""So long a replica that says nothing counts as live."""

BEAT_S = 1.0
JITTER = 0.2
LOADER_S = 0.1
LOAD_TRIES = 3
BACKOFF_S = 0.3
RETRY_S = 60.0
"""After so long a model that could not be loaded is tried again."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a replica is: ``name`` stays over restarts, ``incarnation`` is one process life."""

    name: str
    incarnation: str
    address: str

    @classmethod
    def of(cls, address: str, name: str | None = None) -> Identity:
        """This process, by its host and address unless it has a name."""
        known = name or f"{socket.gethostname()}-{address.rpartition(':')[2] or os.getpid()}"
        return cls(known, secrets.token_hex(8), address)


class StoreSync:
    """The background half of a replica; `start` and `stop` run its two threads."""

    def __init__(
        self,
        *,
        identity: Identity,
        store: Store,
        shelf: ModelPool,
        counts: RequestCounters,
        traffic: TrafficCounts,
        spool: ForecastSpool,
        beat_s: float = BEAT_S,
    ) -> None:
        self.identity = identity
        self.store = store
        self.shelf = shelf
        self.counts = counts
        self.traffic = traffic
        self.spool = spool
        self.beat_s = beat_s
        self.state = ReplicaState.STARTING
        self.versions: dict[str, ModelVersion] = {}
        self.store_away_since: float | None = None
        self._sight = RouteView()
        self._flushed_at = time.monotonic()
        self._acknowledged: Replica | None = None
        self._tries: dict[str, int] = {}
        self._tried_at: dict[str, float] = {}
        # Its own: a thread that draws from the shared one moves the seeds of whoever else draws.
        self._jitter = random.Random()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def sight(self) -> RouteView:
        """What was last seen; the same object until something new is."""
        return self._sight

    def start(self) -> None:
        """Begin to keep up, and to load."""
        for name, work in (("keeper", self._keep), ("loader", self._load)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Say what is left to say, and be gone."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=LEASE_S)
        try:
            self.write()
            self.write_traffic()
            remove_replica(self.store, self.identity.name)
        except StoreError as error:
            # The lease runs out by itself, and the spool waits for the next process.
            log.warning("left without telling the store: %s", error)
        self.spool.close()

    def drain(self) -> None:
        """Say that this replica is on its way out; nobody waits for it from now on."""
        self.state = ReplicaState.DRAINING
        try:
            self.acknowledge()
        except StoreError as error:
            log.warning("the store does not know yet that this replica drains: %s", error)

    def ready(self) -> bool:
        """Whether some version of every service it has seen answers here."""
        return self.state is ReplicaState.READY

    # The keeper ------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stop.is_set():
            try:
                self.beat()
            except Exception:
                # A replica that stops saying that it lives is waited for by nobody.
                log.exception("a round of the keeper failed")
            self._stop.wait(self.beat_s * self._jitter.uniform(1 - JITTER, 1 + JITTER))

    def beat(self) -> None:
        """One round: look, let go, acknowledge, write. A store that is away ends it early."""
        try:
            self._sight = read_route_view(self.store, self._sight)
            self._let_go()
            self._grow_ready()
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
        """Say what is seen and held, in full where it changed."""
        said = self._said()
        known = said == self._acknowledged and heartbeat(
            self.store, self.identity.name, seconds=LEASE_S
        )
        if not known:
            acknowledge(self.store, said, seconds=LEASE_S)
            self._acknowledged = said

    def write(self) -> None:
        """Hand over what was counted, and the forecasts that wait."""
        tallies = self.counts.changed()
        try:
            record_tallies(self.store, tallies)
        except StoreError:
            self.counts.not_written(tallies)
            raise
        self.spool.drain(self.store)
        self.counts.keep_only(self._scopes())

    def write_traffic(self) -> None:
        """Write what was asked of each version; what a store that is away does not take waits."""
        rows = self.traffic.grown()
        try:
            write_traffic(self.store, rows)
        except StoreError:
            self.traffic.not_written(rows)
            raise
        finally:
            self.traffic.forget_written()
        self._flushed_at = time.monotonic()

    def _said(self) -> Replica:
        return Replica(
            id=self.identity.name,
            incarnation=self.identity.incarnation,
            address=self.identity.address,
            state=self.state,
            build=code_version(),
            generations={
                service: sighted.route.generation for service, sighted in self._sight.routes.items()
            },
            models=self._held(),
        )

    def _held(self) -> dict[str, HeldModel]:
        """What is on the shelf; a model that will be tried again at once has not failed yet."""
        held = {}
        for model_id, state in self.shelf.states().items():
            failed = state.state == FAILED
            again = failed and self._tries.get(model_id, 0) < LOAD_TRIES
            held[model_id] = HeldModel(
                model_id=model_id,
                state="loading" if again else state.state,
                digest=state.digest,
                bytes=state.bytes,
                load_ms=round(state.load_ms, 1),
                error=state.error,
            )
        return held

    def _scopes(self) -> set[str]:
        routes = [sighted.route for sighted in self._sight.routes.values()]
        return {route.salt for route in routes} | {f"champion:{r.champion}" for r in routes}

    def _let_go(self) -> None:
        states = self._states()
        routes = [sighted.route for sighted in self._sight.routes.values()]
        name = self.identity.name
        for model_id in states:
            version = self.versions.get(model_id)
            mine = [r for r in routes if version is None or r.service == version.service]
            if all(may_drop(route, name, model_id, states) for route in mine):
                self.shelf.drop(model_id)
                self._tries.pop(model_id, None)

    def _grow_ready(self) -> None:
        """Ready once every service it has seen is answered by something; then for ever."""
        if self.state is not ReplicaState.STARTING:
            return
        ready, name = self.shelf.ready(), self.identity.name
        routes = [sighted.route for sighted in self._sight.routes.values()]
        if routes and all(any(m in ready for m in wanted(route, name)) for route in routes):
            self.state = ReplicaState.READY

    # The loader ------------------------------------------------------------------------------

    def _load(self) -> None:
        while not self._stop.wait(LOADER_S):
            try:
                model_id = self._next()
                if model_id is not None:
                    self._load_one(model_id)
            except Exception:
                log.exception("a round of the loader failed")

    def _next(self) -> str | None:
        """The next model to load, over all services; failed ones again after a while."""
        states = self._states()
        patience = {
            model_id: state
            for model_id, state in states.items()
            if state != FAILED or not self._try_again(model_id)
        }
        for sighted in self._sight.routes.values():
            found = next_to_load(sighted.route, self.identity.name, patience)
            if found is not None:
                return found
        return None

    def _try_again(self, model_id: str) -> bool:
        waited = time.monotonic() - self._tried_at.get(model_id, 0.0)
        tries = self._tries.get(model_id, 0)
        return waited > (BACKOFF_S * tries if tries < LOAD_TRIES else RETRY_S)

    def _load_one(self, model_id: str) -> None:
        about = {"model_id": model_id}
        try:
            version = self.versions.get(model_id) or get_version(self.store, model_id)
            self.versions[model_id] = version
            about["service"] = version.service
            self.shelf.forget(model_id)
            self.shelf.load(version)
            self._tries.pop(model_id, None)
            log.info("service=%s model_id=%s is ready", version.service, model_id, extra=about)
        except StoreError:
            # What it is cannot be read now; the next round asks again.
            return
        except MlopsError as error:
            self._tries[model_id] = self._tries.get(model_id, 0) + 1
            self._tried_at[model_id] = time.monotonic()
            log.warning(
                "model_id=%s did not load (try %d of %d): %s",
                model_id, self._tries[model_id], LOAD_TRIES, error, extra=about,
            )  # fmt: skip

    def _states(self) -> dict[str, str]:
        return {model_id: str(state.state) for model_id, state in self.shelf.states().items()}


@dataclass(frozen=True, slots=True)
class Parts:
    """What every replica is made of, with or without HTTP."""

    keeper: StoreSync
    shelf: ModelPool
    counts: RequestCounters
    traffic: TrafficCounts
    spool: ForecastSpool


def make_parts(
    store: Store,
    *,
    identity: Identity,
    home: Path,
    trust: Trust,
    spool_bytes: int,
    beat_s: float = BEAT_S,
    make_shelf: Callable[..., ModelPool] = ModelPool,
) -> Parts:
    """Put the background half together."""
    shelf = make_shelf(cache=home / "bundles", trust=trust)
    counts = RequestCounters(identity.name, identity.incarnation)
    traffic = TrafficCounts(identity.name, identity.incarnation)
    spool = ForecastSpool(home / "spool", identity.incarnation, max_bytes=spool_bytes)
    keeper = StoreSync(
        identity=identity,
        store=store,
        shelf=shelf,
        counts=counts,
        traffic=traffic,
        spool=spool,
        beat_s=beat_s,
    )
    return Parts(keeper, shelf, counts, traffic, spool)


__all__ = ["READY", "Identity", "Parts", "StoreSync", "make_parts"]
