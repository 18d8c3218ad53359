"""Tells a slow version from a stalled process.

    stalled = seconds in which the event loop was late, or the inference thread was ready to run
              and had no core; the longer of the two in each tick
    used    = the longer of the thread's CPU time and the seconds of its batch less the stalled ones

What a version computes, sleeps or waits for, it uses itself. Where another thread holds the
interpreter lock, or other processes take all cores, this process is stalled, and no version is to
blame.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from time import monotonic

TICK_S = 0.05
"""Seconds between two looks at the event loop while windows wait or are forecast."""


class ThreadClock:
    """The CPU time of the thread that makes it; any thread may read it."""

    def __init__(self) -> None:
        # Found out by the thread itself: the look-up of a thread that has ended may crash.
        find = getattr(time, "pthread_getcpuclockid", None)  # macOS has none
        self._cpu_clock = None if find is None else find(threading.get_ident())
        self._files = Path(f"/proc/self/task/{threading.get_native_id()}")
        self._computed_s, self._ran_at = 0.0, monotonic()

    def computed_s(self) -> float:
        """CPU seconds so far; 0 where the system does not tell, or the thread has ended."""
        if self._cpu_clock is not None:
            with suppress(OSError):
                return time.clock_gettime(self._cpu_clock)
        return 0.0

    def starved_s(self) -> float:
        """Seconds so far in which it was ready and had no core; 0 where only Linux would tell."""
        with suppress(OSError, ValueError, IndexError):
            ended = int((self._files / "schedstat").read_bytes().split()[1]) / 1e9
            return ended + self._measure_open_wait()
        return 0.0

    def _measure_open_wait(self) -> float:
        """Seconds of a wait for a core that still lasts: the kernel adds it when it ends."""
        now, computed = monotonic(), self.computed_s()
        if computed != self._computed_s:
            self._computed_s, self._ran_at = computed, now
            return 0.0
        state = (self._files / "stat").read_bytes().rpartition(b")")[2].split()[0]
        return now - self._ran_at if state == b"R" else 0.0


class StallClock:
    """Adds up the seconds in which this process was stalled; the caller holds a lock.

    A tick is due every `TICK_S`, by the event loop; how late it comes is how long the loop was
    stalled.
    """

    def __init__(self) -> None:
        self.stalled_s = 0.0
        self._due: float | None = None
        self._thread: ThreadClock | None = None
        self._starved_before = 0.0

    def expect_tick(self) -> None:
        """Expect the next tick in `TICK_S` from now."""
        self._due = monotonic() + TICK_S

    def expect_none(self) -> None:
        """Expect no tick, because nothing waits."""
        self._due = None

    def read(self, thread: ThreadClock | None) -> float:
        """The stalled seconds until now.

        Args:
            thread: The thread that forecasts; None where it is idle.
        """
        now, late = monotonic(), 0.0
        if self._due is not None and now > self._due:
            late, self._due = now - self._due, now
        self.stalled_s += max(late, self._starve(thread))
        return self.stalled_s

    def _starve(self, thread: ThreadClock | None) -> float:
        """Seconds without a core since the last reading of the thread."""
        if thread is None:
            return 0.0
        if thread is not self._thread:
            self._thread, self._starved_before = thread, 0.0
        before, self._starved_before = self._starved_before, thread.starved_s()
        return self._starved_before - before
