"""Runs a controller until a rollout, or all open rollouts, have ended; then frees its lease."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlops.errors import StoreError
from mlops.rollout.analysis import Verdict, judge_version
from mlops.rollout.controller import LEASE_S, TICK_S, Controller
from mlops.rollout.decide import reason_to_hold
from mlops.rollout.fallback import Move
from mlops.rollout.reading import read_rollouts
from mlops.store import Phase, Rollout, RolloutEvent, Store, get_rollout, list_events
from mlops.store.rollouts import open_rollouts, waiting_rollouts
from mlops.store.sql import store_time

log = logging.getLogger(__name__)

STORE_AWAY_S = 600.0
"""A store that is away is tried again for so long."""


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """A rollout, its events so far, and the verdict on its version now (None at its end).

    ``held`` says why the rollout does not go on, whatever the verdict; None while it may.
    """

    rollout: Rollout
    events: tuple[RolloutEvent, ...]
    verdict: Verdict | None
    held: str | None = None


def no_op() -> None:
    """The default ``before`` hook: does nothing."""


@dataclass
class RolloutRunner:
    """Ticks a controller; while another process holds the lease, that process acts.

    ``holder`` names this process in the lease, ``stop`` ends the loop between two ticks, and
    ``before`` is called before each tick.
    """

    store: Store
    holder: str
    stop: threading.Event = field(default_factory=threading.Event)
    before: Callable[[], object] = no_op
    tick_s: float = TICK_S

    def follow(
        self, rollout_id: str, tell: Callable[[RolloutProgress], object] = lambda progress: None
    ) -> Rollout:
        """Tick until this rollout has ended, or ``stop`` is set.

        Args:
            rollout_id: The rollout.
            tell: Called with the progress after each tick.

        Raises:
            RolloutError: when there is no such rollout.
            StoreError: when the store has been away for ten minutes.
        """
        latest = get_rollout(self.store, rollout_id)

        def ended(_: Controller, moves: tuple[Move, ...]) -> bool:
            nonlocal latest
            progress = read_progress(self.store, rollout_id)
            tell(progress)
            latest = progress.rollout
            return latest.phase.final

        self._tick_until(ended)
        return latest

    def run_open_rollouts(self, *, seconds: float) -> tuple[Move, ...]:
        """Tick until no rollout is open, or ``seconds`` have passed; at least once.

        It ends early when another process has held the lease for `LEASE_S`: that process acts.

        Raises:
            StoreError: when the store has been away for ten minutes.
        """
        began, taken = time.monotonic(), list[Move]()
        held = began

        def ended(controller: Controller, moves: tuple[Move, ...]) -> bool:
            nonlocal held
            taken.extend(moves)
            now = time.monotonic()
            held = held if controller.lease is None else now
            # The lease of another process may be left over from one that has just died.
            elsewhere = now - held > LEASE_S
            return elsewhere or now - began >= seconds or not list_unfinished(self.store)

        self._tick_until(ended)
        return tuple(taken)

    def _tick_until(self, ended: Callable[[Controller, tuple[Move, ...]], bool]) -> None:
        controller = Controller(self.store, unique_holder_name(self.holder))
        away_since: float | None = None
        try:
            while not self.stop.is_set():
                try:
                    self.before()
                    if ended(controller, controller.tick()):
                        return
                    away_since = None
                except StoreError as error:
                    away_since = away_since or time.monotonic()
                    if time.monotonic() - away_since > STORE_AWAY_S:
                        raise
                    log.warning("trying again: %s", error)
                self.stop.wait(self.tick_s)
        finally:
            controller.step_down()


def read_progress(store: Store, rollout_id: str) -> RolloutProgress:
    """Read a rollout, its events and, while it is open, the verdict and why it is held.

    Raises:
        RolloutError: when there is no such rollout.
    """
    row = get_rollout(store, rollout_id)
    verdict = held = None
    if row.phase is Phase.WAITING:
        held = row.reason
    elif not row.phase.final:
        with store.read() as connection:
            reading = read_rollouts(connection, store_time(connection), row.service)
        s = reading.snapshot_of(row)
        verdict, held = s.verdict, reason_to_hold(s)
        if row.phase is Phase.PROMOTED:
            verdict = judge_version(s.evidence.promoted, max_fault_rate=s.plan.max_fault_rate)
    return RolloutProgress(row, list_events(store, rollout_id), verdict, held)


def list_unfinished(store: Store) -> tuple[Rollout, ...]:
    """Every rollout that has not ended, oldest first, and then those that wait to begin."""
    with store.read() as connection:
        return (*open_rollouts(connection), *waiting_rollouts(connection))


def unique_holder_name(name: str) -> str:
    """A holder's name that no other process has, nor this one after a restart."""
    return f"{name}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
