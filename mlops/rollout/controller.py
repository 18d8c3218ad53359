"""The controller: advances every open rollout, in the one process that holds its lease.

A controller keeps no state between two ticks. A tick reads the store, decides, and writes one
transaction for each arrow, fenced by the term of its lease. So a controller may die, or stall past
its lease, between any two statements: the next controller goes on from the rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from mlops.alerts.conditions import (
    raise_champion_failed,
    update_failing_requests_alert,
    update_rollout_alerts,
)
from mlops.background import Repeated
from mlops.errors import LeaseLost, MlopsError, StoreError
from mlops.rollout.decide import decide, reason_to_hold
from mlops.rollout.fallback import (
    Fallback,
    Move,
    decide_fallback,
    explain_requests,
    return_to_baseline,
)
from mlops.rollout.reading import Reading, read_rollouts
from mlops.rollout.snapshot import Snapshot
from mlops.rollout.wishes import begin_shadow_again, decide_wish
from mlops.store import Phase, Rollout, Route, Store, audit
from mlops.store.engine import Connection
from mlops.store.leases import Lease, acquire_lease, fence, release_lease
from mlops.store.replicas import forget_dead
from mlops.store.request_counts import forget_tallies
from mlops.store.rollouts import Arrow, move_rollout, restart_future_phases
from mlops.store.routes import change_route, renew_exposure
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

ARROWS_S = 2.0
"""A tick takes arrows for at most so long, so that neither lease nor shares expire during it."""

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

        Its cost grows with the number of rollouts, not with its square: all of them are read
        together, and again only where some have moved.

        Raises:
            StoreError: when the store is away, or the lease was lost during the tick.
            MlopsError: the last trouble of a rollout; the others have been advanced.
        """
        self.lease = acquire_lease(self.store, LEASE, self.holder, seconds=LEASE_S)
        if self.lease is None:
            return ()
        self._renew_and_prune(self.lease)
        reading, moves, trouble = self._advance_all(self.lease)
        moves += self._fall_back(reading, self.lease)
        for move in moves:
            move.log()
        moves += self._make_up_for_returns(reading, moves)
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
            renew_exposure(connection, seconds=EXPOSURE_S)
            forget_dead(connection, after=FORGET_REPLICA_S)
            forget_tallies(connection, after=FORGET_EVIDENCE_S)

    def _advance_all(self, lease: Lease) -> tuple[Reading, list[Move], MlopsError | None]:
        """Advance every rollout, in rounds: those that moved are decided anew on a new reading.

        A rollout that cannot be decided or written does not hold up the other rollouts. What is
        left after `ARROWS_S` is for the next tick, which renews the lease and all shares first.
        """
        reading, moves = self._read(), list[Move]()
        trouble: MlopsError | None = None
        due = {row.id for row in reading.rollouts}
        end = time.monotonic() + ARROWS_S
        for _ in range(MAX_ARROWS):
            moved = set()
            for row in reading.rollouts:
                if row.id not in due or time.monotonic() > end:
                    continue
                try:
                    move = self._advance(row, reading, lease)
                except LeaseLost:
                    raise
                except MlopsError as error:
                    trouble = error
                    continue
                if move is not None:
                    moves.append(move)
                    moved.add(row.id)
            if not moved:
                break
            reading, due = self._read(), moved
        return reading, moves, trouble

    def _advance(self, row: Rollout, reading: Reading, lease: Lease) -> Move | None:
        """Take the next arrow of a rollout, if there is one."""
        route = reading.routes[row.service]
        if row.phase is Phase.WAITING:
            busy = row.service in reading.busy
            arrow = decide_wish(row, route, reading.statuses, busy=busy)
        else:
            snapshot = reading.snapshot_of(row)
            arrow = decide(snapshot, reading.now)
            if arrow is None:
                self._log_hold(snapshot)
        if arrow is None:
            return None
        self._take_arrow(row, route, arrow, lease, reading.now)
        return Move(row.service, f"{row.id} {arrow.to}", arrow.reason, row.to_version)

    def _log_hold(self, s: Snapshot) -> None:
        """Log once why a rollout is held."""
        why = reason_to_hold(s)
        if why is None:
            self._logged_holds.discard(s.rollout.id)
        elif s.rollout.id not in self._logged_holds:
            self._logged_holds.add(s.rollout.id)
            Move(s.route.service, s.rollout.id, why, s.rollout.to_version).log(logging.WARNING)

    def _read(self) -> Reading:
        with self.store.read() as connection:
            return read_rollouts(connection, self._now(connection))

    def _take_arrow(
        self, row: Rollout, route: Route, arrow: Arrow, lease: Lease, now: datetime
    ) -> None:
        with self.store.write() as connection:
            fence(connection, lease)
            move_rollout(connection, row, route, arrow, term=lease.term, at=now)
            update_rollout_alerts(connection, row, arrow, now)
            if arrow.to.final:
                begin_shadow_again(connection, row.service, now)
            if arrow.route is not None:
                # A share that has just been given must count at once.
                renew_exposure(connection, route.service, seconds=EXPOSURE_S)

    def _fall_back(self, reading: Reading, lease: Lease) -> list[Move]:
        """Replace every failing champion by its previous version or its baseline.

        Where a champion fails on requests alone, people are told instead.
        """
        moves, now = [], reading.now
        for route, fallback, told in self._find_failing(reading):
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

    def _find_failing(self, reading: Reading) -> list[tuple[Route, Fallback | None, str | None]]:
        """Find champions to replace, and what to tell of those that fail on requests alone.

        An open rollout of the service is undone first.
        """
        failing = []
        for route in reading.routes.values():
            trials = reading.champion_trials(route)
            told, fallback = explain_requests(route, trials), None
            if route.service not in reading.busy:
                fallback = decide_fallback(
                    route,
                    reading.serving_replicas,
                    trials,
                    previous_status=reading.statuses.get(route.previous_champion or ""),
                )
            if fallback or told or route.service in reading.told_of_requests:
                failing.append((route, fallback, told))
        return failing

    def _make_up_for_returns(self, reading: Reading, moves: Sequence[Move]) -> list[Move]:
        """Return services to their baseline whose return waited for a rollout that has ended.

        It comes before the next tick, which may begin the rollout that waits.
        """
        freed = {move.service for move in moves} - reading.busy
        return [
            back
            for service in sorted(freed)
            for back in return_to_baseline(self.store, service, now=self.now and self.now())
        ]

    def _now(self, connection: Connection) -> datetime:
        return store_time(connection) if self.now is None else self.now()


def controller_loop(controller: Controller) -> Repeated:
    """The loop that ticks a controller, and frees its lease at the end."""
    return Repeated(
        "controller", TICK_S, controller.tick, at_once=False, at_end=controller.step_down
    )
