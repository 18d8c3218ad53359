"""Leases: a name that one process holds at a time, with a holder, a fencing term and an end.

    free -> held(term) -> renewed(term) ... -> released or expired -> held(term + 1) by the next

The term grows with each new holder. `fence` refuses a transaction once another holder has come,
however late the old holder wakes up (Kleppmann 2016, "How to do distributed locking").

The clock decides only when a lease is free, the term who may write. A lease is held while
``now < until <= now + seconds``. So a clock that is set back frees it at once, and one that is set
forward lets a second holder in, whose term rejects the first.

`exclusive` runs a block under a lease that a thread renews. If the holder dies, another process
gets the lease after `LEASE_S`. A holder that stalled past its lease is rejected at commit by
`require_held`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from mlops.errors import LeaseLost, StoreError, TrainingTimeout
from mlops.store.engine import Connection, Store
from mlops.store.schema import lease
from mlops.store.sql import db_now, insert_new, is_held

log = logging.getLogger(__name__)

LEASE_S = 90.0
"""A killed run keeps others waiting for at most so long."""

POLL_S = 2.0
"""How often a waiting run asks whether the lease is free."""

LONGEST_S = 600.0
"""Longest term of a lease that was taken by a release that did not yet write ``seconds``."""

NOBODY = ""
"""The holder of a lease that was released."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was acquired; ``term`` is its fencing token."""

    name: str
    holder: str
    term: int


def acquire_lease(store: Store, name: str, holder: str, *, seconds: float) -> Lease | None:
    """Acquire or renew a lease for ``seconds``; None while another process holds it."""
    with store.write() as connection:
        current = connection.execute(
            sa.select(lease.c.holder, lease.c.term, _held().label("held"))
            .where(lease.c.name == name)
            .with_for_update()
        ).first()
        if current is None:
            row = {"name": name, "holder": holder, "term": 1, **_taken_for(seconds)}
            return Lease(name, holder, 1) if insert_new(connection, lease, [row]) else None
        mine = current.holder == holder and current.held
        if current.held and not mine:
            return None
        term = current.term if mine else current.term + 1
        connection.execute(
            lease.update()
            .where(lease.c.name == name)
            .values(holder=holder, term=term, **_taken_for(seconds))
        )
    return Lease(name, holder, term)


def renew_lease(store: Store, held: Lease, *, seconds: float) -> bool:
    """Renew a lease, even one that ran out; False if another process has held it since."""
    with store.write() as connection:
        renewed = connection.execute(
            lease.update().where(*_matches(held)).values(**_taken_for(seconds))
        )
    return renewed.rowcount == 1


