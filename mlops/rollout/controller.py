"""Carries rollouts on, whoever asked for them: a role that one process holds at a time.

It keeps nothing between two ticks. A tick reads the store, decides, and writes one transaction
for each arrow, fenced by the term of its lease, so that a controller may die, or wake up late,
between any two statements: the next one goes on from the rows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from mlops.alerts.conditions import raise_champion_failed, update_rollout_alerts
from mlops.errors import LeaseLost, StoreError
from mlops.rollout.analysis import Counts, gather, of_champion
from mlops.rollout.decide import Snapshot, decide
from mlops.rollout.fallback import WINDOW_S, Fallback, Moved, champion_failing, decide_fallback
from mlops.rollout.plan import RolloutPlan
from mlops.store import audit
from mlops.store.engine import Connection, Store
from mlops.store.leases import Lease, acquire, fence, release
from mlops.store.replicas import Replica, ReplicaState, forget_dead, live_replicas
from mlops.store.request_counts import forget_tallies, read_tallies
from mlops.store.rollouts import Arrow, Rollout, move_rollout, open_rollouts, status_of
from mlops.store.routes import Route, change_route, keep_exposed, read_route, read_routes
from mlops.store.schema import Phase, Status
from mlops.store.sql import store_time
from mlops.store.versions import change_status

log = logging.getLogger(__name__)

LEASE = "controller"
LEASE_S = 5.0
EXPOSURE_S = 5.0
"""So long a challenger keeps its share after the last controller died."""

TICK_S = 1.0
MAX_ARROWS = 4
"""Arrows of one rollout in one tick."""

FORGET_REPLICA_S = 3600.0
FORGET_EVIDENCE_S = 7 * 86_400.0


class Controller:
    """Ticks; ``holder`` names this process, ``now`` replaces the database's clock in rehearsals."""

    def __init__(
        self, store: Store, holder: str, *, now: Callable[[], datetime] | None = None
    ) -> None:
        self.store = store
        self.holder = holder
        self.now = now
        self.lease: Lease | None = None

    def tick(self) -> tuple[Moved, ...]:
        """Carry everything on by what is known now; nothing where another process does it.

        Raises:
            StoreError: when the store is away, or the role was lost on the way.
        """
        self.lease = acquire(self.store, LEASE, self.holder, seconds=LEASE_S)
        if self.lease is None:
            return ()
        self._keep_house(self.lease)
        moved, trouble = self._carry_all_on(self.lease)
        moved += self._check_health(self.lease)
        for one in moved:
            one.log()
        if trouble is not None:
            raise trouble
        return tuple(moved)

    def step_down(self) -> None:
        """Let the next controller begin at once."""
        if self.lease is not None:
            release(self.store, self.lease)
            self.lease = None

    def _open(self) -> tuple[Rollout, ...]:
        with self.store.read() as connection:
            return open_rollouts(connection)

    def _keep_house(self, lease: Lease) -> None:
        """Renew the shares of challengers, and forget what died long ago."""
        with self.store.write() as connection:
            fence(connection, lease)
            for route in read_routes(connection):
                if route.challenger is not None:
                    keep_exposed(connection, route.service, seconds=EXPOSURE_S)
            forget_dead(connection, after=FORGET_REPLICA_S)
            forget_tallies(connection, after=FORGET_EVIDENCE_S)

    def _carry_all_on(self, lease: Lease) -> tuple[list[Moved], StoreError | None]:
        """Every open rollout; one that the store refuses to move does not hold up the others."""
        moved: list[Moved] = []
        trouble: StoreError | None = None
        for row in self._open():
            try:
                moved += self._carry_on(row, lease)
            except LeaseLost:
                raise
            except StoreError as error:
                trouble = error
        return moved, trouble

    def _carry_on(self, row: Rollout, lease: Lease) -> list[Moved]:
        moved: list[Moved] = []
        while len(moved) < MAX_ARROWS:
            snapshot, now = self._look(row.id)
            if snapshot is None:
                break
            arrow = decide(snapshot, now)
            if arrow is None:
                break
            self._take(snapshot, arrow, lease, now)
            what = f"{row.id} {arrow.to}"
            moved.append(Moved(row.service, what, arrow.reason, row.to_version))
        return moved

    def _look(self, rollout_id: str) -> tuple[Snapshot | None, datetime]:
        with self.store.read() as connection:
            now = self._time(connection)
            row = next((one for one in open_rollouts(connection) if one.id == rollout_id), None)
            route = None if row is None else read_route(connection, row.service)
            if row is None or route is None:
                return None, now
            return snapshot_of(connection, row, route, now), now

    def _take(self, s: Snapshot, arrow: Arrow, lease: Lease, now: datetime) -> None:
        with self.store.write() as connection:
            fence(connection, lease)
            move_rollout(connection, s.rollout, s.route, arrow, term=lease.term, at=now)
            update_rollout_alerts(connection, s.rollout, arrow, now)
            # A share that has just been given must count at once.
            keep_exposed(connection, s.route.service, seconds=EXPOSURE_S)

    def _check_health(self, lease: Lease) -> list[Moved]:
        moved = []
        for route, fallback, now in self._fallbacks():
            with self.store.write() as connection:
                fence(connection, lease)
                why = audit.Why(now, actor="controller", reason=fallback.reason)
                change_route(connection, route, fallback.route, "fall_back", why)
                for model_id, status in fallback.statuses.items():
                    change_status(connection, model_id, status, why)
                raise_champion_failed(
                    connection,
                    route.service,
                    failed=route.champion,
                    reason=fallback.reason,
                    at=now,
                )
            moved.append(Moved(route.service, "fall_back", fallback.reason, route.champion))
        return moved

    def _fallbacks(self) -> list[tuple[Route, Fallback, datetime]]:
        """Failing champions; where a rollout is open, it is undone first."""
        with self.store.read() as connection:
            now = self._time(connection)
            busy = {one.service for one in open_rollouts(connection)}
            replicas = _serving(live_replicas(connection))
            found = []
            for route in read_routes(connection):
                if route.service in busy:
                    continue
                fallback = decide_fallback(
                    route,
                    _knowing(route, replicas),
                    _recent(connection, route),
                    previous_status=_previous_status(connection, route),
                )
                if fallback is not None:
                    found.append((route, fallback, now))
            return found

    def _time(self, connection: Connection) -> datetime:
        return store_time(connection) if self.now is None else self.now()


