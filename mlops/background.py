"""A background loop: work that a thread repeats until it is stopped, whatever a round raises.

>>> import threading
>>> rounds = threading.Semaphore(0)
>>> loop = Repeated("count", 0.001, rounds.release)
>>> loop.start()
>>> all(rounds.acquire(timeout=10) for _ in range(3))
True
>>> loop.stop()
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from mlops.errors import StoreError

log = logging.getLogger(__name__)

STOP_S = 5.0
"""How long `Repeated.stop` waits for the round under way."""


class Repeated:
    """Repeats ``work`` in a thread of its own, from `start` to `stop`.

    No error ends the loop, because the whole process counts on it: where the store is away the
    next round tries again, and any other error is logged with its traceback.

    Args:
        name: Name of the thread, and of the work in the log.
        every_s: Mean pause in seconds between two rounds.
        work: One round.
        jitter: By which share a pause may be longer or shorter, so that processes that were
            started together do not all read at the same moment.
        at_once: Whether the first round comes before the first pause.
        at_end: Called in the thread after the last round.
    """

    def __init__(
        self,
        name: str,
        every_s: float,
        work: Callable[[], object],
        *,
        jitter: float = 0.0,
        at_once: bool = True,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.every_s = every_s
        self.work = work
        self.jitter = jitter
        self.at_once = at_once
        self.at_end = at_end
        # A generator of its own: drawing from the shared one here would change the random
        # numbers of every seeded computation in this process.
        self._random = random.Random()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, wait_s: float = STOP_S) -> None:
        """End after the round under way, and wait for it for at most ``wait_s`` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _repeat(self) -> None:
        if self.at_once:
            self._try(self.work)
        while not self._stop.wait(self._draw_pause_s()):
            self._try(self.work)
        if self.at_end is not None:
            self._try(self.at_end)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except StoreError as error:
            log.warning("%s could not do its work, and tries again: %s", self.name, error)
        except Exception:
            log.exception("a round of %s failed", self.name)

    def _draw_pause_s(self) -> float:
        return self.every_s * self._random.uniform(1 - self.jitter, 1 + self.jitter)
