"""A time-out is a version's fault only where the version used the time."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import pytest

from mlops.arrays import FloatArray
from mlops.errors import ModelFault, ServingError, TimedOut
from mlops.models.windows import Window
from mlops.serving.engine import batcher as batcher_module
from mlops.serving.engine import stalls
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.engine.stalls import TICK_S, StallClock, ThreadClock
from tests.mlops.serving.engine.crowd import (
    LONG_S,
    Doubler,
    entered,
    know,
    model_of,
    running,
    window,
)

BUDGET_S = 0.2
NEEDED_S = 0.02
"""CPU seconds that a healthy version needs for its first batch."""


class Worker(Doubler):
    """Works before its first forecasts."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work: Callable[[], None] | None = work

    def forecast_windows(self, windows: list[Window]) -> list[np.ndarray]:
        work, self.work = self.work, None
        if work is not None:
            self.entered.set()
            work()
        return super().forecast_windows(windows)


def compute(seconds: float) -> None:
    """Compute for so many CPU seconds, and give the interpreter lock away when asked to."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@contextmanager
def stalled_model(seconds: float) -> Iterator[LoadedModel]:
    """A healthy model; in its first batch another thread holds the interpreter lock for so long."""
    begin, ended = threading.Event(), threading.Event()

    def hold() -> None:
        begin.wait(LONG_S)
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        ended.set()

    def work() -> None:
        begin.set()
        spin(ended)
        compute(NEEDED_S)

    holder = threading.Thread(target=hold)
    holder.start()
    yield model_of(Worker(work))
    begin.set()
    holder.join()


async def ask(batcher: Batcher, model: LoadedModel, mark: float = 1.0) -> FloatArray:
    return await batcher.forecast(model, window(mark), timeout_s=BUDGET_S)


async def ask_until_fault(batcher: Batcher, model: LoadedModel) -> list[ServingError]:
    """The errors of requests one after the other, until one is the version's fault."""
    errors: list[ServingError] = []
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        try:
            await ask(batcher, model)
        except ModelFault as fault:
            return [*errors, fault]
        except TimedOut as error:
            errors.append(error)
    raise AssertionError(f"no fault, but {errors}")


def test_a_held_interpreter_lock_is_no_versions_fault():
    async def story(model: LoadedModel) -> None:
        bundle = cast(Worker, model.bundle)
        work, bundle.work = bundle.work, None
        bundle.gate.clear()
        asked = [asyncio.ensure_future(ask(batcher, model, mark)) for mark in range(40)]
        await entered(bundle)
        bundle.work = work
        bundle.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert not [answer for answer in answers if isinstance(answer, ModelFault)]
        assert isinstance(answers[-1], TimedOut)
        assert "this process was stalled for 0." in str(answers[-1])
        assert (await batcher.forecast(model, window(3), timeout_s=LONG_S))[-1] == 6.0
        statistics = batcher.statistics()
        assert statistics.stalled == sum(isinstance(answer, TimedOut) for answer in answers)
        assert statistics.restarts == 0

    with running() as batcher, stalled_model(3 * BUDGET_S) as model:
        know(batcher, model)
        asyncio.run(story(model))


def test_a_held_interpreter_lock_leaves_no_shadow_and_no_model_behind(monkeypatch):
    monkeypatch.setattr(batcher_module, "SHADOW_BUDGET_S", BUDGET_S)

    async def story(model: LoadedModel) -> None:
        shadow = asyncio.ensure_future(batcher.shadow(model, window(1)))
        await entered(cast(Worker, model.bundle))
        answer = await batcher.forecast(model, window(2), timeout_s=LONG_S)
        assert (answer[-1], (await shadow)[-1]) == (4.0, 2.0)
        assert batcher.statistics().restarts == 0

    with running() as batcher, stalled_model(3 * BUDGET_S) as model:
        asyncio.run(story(model))


def spin(stop: threading.Event) -> None:
    while not stop.is_set():
        pass


def sort(stop: threading.Event) -> None:
    """Compute without the interpreter lock."""
    numbers = np.random.default_rng(1).random(10_000)
    while not stop.is_set():
        np.sort(numbers)


def sleep(stop: threading.Event) -> None:
    stop.wait(LONG_S)


@pytest.mark.parametrize("work", [spin, sort, sleep])
def test_a_version_that_computes_or_waits_for_longer_is_charged(work):
    stop = threading.Event()
    model = model_of(Worker(lambda: work(stop)))

    async def story() -> None:
        fault = (await ask_until_fault(batcher, model))[-1]
        assert isinstance(fault, ModelFault)
        assert fault.kind == "timeout"
        stop.set()

    with running() as batcher:
        asyncio.run(story())


