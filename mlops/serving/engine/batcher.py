"""Batches forecasts: one thread runs the models, and takes windows that wait together in one batch.

    forecast() -> main lane -> thread: oldest window and others of its model -> answers
    shadow()   -> shadow lane, served when the main lane is empty; its oldest is dropped when full

The thread never waits for a batch to fill, so a lone client is not delayed. A batch that raises is
forecast again window by window, and only the window that raises alone gets the error. A model that
does not return keeps its thread, and a new thread serves the others.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, perf_counter
from typing import TypeAlias
from weakref import WeakKeyDictionary

from mlops.arrays import FloatArray
from mlops.errors import ModelFault, NotFinite, QueueFull, ServingError, TimedOut
from mlops.models.base import count_usable_cores
from mlops.models.windows import Window
from mlops.serving.engine.batch_size import SIZES, BatchSizer
from mlops.serving.engine.model_pool import LoadedModel

log = logging.getLogger(__name__)

Outcome: TypeAlias = "FloatArray | ServingError | None"
"""The result of an item; None for a shadow that was dropped."""

QUEUE_LIMIT = 1024
SHADOW_LIMIT = 256
SHADOW_BUDGET_S = 5.0
SHADOW_SLICE_S = 0.005
"""Longest batch of shadow work: a request that arrives meanwhile waits for its end."""

STOP_TIMEOUT_S = 5.0
LOOK_S = 0.05
"""The thread looks for work at least this often, in case the loop that was to wake it ended."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the batcher has done since the start.

    Args:
        waiting: Windows in the main lane now.
        shadows: Windows in the shadow lane now.
        dropped: Shadows that were dropped.
        restarts: Threads that were left to a model that did not return.
        sizes: Batches by the number of windows in them.
        caps: The best batch size of each model, in rows.
    """

    waiting: int
    shadows: int
    batches: int
    windows: int
    dropped: int
    restarts: int
    sizes: Mapping[int, int]
    caps: Mapping[str, int]


@dataclass(slots=True, eq=False)
class _Item:
    """A window that waits for its forecast; ``patient`` ones have no deadline in the queue."""

    number: int
    model: LoadedModel
    window: Window
    rows: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[FloatArray | None]
    budget_s: float
    asked_at: float
    patient: bool = False
    started_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether it is answered, cancelled or past its deadline."""
        late = not self.patient and monotonic() - self.asked_at > self.budget_s
        return late or self.future.done()

    def time_out(self) -> TimedOut:
        waited = (self.started_at or monotonic()) - self.asked_at
        return TimedOut(waited_s=waited, timeout_s=self.budget_s)


class _Lane:
    """A queue of items by model; the caller holds the lock. ``added`` counts all items ever put."""

    def __init__(self) -> None:
        self._by_model: dict[LoadedModel, deque[_Item]] = {}
        self.size = self.added = 0

    def put(self, item: _Item) -> None:
        self._by_model.setdefault(item.model, deque()).append(item)
        self.size += 1
        self.added += 1

    def next_model(self) -> LoadedModel:
        """The model of the oldest item."""
        return min(self._by_model, key=lambda model: self._by_model[model][0].number)

    def take(self, model: LoadedModel, cap: int) -> Iterator[_Item]:
        """Remove a model's oldest items, at least one, up to ``cap`` rows in sum."""
        rows = 0
        items = self._by_model[model]
        while items and (not rows or rows + items[0].rows <= cap):
            rows += items[0].rows
            self.size -= 1
            yield items.popleft()
        if not items:
            del self._by_model[model]

    def drop_oldest(self) -> _Item:
        [oldest] = self.take(self.next_model(), 0)
        return oldest

    def remove(self, item: _Item) -> bool:
        """Remove an item; False where it no longer waits."""
        items = self._by_model.get(item.model)
        if items is None or item not in items:
            return False
        items.remove(item)
        self.size -= 1
        if not items:
            del self._by_model[item.model]
        return True

    def clear(self) -> list[_Item]:
        items = [item for waiting in self._by_model.values() for item in waiting]
        self._by_model.clear()
        self.size = 0
        return items


@dataclass(frozen=True, slots=True)
class _Run:
    """The batch that is being forecast; it is overdue after the `monotonic` second ``until``."""

    thread: threading.Thread
    items: Sequence[_Item]
    until: float

    def overdue(self) -> bool:
        return monotonic() > self.until


@dataclass(slots=True)
class _Tally:
    batches: int = 0
    windows: int = 0
    dropped: int = 0
    restarts: int = 0
    sizes: Counter[int] = field(default_factory=Counter)