@contextmanager
def renewing(renew: Callable[[], bool], *, every_s: float) -> Iterator[None]:
    """Call ``renew`` in a thread while the block runs, until ``renew`` returns False."""
    finished = threading.Event()

    def renew_until_finished() -> None:
        while not finished.wait(every_s) and renew():
            pass

    thread = threading.Thread(target=renew_until_finished, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def was_ever_held(store: Store, name: str) -> bool:
    """Whether any process ever held the lease."""
    with store.read() as connection:
        query = sa.select(lease.c.name).where(lease.c.name == name)
        return connection.execute(query).first() is not None


def release_lease(store: Store, held: Lease) -> None:
    """End a lease now, so that the next holder need not wait until it expires."""
    with store.write() as connection:
        ended = {"holder": NOBODY, "until": db_now()}
        connection.execute(lease.update().where(*_matches(held)).values(**ended))


def fence(connection: sa.Connection, held: Lease) -> None:
    """Refuse the caller's transaction unless the lease is still held.

    Raises:
        LeaseLost: when the lease expired or another process holds it.
    """
    _require_row(connection, held, _held())


def require_held(connection: sa.Connection, held: Lease) -> None:
    """Refuse the caller's transaction if another process has held the lease since.

    A lease that ran out unseen still counts: unlike `fence`, it does not ask the clock, which
    may have been set while hours of work were done under the lease.

    Raises:
        LeaseLost: when another process has held the lease, or it was released.
    """
    _require_row(connection, held)


@contextmanager
def exclusive(
    store: Store,
    name: str,
    holder: str,
    *,
    timeout_s: float,
    tell: Callable[[str], object] = log.info,
) -> Iterator[Lease]:
    """Wait for the lease of ``name``, and hold it while the block runs.

    Args:
        store: The store.
        name: What only one process may do at a time.
        holder: Shown to those that wait; it must differ between runs.
        timeout_s: How long to wait.
        tell: Called with a text when the wait begins, and when the holder changes.

    Raises:
        TrainingTimeout: when the lease is not free after ``timeout_s``.
        StoreError: when the store is away while waiting.
    """
    with _keeping(
        store, _wait_for_lease(store, name, holder, timeout_s=timeout_s, tell=tell)
    ) as held:
        yield held


@contextmanager
def exclusive_if_free(store: Store, name: str, holder: str) -> Iterator[Lease | None]:
    """Hold the lease of ``name`` while the block runs; None while another process holds it.

    Args:
        store: The store.
        name: What only one process may do at a time.
        holder: Shown to those that wait; it must differ between runs.

    Raises:
        StoreError: when the store is away.
    """
    held = acquire_lease(store, name, holder, seconds=LEASE_S)
    if held is None:
        yield None
        return
    with _keeping(store, held):
        yield held


def current_holder(store: Store, name: str) -> str | None:
    """The holder of the lease now; None if it is free."""
    with store.read() as connection:
        query = sa.select(lease.c.holder).where(lease.c.name == name, _held())
        return connection.execute(query).scalar()


def held_names(connection: Connection) -> frozenset[str]:
    """The names of all leases that are held now."""
    return frozenset(connection.execute(sa.select(lease.c.name).where(_held())).scalars())


def read_held_terms(connection: Connection) -> dict[str, int]:
    """The term of each lease that is held now, by the lease's name."""
    rows = connection.execute(sa.select(lease.c.name, lease.c.term).where(_held()))
    return {row.name: row.term for row in rows}


def _held() -> sa.ColumnElement[bool]:
    return is_held(lease.c.until, sa.func.coalesce(lease.c.seconds, LONGEST_S))


def _taken_for(seconds: float) -> dict[str, object]:
    return {"until": db_now() + seconds, "seconds": seconds}


def _matches(held: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        lease.c.name == held.name,
        lease.c.holder == held.holder,
        lease.c.term == held.term,
    )


def _require_row(connection: Connection, held: Lease, *conditions: sa.ColumnElement[bool]) -> None:
    query = sa.select(lease.c.term).where(*_matches(held), *conditions).with_for_update()
    if connection.execute(query).first() is None:
        raise LeaseLost(held.name, held.term)


@contextmanager
def _keeping(store: Store, held: Lease) -> Iterator[Lease]:
    """Renew a lease while the block runs, and release it then."""
    try:
        with renewing(partial(_renew, store, held), every_s=LEASE_S / 3):
            yield held
    finally:
        # If the store is away the lease expires by itself.
        with suppress(StoreError):
            release_lease(store, held)


def _wait_for_lease(
    store: Store, name: str, holder: str, *, timeout_s: float, tell: Callable[[str], object]
) -> Lease:
    end, announced = time.monotonic() + timeout_s, None
    while True:
        # Read first: a write would wait for the writes of the holder.
        other = current_holder(store, name)
        if other is None:
            held = acquire_lease(store, name, holder, seconds=LEASE_S)
            if held is not None:
                return held
            continue
        if other != announced:
            tell(f"{name} waits for {other}")
            announced = other
        if time.monotonic() > end:
            raise TrainingTimeout(
                f"{name} waited {timeout_s:,.0f} s for {other}, which still works; see what holds "
                "it up, or raise TRAINING_JOB_TIMEOUT_HOURS"
            )
        time.sleep(POLL_S)


def _renew(store: Store, held: Lease) -> bool:
    """Renew the lease; False if another run has held it meanwhile."""
    try:
        renewed = renew_lease(store, held, seconds=LEASE_S)
    except StoreError as error:
        log.warning("%s: the lease was not renewed: %s", held.name, error)
        return True
    if not renewed:
        log.warning("%s was not renewed in time: another run has held the lease", held.name)
    return renewed
