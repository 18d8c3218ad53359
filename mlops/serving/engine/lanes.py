"""The windows that wait for their forecast, and the batch that is being forecast."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from mlops.arrays import FloatArray
from mlops.errors import TimedOut
from mlops.models.windows import Window
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.engine.stalls import TICK_S, ThreadClock


@dataclass(slots=True, eq=False)
class Item:
    """A window that waits for its forecast; ``patient`` ones have no deadline in the queue."""

    number: int
    model: LoadedModel
    window: Window
    rows: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[FloatArray | None]
    budget_s: float
    asked_at: float
    stalled_before_s: float = 0.0
    patient: bool = False
    run: Run | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        """Whether it is answered, cancelled or past its deadline."""
        late = not self.patient and monotonic() - self.asked_at > self.budget_s
        return late or self.future.done()

    @property
    def waited_s(self) -> float:
        """Seconds in the queue."""
        return (monotonic() if self.run is None else self.run.began) - self.asked_at

    def time_left_s(self, stalled_s: float) -> float:
        """Seconds that its version may still use; the item ends after twice its budget.

        Args:
            stalled_s: Seconds in which the process was stalled until now.
        """
        if self.run is None:
            return 0.0
        if self.run.ended:
            left = TICK_S
        else:
            left = self.budget_s - self.waited_s - self.run.used_s(stalled_s)
        return min(left, self.asked_at + 2 * self.budget_s - monotonic())

    def time_out(self) -> TimedOut:
        return TimedOut(waited_s=self.waited_s, timeout_s=self.budget_s)


class Lane:
    """A queue of items by model; the caller holds the lock. ``added`` counts all items ever put."""

    def __init__(self) -> None:
        self._by_model: dict[LoadedModel, deque[Item]] = {}
        self.size = self.added = 0

    def put(self, item: Item) -> None:
        self._by_model.setdefault(item.model, deque()).append(item)
        self.size += 1
        self.added += 1

    def next_model(self) -> LoadedModel:
        """The model of the oldest item."""
        return min(self._by_model, key=lambda model: self._by_model[model][0].number)

    def take(self, model: LoadedModel, cap: int) -> Iterator[Item]:
        """Remove a model's oldest items, at least one, up to ``cap`` rows in sum."""
        rows = 0
        items = self._by_model[model]
        while items and (not rows or rows + items[0].rows <= cap):
            rows += items[0].rows
            self.size -= 1
            yield items.popleft()
        if not items:
            del self._by_model[model]

    def drop_oldest(self) -> Item:
        [oldest] = self.take(self.next_model(), 0)
        return oldest

    def remove(self, item: Item) -> bool:
        """Remove an item; False where it no longer waits."""
        items = self._by_model.get(item.model)
        if items is None or item not in items:
            return False
        items.remove(item)
        self.size -= 1
        if not items:
            del self._by_model[item.model]
        return True

    def clear(self) -> list[Item]:
        items = [item for waiting in self._by_model.values() for item in waiting]
        self._by_model.clear()
        self.size = 0
        return items


@dataclass(slots=True, eq=False)
class Run:
    """A batch that is being forecast; once it ``ended``, its results are on their way."""

    thread: threading.Thread
    clock: ThreadClock
    items: Sequence[Item]
    longest_s: float
    began: float
    computed_before_s: float
    stalled_before_s: float
    ended: bool = False

    def used_s(self, stalled_s: float) -> float:
        """Seconds that its version used itself."""
        computed = self.clock.computed_s() - self.computed_before_s
        ran = monotonic() - self.began
        return max(computed, ran - (stalled_s - self.stalled_before_s))

    def is_late(self) -> bool:
        """Whether it has not ended in the longest budget of its items."""
        return not self.ended and monotonic() - self.began > self.longest_s

    def is_overdue(self, stalled_s: float) -> bool:
        """Whether a late run's version has used the budget or, after twice as long, half of it."""
        doubled = monotonic() - self.began > 2 * self.longest_s
        return self.used_s(stalled_s) > (self.longest_s / 2 if doubled else self.longest_s)