class Batcher:
    """Forecasts for asyncio tasks, in batches.

    Args:
        limit: Windows that may wait.
        shadow_limit: Shadow windows that may wait.
        cap: Largest batch, in rows; a row is one forecast.
        batching: False for batches of one row.
        one_core: Whether event loop and thread share one core; None to find out. If so, a batch
            begins only when the loop has read all waiting requests: begun earlier, it is only
            smaller.
    """

    def __init__(
        self,
        *,
        limit: int = QUEUE_LIMIT,
        shadow_limit: int = SHADOW_LIMIT,
        cap: int = SIZES[-1],
        batching: bool = True,
        one_core: bool | None = None,
    ) -> None:
        self.limit = limit
        self.shadow_limit = shadow_limit
        self.cap = cap if batching else 1
        self.one_core = count_usable_cores() == 1 if one_core is None else one_core
        self._numbers = count()
        self._changed = threading.Condition(threading.Lock())
        self._main, self._shadow = _Lane(), _Lane()
        self._sizers: WeakKeyDictionary[LoadedModel, BatchSizer] = WeakKeyDictionary()
        self._stuck: WeakKeyDictionary[LoadedModel, threading.Thread] = WeakKeyDictionary()
        self._tally = _Tally()
        self._thread: threading.Thread | None = None
        self._run: _Run | None = None
        self._stopped = False
        self._waking = False
        self._added_before = 0

    def start(self) -> None:
        """Start the thread; `forecast` and `shadow` do so too."""
        with self._changed:
            self._stopped = False
            self._ensure_thread()

    def stop(self) -> None:
        """End the thread after its current batch; waiting items fail with `ServingError`."""
        with self._changed:
            self._stopped = True
            left = self._main.clear() + self._shadow.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        _deliver([(item, ServingError("this process is stopping")) for item in left])
        if thread is not None:
            thread.join(STOP_TIMEOUT_S)

    def statistics(self) -> Statistics:
        """The counts since the start, and the queues now."""
        with self._changed:
            return Statistics(
                waiting=self._main.size,
                shadows=self._shadow.size,
                batches=self._tally.batches,
                windows=self._tally.windows,
                dropped=self._tally.dropped,
                restarts=self._tally.restarts,
                sizes=dict(self._tally.sizes),
                caps={model.model_id: sizer.best for model, sizer in self._sizers.items()},
            )

    async def forecast(self, model: LoadedModel, window: Window, *, timeout_s: float) -> FloatArray:
        """The forecasts (n,) of one window, as `Bundle.forecast_windows` returns them.

        Raises:
            QueueFull: when too many windows wait.
            TimedOut: when ``timeout_s`` passed, most of it in the queue.
            ModelFault: when the model raised, took too long, or returned no finite number.
        """
        item = self._make_item(model, window, timeout_s)
        with self._changed:
            if self._main.size >= self.limit:
                raise QueueFull(waiting=self._main.size, limit=self.limit)
            self._enqueue(self._main, item)
        timer = item.loop.call_later(timeout_s, self._expire, item)
        try:
            forecasts = await item.future
        finally:
            timer.cancel()
            self._forget_cancelled(item)
        assert forecasts is not None
        return forecasts

    async def shadow(self, model: LoadedModel, window: Window) -> FloatArray | None:
        """As `forecast`, but served only while the main lane is empty.

        Returns:
            None where the window was dropped for newer ones.

        Raises:
            ModelFault: as `forecast`.
        """
        item = self._make_item(model, window, SHADOW_BUDGET_S)
        item.patient = True
        dropped = None
        with self._changed:
            if self._shadow.size >= self.shadow_limit:
                dropped = self._shadow.drop_oldest()
                self._tally.dropped += 1
            self._enqueue(self._shadow, item)
        if dropped is not None:
            _deliver([(dropped, None)])
        try:
            return await item.future
        finally:
            self._forget_cancelled(item)

    def _make_item(self, model: LoadedModel, window: Window, budget_s: float) -> _Item:
        stuck = self._stuck.get(model)
        if stuck is not None and stuck.is_alive():
            raise ModelFault(
                model.model_id, "timeout", "it is still at an earlier request; load it anew"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[FloatArray | None] = loop.create_future()
        rows = model.rows(window)
        number = next(self._numbers)
        return _Item(number, model, window, rows, loop, future, budget_s, monotonic())

    def _enqueue(self, lane: _Lane, item: _Item) -> None:
        if self._stopped:
            raise ServingError("this process is stopping")
        lane.put(item)
        self._ensure_thread()
        if not self._waking:
            self._schedule_wake(item.loop)

    def _schedule_wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Defer the wake-up by three event-loop iterations.

        So requests that are in the socket already join the batch.
        """
        self._waking, self._added_before = True, self._main.added
        loop.call_soon(loop.call_soon, loop.call_soon, self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._changed:
            if (
                self.one_core
                and self._added_before < self._main.added
                and self._main.size < self.cap
            ):
                # Requests still arrive. On one core the thread would keep the loop from reading.
                self._schedule_wake(loop)
                return
            self._waking = False
            self._changed.notify()

    def _ensure_thread(self) -> None:
        """Start a new thread where there is none, it died, or its model does not return."""
        if self._run is not None and self._run.overdue():
            self._abandon_thread(self._run)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
            self._thread.start()

    def _abandon_thread(self, run: _Run) -> None:
        model = run.items[0].model
        log.error(
            "model_id=%s has not come back; another thread goes on",
            model.model_id,
            extra={"model_id": model.model_id},
        )
        self._stuck[model] = run.thread
        self._tally.restarts += 1
        self._thread = self._run = None
        late = "it did not come back in time"
        _deliver([(item, ModelFault(model.model_id, "timeout", late)) for item in run.items])

    def _expire(self, item: _Item) -> None:
        """Fail an item whose deadline has passed; runs in its event loop."""
        if item.future.done():
            return
        with self._changed:
            self._main.remove(item)
            self._ensure_thread()
        now = monotonic()
        started = item.started_at or now
        waited = started - item.asked_at
        if now - started > waited:
            error: ServingError = ModelFault(
                item.model.model_id, "timeout", f"no answer within {item.budget_s:g} s"
            )
        else:
            error = item.time_out()
        item.future.set_exception(error)

    def _forget_cancelled(self, item: _Item) -> None:
        if item.future.cancelled():
            with self._changed:
                self._main.remove(item) or self._shadow.remove(item)

    # The thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        me = threading.current_thread()
        while (items := self._wait_for_batch(me)) is not None:
            try:
                outcomes = self._forecast_batch(items)
            except BaseException as error:
                # An error of ours, or of what a model left behind: the thread must go on.
                model_id = items[0].model.model_id
                log.exception("a batch of %s was lost", model_id, extra={"model_id": model_id})
                outcomes = [_model_fault(item.model, error) for item in items]
            _deliver(list(zip(items, outcomes, strict=True)))
            if self.one_core and self._main.size:
                # Yield to the event loop, so that it can send replies and read new requests.
                with self._changed, suppress(RuntimeError):
                    self._waking = True
                    items[0].loop.call_soon_threadsafe(self._schedule_wake, items[0].loop)
                    self._changed.wait(LOOK_S)

    def _wait_for_batch(self, me: threading.Thread) -> list[_Item] | None:
        """The next batch; None once another thread has replaced this one."""
        with self._changed:
            if self._thread is me:
                self._run = None
            while self._thread is me:
                items = self._take_batch(self._main) or self._take_batch(self._shadow)
                if items:
                    longest = max(item.budget_s for item in items)
                    self._run = _Run(me, items, (items[0].started_at or monotonic()) + longest)
                    return items
                if not self._changed.wait(LOOK_S):
                    # The event loop that was to wake the thread may have ended.
                    self._waking = False
            return None

    def _take_batch(self, lane: _Lane) -> list[_Item]:
        """Remove the next batch from a lane; empty when only items without a waiter were left."""
        while lane.size:
            model = lane.next_model()
            sizer = self._sizers.get(model)
            if sizer is None:
                sizer = self._sizers[model] = BatchSizer(self.cap)
            rows = sizer.cap()
            if lane is self._shadow:
                rows = min(rows, sizer.rows_within(SHADOW_SLICE_S))
            items = [item for item in lane.take(model, rows) if not item.over]
            if items:
                now = monotonic()
                for item in items:
                    item.started_at = now
                self._tally.batches += 1
                self._tally.windows += len(items)
                self._tally.sizes[len(items)] += 1
                return items
        return []

    def _forecast_batch(self, items: Sequence[_Item]) -> list[Outcome]:
        model = items[0].model
        began = perf_counter()
        try:
            forecasts = model.bundle.forecast_windows([item.window for item in items])
        except BaseException as error:
            if len(items) == 1:
                return [_model_fault(model, error)]
            return [
                item.time_out() if item.over else self._forecast_batch([item])[0] for item in items
            ]
        spent = perf_counter() - began
        with self._changed:
            self._sizers[model].record(sum(item.rows for item in items), spent)
        return list(forecasts)


def _model_fault(model: LoadedModel, error: BaseException) -> ModelFault:
    kind = "non_finite" if isinstance(error, NotFinite) else "error"
    fault = ModelFault(model.model_id, kind, f"{type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault


def _deliver(pairs: Sequence[tuple[_Item, Outcome]]) -> None:
    """Set the results of items, by one call into each event loop."""
    for loop in {item.loop for item, _ in pairs}:
        own_pairs = [pair for pair in pairs if pair[0].loop is loop]
        try:
            loop.call_soon_threadsafe(_set_results, own_pairs)
        except RuntimeError:
            # The loop is closed, so nothing waits for these answers.
            log.debug("%d answers came after their event loop had ended", len(own_pairs))


def _set_results(pairs: Sequence[tuple[_Item, Outcome]]) -> None:
    for item, outcome in pairs:
        if item.future.done():
            continue
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)
