"""A background loop goes on whatever a round raises, and ends when it is told to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from mlops.background import Repeated
from mlops.errors import LeaseLost, StoreError


class Rounds:
    """Work that counts its rounds, and raises what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.done = threading.Semaphore(0)

    def __call__(self) -> None:
        self.done.release()
        if self.error is not None:
            raise self.error

    def wait_for(self, count: int) -> None:
        assert all(self.done.acquire(timeout=10) for _ in range(count))


@pytest.fixture
def running() -> Iterator[Callable[[Repeated], Repeated]]:
    loops: list[Repeated] = []

    def start(loop: Repeated) -> Repeated:
        loop.start()
        loops.append(loop)
        return loop

    yield start
    for loop in loops:
        loop.stop()


@pytest.mark.parametrize(
    ("error", "level", "message"),
    [
        (StoreError("it is away"), logging.WARNING, "guard could not do its work"),
        (LeaseLost("guard", 2), logging.WARNING, "guard could not do its work"),
        (OSError("no memory"), logging.ERROR, "a round of guard failed"),
    ],
)
def test_no_error_ends_the_loop(
    running: Callable[[Repeated], Repeated],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    level: int,
    message: str,
) -> None:
    rounds = Rounds(error)
    running(Repeated("guard", 0.001, rounds))
    rounds.wait_for(3)
    records = [row for row in caplog.records if row.message.startswith(message)]
    assert len(records) >= 2
    assert {row.levelno for row in records} == {level}
    assert {row.exc_info is not None for row in records} == {level == logging.ERROR}


def test_after_its_end_no_round_comes_and_what_it_held_is_given_back(
    running: Callable[[Repeated], Repeated],
) -> None:
    rounds, ended = Rounds(), Rounds(StoreError("it is away"))
    loop = running(Repeated("guard", 0.001, rounds, at_end=ended))
    rounds.wait_for(2)
    loop.stop()
    ended.wait_for(1)
    while rounds.done.acquire(blocking=False):
        pass
    assert not rounds.done.acquire(timeout=0.05)
    assert not ended.done.acquire(blocking=False)


def test_a_loop_that_is_stopped_in_its_first_pause_does_nothing(
    running: Callable[[Repeated], Repeated],
) -> None:
    rounds = Rounds()
    running(Repeated("guard", 3600.0, rounds, at_once=False)).stop()
    assert not rounds.done.acquire(blocking=False)


def test_a_loop_that_was_never_started_can_be_stopped() -> None:
    Repeated("guard", 1.0, Rounds()).stop()


def test_a_round_that_hangs_holds_up_the_end_for_seconds_at_most(
    running: Callable[[Repeated], Repeated],
) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        goes_on.wait(10)

    loop = running(Repeated("guard", 1.0, hang))
    assert began.wait(10)
    loop.stop(wait_s=0.01)
    goes_on.set()


def test_pauses_differ_by_their_jitter() -> None:
    loop = Repeated("guard", 10.0, Rounds(), jitter=0.2)
    pauses = [loop._draw_pause_s() for _ in range(500)]
    assert 8.0 <= min(pauses) < 8.5
    assert 11.5 < max(pauses) <= 12.0
