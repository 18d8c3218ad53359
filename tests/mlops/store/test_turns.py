"""Work of one name takes turns; a holder that is killed frees it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlops.errors import LeaseLost, TrainingTimeout
from mlops.store import Store, leases, open_store
from mlops.store.leases import HeldLease, current_holder, exclusive, require_held
from mlops.store.schema import lease
from mlops.store.sql import db_now
from tests.forked import in_child

NAME = "training:sample.btc-usd.1h.volatility.24"
OTHER = "training:sample.eth-usd.1h.volatility.24"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    monkeypatch.setattr(leases, "POLL_S", 0.02)


@pytest.fixture
def told() -> list[str]:
    return []


def end(store: Store) -> None:
    """Let the lease run out."""
    with store.write() as connection:
        connection.execute(lease.update().values(until=db_now() - 0.001))


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


def write(store: Store, held: HeldLease) -> None:
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
        first = mine.lease
        end(store)
        until(lambda: mine.lease != first)
        write(store, mine)
