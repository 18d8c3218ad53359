"""The controller: advances every open rollout, in the one process that holds its lease.

A controller keeps no state between two ticks. A tick reads the store, decides, and writes one
transaction for each arrow, fenced by the term of its lease. So a controller may die, or stall past
its lease, between any two statements: the next controller goes on from the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from mlops.alerts.conditions import (
    has_failing_requests_alert,
    raise_champion_failed,
    update_failing_requests_alert,
    update_rollout_alerts,
)
from mlops.background import Repeated
from mlops.errors import LeaseLost, StoreError
from mlops.rollout.analysis import (
    ChampionTrials,
    count_champion_trials,
    count_own_trials,
    count_short_requests,
    gather_evidence,
)
from mlops.rollout.decide import Snapshot, decide, reason_to_hold
from mlops.rollout.fallback import (
    WINDOW_S,
    Fallback,
    Move,
    champion_failing,
    decide_fallback,
    explain_requests,
)
from mlops.rollout.plan import RolloutPlan
from mlops.store import Phase, Replica, Rollout, Route, Store, audit
from mlops.store.engine import Connection
from mlops.store.leases import Lease, acquire_lease, fence, release_lease
from mlops.store.replicas import ReplicaState, forget_dead, live_replicas
from mlops.store.request_counts import (
    champion_scope,
    dealt_scope,
    forget_tallies,
    read_tallies,
)
from mlops.store.rollouts import (
    Arrow,
    move_rollout,
    open_rollouts,
    restart_future_phases,
    status_of,
)
from mlops.store.routes import change_route, read_route, read_routes, renew_exposure
from mlops.store.sql import store_time
from mlops.store.versions import change_status

log = logging.getLogger(__name__)

LEASE = "controller"
LEASE_S = 5.0
EXPOSURE_S = 5.0
"""A challenger keeps its share for so long after the last controller died."""

TICK_S = 1.0
MAX_ARROWS = 4
"""Most arrows of one rollout in one tick."""

FORGET_REPLICA_S = 3600.0
FORGET_EVIDENCE_S = 7 * 86_400.0


class Controller:
    """Advances rollouts, one tick at a time.

    Args:
        store: The store with the rollouts, routes and replicas.
        holder: Name of this process in the lease; it must differ between processes.
        now: Replaces the database's clock in rehearsals.
    """

    def __init__(
        self, store: Store, holder: str, *, now: Callable[[], datetime] | None = None
    ) -> None:
        self.store = store
        self.holder = holder
        self.now = now
        self.lease: Lease | None = None
        self._logged_holds: set[str] = set()

    def tick(self) -> tuple[Move, ...]:
        """Advance every rollout by what the store shows now; a no-op without the lease.

        Raises:
            StoreError: when the store is away, or the lease was lost during the tick.
        """
        self.lease = acquire_lease(self.store, LEASE, self.holder, seconds=LEASE_S)
        if self.lease is None:
            return ()
        self._renew_and_prune(self.lease)
        moves, trouble = self._advance_all(self.lease)
        moves += self._fall_back(self.lease)
        for move in moves:
            move.log()
        if trouble is not None:
            raise trouble
        return tuple(moves)

    def step_down(self) -> None:
        """Release the lease, so that the next controller begins at once."""
        if self.lease is None:
            return
        try:
            release_lease(self.store, self.lease)
        except StoreError as error:
            log.warning("the controller's lease was not released and expires: %s", error)
        self.lease = None

    def _renew_and_prune(self, lease: Lease) -> None:
        """Renew the shares of challengers, and delete rows of replicas that died long ago."""
        with self.store.write() as connection:
            fence(connection, lease)
            restart_future_phases(connection, self._now(connection))
            for route in read_routes(connection):
                if route.challenger is not None:
                    renew_exposure(connection, route.service, seconds=EXPOSURE_S)
            forget_dead(connection, after=FORGET_REPLICA_S)
            forget_tallies(connection, after=FORGET_EVIDENCE_S)

    def _advance_all(self, lease: Lease) -> tuple[list[Move], StoreError | None]:
        """Advance every open rollout; a refused write does not hold up the other rollouts."""
        moves: list[Move] = []
        trouble: StoreError | None = None
        with self.store.read() as connection:
            rollouts = open_rollouts(connection)
        for row in rollouts:
            try:
                moves += self._advance(row, lease)
            except LeaseLost:
                raise
            except StoreError as error:
                trouble = error
        return moves, trouble

    def _advance(self, row: Rollout, lease: Lease) -> list[Move]:
        moves: list[Move] = []
        while len(moves) < MAX_ARROWS:
            snapshot, now = self._read_snapshot(row.id)
            if snapshot is None:
                break
            arrow = decide(snapshot, now)
            if arrow is None:
                self._log_hold(snapshot)
                break
            self._take_arrow(snapshot, arrow, lease, now)
            what = f"{row.id} {arrow.to}"
            moves.append(Move(row.service, what, arrow.reason, row.to_version))
        return moves

    def _log_hold(self, s: Snapshot) -> None:
        """Log once why a rollout is held."""
        why = reason_to_hold(s)
        if why is None:
            self._logged_holds.discard(s.rollout.id)
        elif s.rollout.id not in self._logged_holds:
            self._logged_holds.add(s.rollout.id)
            Move(s.route.service, s.rollout.id, why, s.rollout.to_version).log(logging.WARNING)

    def _read_snapshot(self, rollout_id: str) -> tuple[Snapshot | None, datetime]:
        with self.store.read() as connection:
            now = self._now(connection)
            rollouts = open_rollouts(connection)
            row = next((rollout for rollout in rollouts if rollout.id == rollout_id), None)
            route = None if row is None else read_route(connection, row.service)
            if row is None or route is None:
                return None, now
            return snapshot_of(connection, row, route, now), now

    def _take_arrow(self, s: Snapshot, arrow: Arrow, lease: Lease, now: datetime) -> None:
        with self.store.write() as connection:
            fence(connection, lease)
            move_rollout(connection, s.rollout, s.route, arrow, term=lease.term, at=now)
            update_rollout_alerts(connection, s.rollout, arrow, now)
            # A share that has just been given must count at once.
            renew_exposure(connection, s.route.service, seconds=EXPOSURE_S)

    def _fall_back(self, lease: Lease) -> list[Move]:
        """Replace every failing champion by its previous version or its baseline.

        Where a champion fails on requests alone, people are told instead.
        """
        moves = []
        for route, fallback, told, now in self._find_failing():
            with self.store.write() as connection:
                fence(connection, lease)
                if update_failing_requests_alert(connection, route, told, now):
                    log.warning("service=%s %s", route.service, told)
                if fallback is None:
                    continue
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
            moves.append(Move(route.service, "fall_back", fallback.reason, route.champion))
        return moves

    def _find_failing(self) -> list[tuple[Route, Fallback | None, str | None, datetime]]:
        """Find champions to replace, and what to tell of those that fail on requests alone.

        An open rollout of the service is undone first.
        """
        with self.store.read() as connection:
            now = self._now(connection)
            busy = {rollout.service for rollout in open_rollouts(connection)}
            replicas = _without_draining(live_replicas(connection))
            failing = []
            for route in read_routes(connection):
                trials = _read_champion_trials(connection, route)
                told, fallback = explain_requests(route, trials), None
                if route.service not in busy:
                    previous = route.previous_champion
                    statuses = {} if previous is None else status_of(connection, {previous})
                    fallback = decide_fallback(
                        route,
                        _on_newest_route(route, replicas),
                        trials,
                        previous_status=statuses.get(previous or ""),
                    )
                if fallback or told or has_failing_requests_alert(connection, route):
                    failing.append((route, fallback, told, now))
            return failing

    def _now(self, connection: Connection) -> datetime:
        return store_time(connection) if self.now is None else self.now()


def controller_loop(controller: Controller) -> Repeated:
    """The loop that ticks a controller, and frees its lease at the end."""
    return Repeated(
        "controller", TICK_S, controller.tick, at_once=False, at_end=controller.step_down
    )


def snapshot_of(connection: Connection, row: Rollout, route: Route, now: datetime) -> Snapshot:
    """Read what `decide` needs to know of a rollout, in one transaction.

    Args:
        connection: The caller's transaction.
        row: The rollout.
        route: The route of its service.
        now: The time of the store, or of the rehearsal.
    """
    replicas = live_replicas(connection)
    promoted = row.phase is Phase.PROMOTED
    # Rows from an earlier time as champion were last written before this promotion.
    age = (now - row.since).total_seconds()
    scope = champion_scope(route.champion)
    recent = read_tallies(connection, row.service, scope, newer_than_s=age)
    failing = None
    if not promoted:
        serving = _on_newest_route(route, _without_draining(replicas))
        failing = champion_failing(route, serving, _read_champion_trials(connection, route))
    return Snapshot(
        rollout=row,
        plan=RolloutPlan.from_dict(row.plan),
        route=route,
        replicas=replicas,
        evidence=gather_evidence(
            read_tallies(connection, row.service, row.id), recent if promoted else ()
        ),
        statuses=status_of(connection, {row.to_version, route.champion}),
        champion_failing=failing,
        short_requests=count_short_requests(
            read_tallies(connection, row.service, dealt_scope(row.id), newer_than_s=WINDOW_S)
        ),
    )


def _without_draining(replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    return tuple(replica for replica in replicas if replica.state is not ReplicaState.DRAINING)


def _on_newest_route(route: Route, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    return tuple(
        replica
        for replica in replicas
        if replica.generations.get(route.service) == route.generation
    )


def _read_champion_trials(connection: Connection, route: Route) -> ChampionTrials:
    scope = champion_scope(route.champion)
    tallies = read_tallies(connection, route.service, scope, newer_than_s=WINDOW_S)
    return ChampionTrials(count_champion_trials(tallies), count_own_trials(tallies))
