"""Roles held by one process at a time: a lease has a holder, a term and an end.

The term grows with each new holder. A write that names its term is refused once another holder
has come, however late the old one wakes up: a paused process cannot act on what it knew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from mlops.errors import LeaseLost
from mlops.store.dialects import insert_new
from mlops.store.engine import Store
from mlops.store.schema import lease
from mlops.store.sql import db_now


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


def is_known(store: Store, name: str) -> bool:
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
