"""Taking turns: work of one name is done by one run at a time, whichever process it is in.

A turn is a lease that a thread renews. Who is killed can renew no more, and the next one's turn
comes within `LEASE_S`. Who only slept, and wakes when another one had its turn, is refused by
`still` when it wants to write what it made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from mlops.errors import StoreError, TrainingTimeout
from mlops.store.engine import Connection, Store
from mlops.store.leases import Lease, acquire, fence, release, renewing
from mlops.store.schema import lease
from mlops.store.sql import db_now

log = logging.getLogger(__name__)

LEASE_S = 90.0
"""So long a killed run keeps others waiting, at most."""

LOOK_S = 2.0


@dataclass(slots=True)
class Turn:
    """A turn that is held for now; its lease gets a new term where it ran out unnoticed."""

    lease: Lease


@contextmanager
def turn(
    store: Store,
    name: str,
    holder: str,
    *,
    timeout_s: float,
    tell: Callable[[str], object] = log.info,
) -> Iterator[Turn]:
    """Wait until nobody holds ``name``, and hold it for as long as the block works.

    ``holder`` is what the others are told they wait for; it must differ between runs.

    Raises:
        TrainingTimeout: when the turn has not come after ``timeout_s``.
        StoreError: when the store is away while waiting.
    """
    held = Turn(_wait(store, name, holder, timeout_s=timeout_s, tell=tell))
    try:
        with renewing(partial(_renew, store, held), every_s=LEASE_S / 3):
            yield held
    finally:
        # Where the store is away the lease runs out by itself.
        with suppress(StoreError):
            release(store, held.lease)


def still(connection: Connection, held: Turn) -> None:
    """Refuse the caller's transaction where another one had its turn meanwhile.

    Raises:
        LeaseLost: then; what was made must not be kept.
    """
    fence(connection, held.lease)


def holder_of(store: Store, name: str) -> str | None:
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
        other = holder_of(store, name)
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


def _renew(store: Store, held: Turn) -> bool:
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
