"""Taking turns: work of one name is done by one run at a time, whichever process it is in.

A turn is a lease that a thread renews. Who is killed can renew no more, and the next one's turn
comes within `LEASE_S`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

from mlops.errors import StoreError, TrainingTimeout
from mlops.store.clock import db_now
from mlops.store.engine import Store
from mlops.store.leases import Lease, acquire, release
from mlops.store.schema import lease

log = logging.getLogger(__name__)

LEASE_S = 90.0
"""So long a killed run keeps others waiting, at most."""

LOOK_S = 2.0


@contextmanager
def turn(
    store: Store,
    name: str,
    holder: str,
    *,
    timeout_s: float,
    tell: Callable[[str], object] = log.info,
) -> Iterator[None]:
    """Wait until nobody holds ``name``, and hold it for as long as the block works.

    ``holder`` is what the others are told they wait for; it must differ between runs.

    Raises:
        TrainingTimeout: when the turn has not come after ``timeout_s``.
        StoreError: when the store is away while waiting.
    """
    held = _wait(store, name, holder, timeout_s=timeout_s, tell=tell)
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(store, held, over), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        # Where the store is away the lease runs out by itself.
        with suppress(StoreError):
            release(store, held)


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


def _keep(store: Store, held: Lease, over: threading.Event) -> None:
    while not over.wait(LEASE_S / 3):
        try:
            if acquire(store, held.name, held.holder, seconds=LEASE_S) is None:
                log.warning("%s was silent too long: another run has its turn", held.name)
                return
        except StoreError as error:
            log.warning("%s the turn was not renewed: %s", held.name, error)
