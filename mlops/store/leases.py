"""Roles held by one process at a time: a lease has a holder, a term and an end.

The term grows with each new holder. A write that names its term is refused once another holder
has come, however late the old one wakes up: a paused process cannot act on what it knew.

[[Taking turns: work of one name is done by one run at a time, whichever process it is in.

A turn is a lease that a thread renews. Who is killed can renew no more, and the next one's turn
comes within `LEASE_S`. Who only slept, and wakes when another one had its turn, is refused by
`require_held` when it wants to write what it made.]]
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
from mlops.store.sql import db_now, insert_new


@dataclass(frozen=True, slots=True)
class Lease:
    """A role held for now."""

    name: str
    holder: str
    term: int


def acquire(store: Store, name: str, holder: str, *, seconds: float) -> Lease | None:
    """Take the role, or keep it for ``seconds`` more; None while another process holds it."""
    with store.write() as connection:
        row = connection.execute(
            sa.select(lease.c.holder, lease.c.term, (lease.c.until > db_now()).label("held"))
            .where(lease.c.name == name)
            .with_for_update()
        ).first()
        if row is None:
            return _first(connection, name, holder, seconds)
        mine = row.holder == holder and row.held
        if row.held and not mine:
            return None
        term = row.term if mine else row.term + 1
        connection.execute(
            lease.update()
            .where(lease.c.name == name)
            .values(holder=holder, term=term, until=db_now() + seconds)
        )
    return Lease(name, holder, term)


@contextmanager
def renewing(renew: Callable[[], bool], *, every_s: float) -> Iterator[None]:
    """Call ``renew`` in a thread while the block works, until it says that there is no more to."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(every_s) and renew():
            pass

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def was_ever_held(store: Store, name: str) -> bool:
    """Whether anybody ever held the role."""
    with store.read() as connection:
        query = sa.select(lease.c.name).where(lease.c.name == name)
        return connection.execute(query).first() is not None


def release(store: Store, held: Lease) -> None:
    """Give the role back at once, so that the next holder need not wait for its end."""
    with store.write() as connection:
        connection.execute(lease.update().where(*_still(held)).values(until=db_now()))


def fence(connection: sa.Connection, held: Lease) -> None:
    """Refuse the caller's transaction unless the role is still held.

    Raises:
        LeaseLost: when it ran out or another process holds it.
    """
    row = connection.execute(
        sa.select(lease.c.term).where(*_still(held), lease.c.until > db_now()).with_for_update()
    ).first()
    if row is None:
        raise LeaseLost(held.name, held.term)


def _still(held: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        lease.c.name == held.name,
        lease.c.holder == held.holder,
        lease.c.term == held.term,
    )


def _first(connection: sa.Connection, name: str, holder: str, seconds: float) -> Lease | None:
    row = {"name": name, "holder": holder, "term": 1, "until": db_now() + seconds}
    return Lease(name, holder, 1) if insert_new(connection, lease, [row]) else None


log = logging.getLogger(__name__)

LEASE_S = 90.0
"""So long a killed run keeps others waiting, at most."""

LOOK_S = 2.0


@dataclass(slots=True)
class HeldLease:
    """A turn that is held for now; its lease gets a new term where it ran out unnoticed."""

    lease: Lease


@contextmanager
def exclusive(
    store: Store,
    name: str,
    holder: str,
    *,
    timeout_s: float,
    tell: Callable[[str], object] = log.info,
) -> Iterator[HeldLease]:
    """Wait until nobody holds ``name``, and hold it for as long as the block works.

    ``holder`` is what the others are told they wait for; it must differ between runs.

    Raises:
        TrainingTimeout: when the turn has not come after ``timeout_s``.
        StoreError: when the store is away while waiting.
    """
    held = HeldLease(_wait(store, name, holder, timeout_s=timeout_s, tell=tell))
    try:
        with renewing(partial(_renew, store, held), every_s=LEASE_S / 3):
            yield held
    finally:
        # Where the store is away the lease runs out by itself.
        with suppress(StoreError):
            release(store, held.lease)


def require_held(connection: Connection, held: HeldLease) -> None:
    """Refuse the caller's transaction where another one had its turn meanwhile.

    Raises:
        LeaseLost: then; what was made must not be kept.
    """
    fence(connection, held.lease)


def current_holder(store: Store, name: str) -> str | None:
    """Who has the turn now."""
    with store.read() as connection:
        query = sa.select(lease.c.holder).where(lease.c.name == name, lease.c.until > db_now())
        return connection.execute(query).scalar()


def _wait(
    store: Store, name: str, holder: str, *, timeout_s: float, tell: Callable[[str], object]
) -> Lease:
    end, told = time.monotonic() + timeout_s, None
    while True:
        # Looking first: a write would wait for the writes of the one who works.
        other = current_holder(store, name)
        if other is None:
            held = acquire(store, name, holder, seconds=LEASE_S)
            if held is not None:
                return held
            continue
        if other != told:
            tell(f"{name} waits for {other}")
            told = other
        if time.monotonic() > end:
            raise TrainingTimeout(
                f"{name} waited {timeout_s:,.0f} s for {other}, which still works; see what holds "
                "it up, or raise TRAINING_JOB_TIMEOUT_HOURS"
            )
        time.sleep(LOOK_S)


def _renew(store: Store, held: HeldLease) -> bool:
    """Whether the turn goes on."""
    old = held.lease
    try:
        new = acquire(store, old.name, old.holder, seconds=LEASE_S)
    except StoreError as error:
        log.warning("%s the turn was not renewed: %s", old.name, error)
        return True
    # Each holder's term is one more: where two were added, another one had its turn.
    if new is None or new.term > old.term + 1:
        log.warning("%s was silent too long: another run had its turn", old.name)
        if new is not None:
            release(store, new)
        return False
    held.lease = new
    return True
