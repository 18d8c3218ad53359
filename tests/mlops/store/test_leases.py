"""A role has one holder at a time; whoever lost it is refused, however late it wakes up."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
import sqlalchemy as sa

from mlops.errors import LeaseLost
from mlops.store import Store, open_store
from mlops.store.clock import db_now
from mlops.store.leases import Lease, acquire, fence, release, renewing
from mlops.store.schema import lease

ROLE = "controller"


def end(store: Store) -> None:
    """Let the holder's time run out."""
    with store.write() as connection:
        connection.execute(lease.update().values(until=db_now() - 0.001))


def left(store: Store) -> float:
    with store.read() as connection:
        return float(connection.execute(sa.select(lease.c.until - db_now())).scalar_one())


def check(store: Store, held: Lease) -> None:
    with store.write() as connection:
        fence(connection, held)


def test_the_first_to_ask_gets_the_role(store: Store) -> None:
    assert acquire(store, ROLE, "one", seconds=60) == Lease(ROLE, "one", 1)
    assert acquire(store, ROLE, "two", seconds=60) is None
    assert 59 < left(store) <= 60


def test_the_holder_keeps_its_term_when_it_renews(store: Store) -> None:
    first = acquire(store, ROLE, "one", seconds=10)
    assert acquire(store, ROLE, "one", seconds=60) == first
    assert left(store) > 50


def test_each_new_holder_has_a_higher_term(store: Store) -> None:
    acquire(store, ROLE, "one", seconds=60)
    end(store)
    assert acquire(store, ROLE, "two", seconds=60) == Lease(ROLE, "two", 2)
    end(store)
    assert acquire(store, ROLE, "one", seconds=60) == Lease(ROLE, "one", 3)


def test_a_holder_whose_time_ran_out_begins_a_new_term(store: Store) -> None:
    """It may have slept while another one came and went."""
    first = acquire(store, ROLE, "one", seconds=60)
    assert first is not None
    end(store)
    assert acquire(store, ROLE, "one", seconds=60) == Lease(ROLE, "one", 2)
    with pytest.raises(LeaseLost):
        check(store, first)


def test_a_role_that_is_given_back_is_free_at_once(store: Store) -> None:
    held = acquire(store, ROLE, "one", seconds=60)
    assert held is not None
    release(store, held)
    assert acquire(store, ROLE, "two", seconds=60) == Lease(ROLE, "two", 2)


def test_giving_back_what_another_one_holds_changes_nothing(store: Store) -> None:
    old = acquire(store, ROLE, "one", seconds=60)
    assert old is not None
    end(store)
    new = acquire(store, ROLE, "two", seconds=60)
    assert new is not None
    release(store, old)
    check(store, new)


def test_roles_are_held_apart(store: Store) -> None:
    acquire(store, ROLE, "one", seconds=60)
    assert acquire(store, "feed", "two", seconds=60) == Lease("feed", "two", 1)


@pytest.mark.parametrize("why", ["it ran out", "another came", "it was given back"])
def test_the_fence_stops_whoever_lost_the_role(store: Store, why: str) -> None:
    held = acquire(store, ROLE, "one", seconds=60)
    assert held is not None
    check(store, held)
    if why == "it was given back":
        release(store, held)
    else:
        end(store)
    if why == "another came":
        acquire(store, ROLE, "two", seconds=60)
    with pytest.raises(LeaseLost, match=ROLE):
        check(store, held)


def test_the_fence_undoes_what_its_transaction_wrote(store: Store) -> None:
    held = acquire(store, ROLE, "one", seconds=60)
    assert held is not None
    end(store)

    def write_late() -> None:
        with store.write() as connection:
            connection.execute(lease.insert().values(name="x", holder="y", term=1, until=0.0))
            fence(connection, held)

    with pytest.raises(LeaseLost):
        write_late()
    with store.read() as connection:
        assert connection.execute(sa.select(lease.c.name)).scalars().all() == [ROLE]


@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
def test_of_many_that_ask_at_once_one_gets_it(url: str, store: Store, begun: bool) -> None:
    if begun:
        acquire(store, ROLE, "before", seconds=60)
        end(store)
    found: list[Lease | None] = []
    ready = threading.Barrier(4)

    def compete(name: str) -> None:
        with closing(open_store(url)) as mine:
            ready.wait(timeout=30)
            found.append(acquire(mine, ROLE, name, seconds=60))

    threads = [threading.Thread(target=compete, args=(f"p{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [one for one in found if one is not None]
    assert len(found) == 4
    assert [one.term for one in held] == [2 if begun else 1]
    check(store, held[0])


@pytest.mark.timing
def test_a_lease_is_renewed_while_the_block_works_and_no_longer():
    renewed = []

    def renew():
        renewed.append(True)
        return True

    with renewing(renew, every_s=0.01):
        time.sleep(0.2)
    during = len(renewed)
    time.sleep(0.05)
    assert during > 2
    assert len(renewed) == during


def test_what_is_lost_is_renewed_no_more():
    renewed = []

    def renew():
        renewed.append(True)
        return len(renewed) < 2

    with renewing(renew, every_s=0.01):
        time.sleep(0.2)
    assert len(renewed) == 2