def test_a_version_that_holds_the_interpreter_lock_while_it_computes_is_charged():
    stop = threading.Event()

    def work() -> None:
        began, some = time.thread_time(), 1_000_000
        sum(range(some))
        # One call of C code, in which no other thread gets the lock.
        sum(range(int(some * 3 * BUDGET_S / (time.thread_time() - began))))
        spin(stop)

    model = model_of(Worker(work))

    async def story() -> None:
        with pytest.raises(ModelFault, match="timeout"):
            await ask(batcher, model)
        stop.set()

    with running() as batcher:
        asyncio.run(story())


def test_a_version_that_waits_is_charged_only_for_time_in_which_the_loop_was_on_time():
    stop = threading.Event()
    bundle = Worker(lambda: sleep(stop))
    model = model_of(bundle)

    async def story() -> None:
        asked = asyncio.ensure_future(ask(batcher, model))
        await entered(bundle)
        time.sleep(3 * BUDGET_S)
        with pytest.raises(TimedOut, match=r"this process was stalled"):
            await asked
        assert batcher.statistics().restarts == 0
        assert isinstance((await ask_until_fault(batcher, model))[-1], ModelFault)
        stop.set()

    with running() as batcher:
        asyncio.run(story())


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux to starve a thread")
def test_a_thread_without_a_core_is_no_versions_fault():
    core = min(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile 1: pass"
    hog = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert hog.stdout is not None
    hog.stdout.readline()

    def work() -> None:
        # Only what the hog leaves of the core.
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        sort(killed)

    killed = threading.Event()
    model = model_of(Worker(work))

    async def story() -> None:
        with pytest.raises(TimedOut, match="this process was stalled"):
            await batcher.forecast(model, window(1), timeout_s=3 * BUDGET_S)
        hog.kill()
        killed.set()
        assert (await batcher.forecast(model, window(3), timeout_s=LONG_S))[-1] == 6.0
        assert batcher.statistics().restarts == 0

    try:
        with running() as batcher:
            asyncio.run(story())
    finally:
        hog.kill()
        hog.communicate()


def test_results_on_their_way_are_waited_for(bundle, model, monkeypatch):
    """The event loop may see the deadline first, although the thread has ended in time."""
    handed_over = threading.Event()
    deliver = batcher_module._deliver

    def deliver_late(pairs: object) -> None:
        assert handed_over.wait(LONG_S)
        deliver(pairs)

    async def story() -> None:
        asked = asyncio.ensure_future(batcher.forecast(model, window(1), timeout_s=LONG_S))
        await entered(bundle)
        while not batcher._run.ended:
            await asyncio.sleep(0.001)
        [item] = batcher._run.items
        item.budget_s, item.asked_at = LONG_S, item.asked_at - LONG_S
        batcher._expire(item)
        assert not asked.done()
        handed_over.set()
        assert (await asked)[-1] == 2.0

    monkeypatch.setattr(batcher_module, "_deliver", deliver_late)
    with running() as batcher:
        asyncio.run(story())


class TestStallClock:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(stalls, "monotonic", lambda: now[0])
        return now

    def test_a_loop_on_time_is_not_stalled(self, now):
        clock = StallClock()
        for _ in range(3):
            clock.expect_tick()
            now[0] += TICK_S
            assert clock.read(None) == 0.0

    def test_a_late_tick_is_counted_once(self, now):
        clock = StallClock()
        clock.expect_tick()
        now[0] += TICK_S + 1.0
        assert clock.read(None) == pytest.approx(1.0)
        assert clock.read(None) == pytest.approx(1.0)
        now[0] += 2.0
        assert clock.read(None) == pytest.approx(3.0)
        clock.expect_tick()
        now[0] += TICK_S
        assert clock.read(None) == pytest.approx(3.0)

    def test_no_tick_is_missed_while_nothing_waits(self, now):
        clock = StallClock()
        clock.expect_tick()
        clock.expect_none()
        now[0] += 60.0
        assert clock.read(None) == 0.0

    def test_a_thread_without_a_core_counts_unless_the_loop_was_later(self, now, monkeypatch):
        clock, thread, starved = StallClock(), ThreadClock(), [0.0]
        monkeypatch.setattr(ThreadClock, "starved_s", lambda thread: starved[0])
        clock.expect_tick()
        assert clock.read(thread) == 0.0
        starved[0] += 0.5
        assert clock.read(thread) == pytest.approx(0.5)
        now[0] += TICK_S + 2.0
        starved[0] += 1.0
        assert clock.read(thread) == pytest.approx(2.5)


def test_a_thread_clock_counts_what_its_own_thread_computes():
    clock = ThreadClock()
    before = clock.computed_s()
    compute(NEEDED_S)
    assert clock.computed_s() - before >= NEEDED_S


def test_without_clocks_of_threads_nothing_is_computed_or_starved(monkeypatch):
    monkeypatch.delattr(time, "pthread_getcpuclockid")
    clock = ThreadClock()
    monkeypatch.setattr(clock, "_files", clock._files.with_name("none"))
    compute(NEEDED_S)
    assert (clock.computed_s(), clock.starved_s()) == (0.0, 0.0)