def carry_role(controller: Controller, stop: threading.Event) -> None:
    """Tick until told to stop; a store that is away is asked again."""
    while not stop.wait(TICK_S):
        try:
            controller.tick()
        except StoreError as error:
            log.warning("the controller could not act: %s", error)
        except Exception:
            # One rollout that cannot be decided may not keep this role from the next tick.
            log.exception("a tick of the controller failed")
    try:
        controller.step_down()
    except StoreError as error:
        log.warning("the controller's lease runs out by itself: %s", error)


def snapshot_of(connection: Connection, row: Rollout, route: Route, now: datetime) -> Snapshot:
    """What the store shows of a rollout."""
    replicas = live_replicas(connection)
    promoted = row.phase is Phase.PROMOTED
    # Rows of an earlier time as champion were last written before this promotion.
    age = (now - row.since).total_seconds()
    recent = read_tallies(connection, row.service, champion_scope(route), newer_than_s=age)
    failing = None
    if not promoted:
        seen = _recent(connection, route)
        failing = champion_failing(route, _knowing(route, _serving(replicas)), seen)
    return Snapshot(
        rollout=row,
        plan=RolloutPlan.from_dict(row.plan),
        route=route,
        replicas=replicas,
        evidence=gather(read_tallies(connection, row.service, row.id), recent if promoted else ()),
        statuses=status_of(connection, {row.to_version, route.champion}),
        champion_failing=failing,
    )


def champion_scope(route: Route) -> str:
    """Under this name replicas count how a champion does, apart from any rollout."""
    return f"champion:{route.champion}"


def _serving(replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    return tuple(one for one in replicas if one.state is not ReplicaState.DRAINING)


def _knowing(route: Route, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    """Those that serve this service by its newest route."""
    return tuple(one for one in replicas if one.generations.get(route.service) == route.generation)


def _previous_status(connection: Connection, route: Route) -> Status | None:
    if route.previous_champion is None:
        return None
    return status_of(connection, {route.previous_champion})[route.previous_champion]


def _recent(connection: Connection, route: Route) -> Counts:
    tallies = read_tallies(connection, route.service, champion_scope(route), newer_than_s=WINDOW_S)
    return of_champion(tallies)
