"""The windows that wait for their forecast, and the batch that is being forecast."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from mlops.arrays import FloatArray
from mlops.errors import TimedOut
from mlops.models.windows import Window
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.engine.stalls import TICK_S, ThreadClock


@dataclass(slots=True, eq=False)
class Item:
    """A window that waits for its forecast.

    Args:
        lane: The queue it was put into.
        request: A key that it shares with the other windows of its request; None for a single one.
        patient: Whether it waits without a deadline.
    """

    number: int
    lane: Lane
    request: Hashable
    model: LoadedModel
    window: Window
    rows: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[FloatArray | None]
    budget_s: float
    asked_at: float
    stalled_before_s: float
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
    """A queue of items; the caller holds the lock. ``added`` counts all items ever put.

    Models take turns, and the requests of a model do so window by window, so that nobody waits for
    all windows of another client. Windows without a ``request`` are one queue, oldest first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = self.added = 0
        self._models: OrderedDict[LoadedModel, OrderedDict[Hashable, deque[Item]]] = OrderedDict()

    @property
    def full(self) -> bool:
        return self.size >= self.limit

    def put(self, item: Item) -> None:
        requests = self._models.get(item.model)
        if requests is None:
            requests = self._models[item.model] = OrderedDict()
        items = requests.get(item.request)
        if items is None:
            items = requests[item.request] = deque()
        items.append(item)
        self.size += 1
        self.added += 1

    def next_model(self) -> LoadedModel:
        """The model whose turn it is."""
        return next(iter(self._models))

    def take(self, model: LoadedModel, cap: int) -> Iterator[Item]:
        """Remove a model's next items, at least one, up to ``cap`` rows in sum."""
        rows, requests = 0, self._models[model]
        self._models.move_to_end(model)
        while requests:
            request, items = next(iter(requests.items()))
            if rows and rows + items[0].rows > cap:
                return
            rows += items[0].rows
            yield self._pop(items[0])
            if items:
                requests.move_to_end(request)

    def drop_oldest(self) -> Item:
        heads = (items[0] for requests in self._models.values() for items in requests.values())
        return self._pop(min(heads, key=lambda item: item.number))

    def remove(self, item: Item) -> bool:
        """Remove an item; False where it no longer waits."""
        requests = self._models.get(item.model)
        if requests is None or item not in requests.get(item.request, ()):
            return False
        self._pop(item)
        return True

    def _pop(self, item: Item) -> Item:
        requests = self._models[item.model]
        requests[item.request].remove(item)
        self.size -= 1
        if not requests[item.request]:
            del requests[item.request]
        if not requests:
            del self._models[item.model]
        return item

    def clear(self) -> list[Item]:
        every = [requests.values() for requests in self._models.values()]
        items = [item for requests in every for waiting in requests for item in waiting]
        self._models.clear()
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
