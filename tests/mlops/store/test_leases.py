"""A lease has one holder at a time; a holder that lost it is refused, however late it wakes up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa

from mlops.errors import LeaseLost, TrainingTimeout
from mlops.store import Store, leases, open_store
from mlops.store.leases import (
    Lease,
    acquire_lease,
    current_holder,
    exclusive,
    exclusive_if_free,
    fence,
    held_names,
    release_lease,
    renew_lease,
    renewing,
    require_held,
)
from mlops.store.schema import lease
from mlops.store.sql import db_now
from tests.clocks import DatabaseClock, each_jump
from tests.forked import in_child

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
    assert acquire_lease(store, ROLE, "one", seconds=60) == Lease(ROLE, "one", 1)
    assert acquire_lease(store, ROLE, "two", seconds=60) is None
    assert 59 < left(store) <= 60


def test_the_holder_keeps_its_term_when_it_renews(store: Store) -> None:
    first = acquire_lease(store, ROLE, "one", seconds=10)
    assert acquire_lease(store, ROLE, "one", seconds=60) == first
    assert left(store) > 50


def test_each_new_holder_has_a_higher_term(store: Store) -> None:
    acquire_lease(store, ROLE, "one", seconds=60)
    end(store)
    assert acquire_lease(store, ROLE, "two", seconds=60) == Lease(ROLE, "two", 2)
    end(store)
    assert acquire_lease(store, ROLE, "one", seconds=60) == Lease(ROLE, "one", 3)


def test_a_holder_whose_time_ran_out_begins_a_new_term(store: Store) -> None:
    """It may have slept while another one came and went."""
    first = acquire_lease(store, ROLE, "one", seconds=60)
    assert first is not None
    end(store)
    assert acquire_lease(store, ROLE, "one", seconds=60) == Lease(ROLE, "one", 2)
    with pytest.raises(LeaseLost):
        check(store, first)


def test_a_role_that_is_given_back_is_free_at_once(store: Store) -> None:
    held = acquire_lease(store, ROLE, "one", seconds=60)
    assert held is not None
    release_lease(store, held)
    assert acquire_lease(store, ROLE, "two", seconds=60) == Lease(ROLE, "two", 2)


def test_giving_back_what_another_one_holds_changes_nothing(store: Store) -> None:
    old = acquire_lease(store, ROLE, "one", seconds=60)
    assert old is not None
    end(store)
    new = acquire_lease(store, ROLE, "two", seconds=60)
    assert new is not None
    release_lease(store, old)
    check(store, new)


def test_roles_are_held_apart(store: Store) -> None:
    acquire_lease(store, ROLE, "one", seconds=60)
    assert acquire_lease(store, "feed", "two", seconds=60) == Lease("feed", "two", 1)


@pytest.mark.parametrize("why", ["it ran out", "another came", "it was given back"])
def test_the_fence_stops_whoever_lost_the_role(store: Store, why: str) -> None:
    held = acquire_lease(store, ROLE, "one", seconds=60)
    assert held is not None
    check(store, held)
    if why == "it was given back":
        release_lease(store, held)
    else:
        end(store)
    if why == "another came":
        acquire_lease(store, ROLE, "two", seconds=60)
    with pytest.raises(LeaseLost, match=ROLE):
        check(store, held)


def test_the_fence_undoes_what_its_transaction_wrote(store: Store) -> None:
    held = acquire_lease(store, ROLE, "one", seconds=60)
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
        acquire_lease(store, ROLE, "before", seconds=60)
        end(store)
    found: list[Lease | None] = []
    ready = threading.Barrier(4)

    def compete(name: str) -> None:
        with closing(open_store(url)) as mine:
            ready.wait(timeout=30)
            found.append(acquire_lease(mine, ROLE, name, seconds=60))

    threads = [threading.Thread(target=compete, args=(f"p{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [one for one in found if one is not None]
    assert len(found) == 4
    assert [one.term for one in held] == [2 if begun else 1]
    check(store, held[0])


# Clocks that jump --------------------------------------------------------------------------------


@each_jump
@pytest.mark.parametrize("after", ["acquire", "renew", "release"])
def test_a_role_of_a_dead_holder_is_free_at_once_after_a_jump(
    clock: DatabaseClock, store: Store, jump_s: float, after: str
) -> None:
    held = acquire_lease(store, ROLE, "the dead", seconds=60)
    assert held is not None
    if after == "renew":
        assert renew_lease(store, held, seconds=60)
    if after == "release":
        release_lease(store, held)
    clock.jump(jump_s)
    assert current_holder(store, ROLE) is None
    assert acquire_lease(store, ROLE, "the next", seconds=60) == Lease(ROLE, "the next", 2)
    for check_lease in (fence, require_held):
        with pytest.raises(LeaseLost), store.write() as connection:
            check_lease(connection, held)


@each_jump
def test_a_live_holder_goes_on_after_a_jump(
    clock: DatabaseClock, store: Store, jump_s: float
) -> None:
    acquire_lease(store, ROLE, "one", seconds=60)
    clock.jump(jump_s)
    held = acquire_lease(store, ROLE, "one", seconds=60)
    assert held == Lease(ROLE, "one", 2)
    check(store, held)
    assert acquire_lease(store, ROLE, "two", seconds=60) is None


@each_jump
def test_hours_of_work_are_kept_where_the_clock_jumps_before_their_commit(
    clock: DatabaseClock, store: Store, jump_s: float
) -> None:
    with exclusive(store, NAME, "one", timeout_s=0) as mine:
        clock.jump(jump_s)
        write(store, mine)
        until(lambda: current_holder(store, NAME) == "one")
        write(store, mine)


def test_a_small_step_back_changes_no_holder(clock: DatabaseClock, store: Store) -> None:
    held = acquire_lease(store, ROLE, "one", seconds=60)
    assert held is not None
    clock.jump(-0.5)
    check(store, held)
    assert acquire_lease(store, ROLE, "two", seconds=60) is None


@pytest.mark.parametrize("apart_s", [300.0, -300.0])
def test_machines_whose_clocks_differ_take_turns_and_neither_is_shut_out(
    clock: DatabaseClock, store: Store, apart_s: float
) -> None:
    """On SQLite each machine goes by its own clock; the terms reject the one that was overtaken."""
    terms = []
    for _ in range(2):
        for name, offset_s in (("one", 0.0), ("two", apart_s)):
            clock.offset_s = offset_s
            held = acquire_lease(store, ROLE, name, seconds=60)
            assert held is not None
            check(store, held)
            terms.append(held.term)
    assert terms == [1, 2, 3, 4]


def test_a_lease_of_an_older_release_is_held_for_minutes_at_most(
    clock: DatabaseClock, store: Store
) -> None:
    """It wrote no seconds."""
    acquire_lease(store, ROLE, "old", seconds=60)
    with store.write() as connection:
        connection.execute(lease.update().values(seconds=None))
    assert acquire_lease(store, ROLE, "new", seconds=60) is None
    clock.jump(-3600)
    assert acquire_lease(store, ROLE, "new", seconds=60) is not None


# Renewal -----------------------------------------------------------------------------------------


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


# Exclusive blocks --------------------------------------------------------------------------------


NAME = "training:sample.btc-usd.1h.volatility.24"
OTHER = "training:sample.eth-usd.1h.volatility.24"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    monkeypatch.setattr(leases, "POLL_S", 0.02)


@pytest.fixture
def told() -> list[str]:
    return []


def pass_on(store: Store, holder: str) -> None:
    """Let another one come and go."""
    with store.write() as connection:
        row = {"holder": holder, "term": lease.c.term + 1, "until": db_now() - 0.001}
        connection.execute(lease.update().values(**row))


def until(seen: Callable[[], bool]) -> None:
    for _ in range(500):
        if seen():
            return
        threading.Event().wait(0.02)
    pytest.fail("not within 10 s")


def held_names_of(store: Store) -> frozenset[str]:
    with store.read() as connection:
        return held_names(connection)


def write(store: Store, held: Lease) -> None:
    with store.write() as connection:
        require_held(connection, held)


def test_runs_of_one_name_never_overlap(store: Store) -> None:
    inside, most = 0, 0

    def work(number: int) -> None:
        nonlocal inside, most
        with exclusive(store, NAME, f"run {number}", timeout_s=30):
            inside += 1
            most = max(most, inside)
            # Longer than the lease lasts: it is renewed.
            threading.Event().wait(1.3 if number == 0 else 0.05)
            inside -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert (most, inside) == (1, 0)
    assert current_holder(store, NAME) is None


def test_other_names_do_not_wait(store: Store) -> None:
    with exclusive(store, NAME, "one", timeout_s=0), exclusive(store, OTHER, "two", timeout_s=0):
        assert (current_holder(store, NAME), current_holder(store, OTHER)) == ("one", "two")


def test_a_run_that_fails_frees_its_turn_at_once(store: Store) -> None:
    with pytest.raises(KeyError), exclusive(store, NAME, "one", timeout_s=0):
        raise KeyError
    assert current_holder(store, NAME) is None


def test_who_waits_says_for_whom_and_not_for_ever(store: Store, told: list[str]) -> None:
    with (
        exclusive(store, NAME, "train-lstm-BTC/USD", timeout_s=0),
        pytest.raises(TrainingTimeout, match="TRAINING_JOB_TIMEOUT_HOURS"),
        exclusive(store, NAME, "two", timeout_s=0.1, tell=told.append),
    ):
        pytest.fail("two runs have one turn")
    assert told == [f"{NAME} waits for train-lstm-BTC/USD"]


def test_a_holder_killed_at_work_is_followed_when_its_lease_ends(
    store: Store, url: str, told: list[str]
) -> None:
    def die() -> None:
        with exclusive(open_store(url), NAME, "the killed", timeout_s=0):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(die)) == signal.SIGKILL
    with exclusive(store, NAME, "the next", timeout_s=10, tell=told.append):
        assert current_holder(store, NAME) == "the next"
    assert told == [f"{NAME} waits for the killed"]


def test_who_slept_through_its_lease_does_not_end_the_next_ones_turn(
    store: Store,
) -> None:
    asleep, awake = threading.Event(), threading.Event()

    def oversleep() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases, "_renew", lambda *_: False)
            with exclusive(store, NAME, "the sleeper", timeout_s=0) as mine:
                asleep.set()
                awake.wait(10)
                write(store, mine)

    with ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(oversleep)
        asleep.wait(10)
        with exclusive(store, NAME, "the next", timeout_s=10):
            awake.set()
            with pytest.raises(LeaseLost):
                sleeper.result()
            assert current_holder(store, NAME) == "the next"


def test_who_slept_while_another_came_and_went_may_not_write(store: Store) -> None:
    """Its lease could be had again, but what it knows is old."""
    with exclusive(store, NAME, "the sleeper", timeout_s=0) as mine:
        pass_on(store, "the other")
        until(lambda: current_holder(store, NAME) is None)
        with pytest.raises(LeaseLost):
            write(store, mine)


def test_who_slept_alone_may_write(store: Store) -> None:
    with exclusive(store, NAME, "the sleeper", timeout_s=0) as mine:
        end(store)
        write(store, mine)
        until(lambda: current_holder(store, NAME) == "the sleeper")
        write(store, mine)


def test_a_block_begins_at_once_or_not_at_all(store: Store) -> None:
    with (
        exclusive_if_free(store, NAME, "one") as first,
        exclusive_if_free(store, NAME, "two") as second,
    ):
        assert first == Lease(NAME, "one", 1)
        assert second is None
        assert held_names_of(store) == {NAME}
    assert held_names_of(store) == frozenset()
