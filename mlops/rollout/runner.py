"""Holds the controller's role for as long as something is to be carried on, and then steps down."""

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
from mlops.rollout.controller import LEASE_S, TICK_S, Controller, snapshot_of
from mlops.rollout.decide import Snapshot
from mlops.rollout.fallback import Move
from mlops.store.engine import Store
from mlops.store.rollouts import Rollout, RolloutEvent, get_rollout, list_events, open_rollouts
from mlops.store.routes import read_route
from mlops.store.schema import Phase
from mlops.store.sql import store_time

log = logging.getLogger(__name__)

STORE_AWAY_S = 600.0
"""So long a store that does not answer is waited for."""


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """A rollout while it is followed: its path so far, and what the evidence says now."""

    rollout: Rollout
    events: tuple[RolloutEvent, ...]
    verdict: Verdict | None


def no_op() -> None:
    """What is done before a tick where nothing is."""


@dataclass
class RolloutRunner:
    """Ticks; ``holder`` says who it is, ``stop`` ends it between two ticks.

    ``before`` is called before each tick. Where another process holds the role, that one acts
    and this one looks on.
    """

    store: Store
    holder: str
    stop: threading.Event = field(default_factory=threading.Event)
    before: Callable[[], object] = no_op
    tick_s: float = TICK_S

    def follow(
        self, rollout_id: str, tell: Callable[[RolloutProgress], object] = lambda seen: None
    ) -> Rollout:
        """Carry on until this rollout has ended, or ``stop``; ``tell`` hears of it at each tick.

        Raises:
            RolloutError: when there is no such rollout.
            StoreError: when the store has been away for ten minutes.
        """
        latest = get_rollout(self.store, rollout_id)

        def ended(_: Controller, moved: tuple[Move, ...]) -> bool:
            nonlocal latest
            seen = read_progress(self.store, rollout_id)
            tell(seen)
            latest = seen.rollout
            return latest.phase.final

        self._tick_until(ended)
        return latest

    def carry_open(self, *, seconds: float) -> tuple[Move, ...]:
        """Carry on whatever is open that nobody else does, for so long at most; at least one tick.

        Raises:
            StoreError: when the store has been away for ten minutes.
        """
        began, taken = time.monotonic(), list[Move]()
        held = began

        def ended(controller: Controller, moved: tuple[Move, ...]) -> bool:
            nonlocal held
            taken.extend(moved)
            now = time.monotonic()
            held = held if controller.lease is None else now
            # A lease that is not ours may be one of a process that has just died.
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
            _step_down(controller)


def read_progress(store: Store, rollout_id: str) -> RolloutProgress:
    """A rollout as it stands; the verdict is None once it has ended.

    Raises:
        RolloutError: when there is no such rollout.
    """
    row = get_rollout(store, rollout_id)
    verdict = None
    if not row.phase.final:
        with store.read() as connection:
            route = read_route(connection, row.service)
            if route is not None:
                verdict = _verdict(snapshot_of(connection, row, route, store_time(connection)))
    return RolloutProgress(row, list_events(store, rollout_id), verdict)


def _verdict(s: Snapshot) -> Verdict:
    if s.rollout.phase is Phase.PROMOTED:
        return judge_version(s.evidence.promoted, max_fault_rate=s.plan.max_fault_rate)
    return s.verdict


def list_unfinished(store: Store) -> tuple[Rollout, ...]:
    """Every rollout that has not ended, oldest first."""
    with store.read() as connection:
        return open_rollouts(connection)


def unique_holder_name(name: str) -> str:
    """A holder's name that no other process, and no other life of this one, has."""
    return f"{name}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def _step_down(controller: Controller) -> None:
    try:
        controller.step_down()
    except StoreError as error:
        # The lease runs out by itself.
        log.warning("the controller's role was not given back: %s", error)
