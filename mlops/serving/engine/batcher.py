"""One thread forecasts for everybody; what waits while it is busy it takes together.

    forecast() -> queue -> thread takes the oldest and others of its model -> answers, one hand-over
    shadow()   -> queue that gives way: served when nobody waits, oldest dropped when full

There is no waiting for a batch to fill, so one client alone never waits. A batch that raises
is taken apart, and only the item that raises alone gets the error. The loop outlives whatever a
model does; a model that does not come back keeps its thread, and the others get a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, perf_counter
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from mlops.errors import ModelFault, NotFinite, QueueFull, ServingError, TimedOut
from mlops.models.windows import Window
from mlops.serving.engine.batch_size import SIZES, BatchSizer
from mlops.serving.engine.model_pool import LoadedModel

log = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float64]
Outcome: TypeAlias = "Floats | ServingError | None"
"""What an item ends with; None is a shadow that was dropped."""

QUEUE_LIMIT = 1024
SHADOW_LIMIT = 256
SHADOW_BUDGET_S = 5.0
SHADOW_SLICE_S = 0.005
"""A batch of shadow work may take so long: a request that comes meanwhile waits for it."""

STOP_TIMEOUT_S = 5.0
LOOK_S = 0.05
"""So often at least the thread looks for work."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the batcher has done since the start; ``waiting`` and ``shadows`` count just now.

    ``sizes`` counts batches by the windows in them; ``caps`` is the batch, in rows, that pays
    for each model; ``dropped`` counts shadows, ``restarts`` threads left to a stuck model.
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
    number: int
    model: LoadedModel
    window: Window
    rows: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Floats | None]
    budget_s: float
    asked_at: float
    patient: bool = False
    started_at: float | None = None

    @property
    def over(self) -> bool:
        """Answered, cancelled or out of time: nobody waits for its forecast."""
        late = not self.patient and monotonic() - self.asked_at > self.budget_s
        return late or self.future.done()

    def too_late(self) -> TimedOut:
        waited = (self.started_at or monotonic()) - self.asked_at
        return TimedOut(waited_s=waited, timeout_s=self.budget_s)


class _Lane:
    """Waiting items, by model; the caller holds the lock."""

    def __init__(self) -> None:
        self._by_model: dict[LoadedModel, deque[_Item]] = {}
        self.size = self.asked = 0

    def put(self, item: _Item) -> None:
        self._by_model.setdefault(item.model, deque()).append(item)
        self.size += 1
        self.asked += 1

    def model(self) -> LoadedModel:
        """Whose item has waited longest."""
        return min(self._by_model, key=lambda model: self._by_model[model][0].number)

    def take(self, model: LoadedModel, cap: int) -> Iterator[_Item]:
        """Items of a model, oldest first, until they fill ``cap`` rows; at least one."""
        rows = 0
        items = self._by_model[model]
        while items and (not rows or rows + items[0].rows <= cap):
            rows += items[0].rows
            self.size -= 1
            yield items.popleft()
        if not items:
            del self._by_model[model]

    def drop_oldest(self) -> _Item:
        [oldest] = self.take(self.model(), 0)
        return oldest

    def remove(self, item: _Item) -> bool:
        """Whether it was still waiting."""
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
    """A batch under way, and the thread that is at it."""

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
    """Forecasts for asyncio tasks; ``limit`` is how many windows may wait.

    On ``one_core`` (None: found out) the loop and the thread take turns anyway: then a batch
    begins when the loop has read all there is, since begun earlier it is only smaller.
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
        self.one_core = cores_of_process() == 1 if one_core is None else one_core
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
        self._known = 0

    def start(self) -> None:
        """Start the thread; asking for a forecast does so too."""
        with self._changed:
            self._stopped = False
            self._keep_alive()

    def stop(self) -> None:
        """End the thread after the batch it is at; whoever waits gets an error."""
        with self._changed:
            self._stopped = True
            left = self._main.clear() + self._shadow.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        _hand_over([(item, ServingError("this process is stopping")) for item in left])
        if thread is not None:
            thread.join(STOP_TIMEOUT_S)

    def statistics(self) -> Statistics:
        """How the batcher is doing."""
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

    async def forecast(self, model: LoadedModel, window: Window, *, timeout_s: float) -> Floats:
        """One forecast a bar of the window, as `Bundle.forecast_windows` gives it.

        Raises:
            QueueFull: when too many windows wait.
            TimedOut: when its turn came too late.
            ModelFault: when the model raised, took too long, or gave no number.
        """
        item = self._made(model, window, timeout_s)
        with self._changed:
            if self._main.size >= self.limit:
                raise QueueFull(waiting=self._main.size, limit=self.limit)
            self._admit(self._main, item)
        timer = item.loop.call_later(timeout_s, self._expire, item)
        try:
            found = await item.future
        finally:
            timer.cancel()
            self._forget_cancelled(item)
        assert found is not None
        return found

    async def shadow(self, model: LoadedModel, window: Window) -> Floats | None:
        """As `forecast`, when nobody else waits; None where it was dropped for newer ones.

        Raises:
            ModelFault: as `forecast`.
        """
        item = self._made(model, window, SHADOW_BUDGET_S)
        item.patient = True
        dropped = None
        with self._changed:
            if self._shadow.size >= self.shadow_limit:
                dropped = self._shadow.drop_oldest()
                self._tally.dropped += 1
            self._admit(self._shadow, item)
        if dropped is not None:
            _hand_over([(dropped, None)])
        try:
            return await item.future
        finally:
            self._forget_cancelled(item)

    def _made(self, model: LoadedModel, window: Window, budget_s: float) -> _Item:
        stuck = self._stuck.get(model)
        if stuck is not None and stuck.is_alive():
            raise ModelFault(
                model.model_id, "timeout", "it is still at an earlier request; load it anew"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Floats | None] = loop.create_future()
        rows = model.rows(window)
        number = next(self._numbers)
        return _Item(number, model, window, rows, loop, future, budget_s, monotonic())

    def _admit(self, lane: _Lane, item: _Item) -> None:
        if self._stopped:
            raise ServingError("this process is stopping")
        lane.put(item)
        self._keep_alive()
        if not self._waking:
            self._gather(item.loop)

    def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the thread three turns of the loop later: what was read by then goes along."""
        self._waking, self._known = True, self._main.asked
        loop.call_soon(loop.call_soon, loop.call_soon, self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._changed:
            if self.one_core and self._known < self._main.asked and self._main.size < self.cap:
                # The thread would only take the core from the loop, which reads the rest of it.
                self._gather(loop)
                return
            self._waking = False
            self._changed.notify()

    def _give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop hand out the answers and read what comes of them."""
        with self._changed, suppress(RuntimeError):
            self._waking = True
            loop.call_soon_threadsafe(self._gather, loop)
            self._changed.wait(LOOK_S)

    def _keep_alive(self) -> None:
        """Have a thread that works: a new one where it died or a model keeps it."""
        if self._run is not None and self._run.overdue():
            self._leave_to_its_model(self._run)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
            self._thread.start()

    def _leave_to_its_model(self, run: _Run) -> None:
        model = run.items[0].model
        told = "model_id=%s has not come back; another thread goes on"
        log.error(told, model.model_id, extra={"model_id": model.model_id})
        self._stuck[model] = run.thread
        self._tally.restarts += 1
        self._thread = self._run = None
        why = "it did not come back in time"
        _hand_over([(item, ModelFault(model.model_id, "timeout", why)) for item in run.items])

    def _expire(self, item: _Item) -> None:
        """The time of an item is up; runs in its event loop."""
        if item.future.done():
            return
        with self._changed:
            self._main.remove(item)
            self._keep_alive()
        now = monotonic()
        started = item.started_at or now
        waited = started - item.asked_at
        if now - started > waited:
            error: ServingError = ModelFault(
                item.model.model_id, "timeout", f"no answer within {item.budget_s:g} s"
            )
        else:
            error = item.too_late()
        item.future.set_exception(error)

    def _forget_cancelled(self, item: _Item) -> None:
        if item.future.cancelled():
            with self._changed:
                self._main.remove(item) or self._shadow.remove(item)

    # The thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            items = self._next(me)
            if items is None:
                return
            try:
                outcomes = self._outcomes(items)
            except BaseException as error:
                # A fault of ours, or of a thing a model put in our way: the loop goes on.
                lost = items[0].model.model_id
                log.exception("a batch of %s was lost", lost, extra={"model_id": lost})
                outcomes = [_fault(item.model, error) for item in items]
            _hand_over(list(zip(items, outcomes, strict=True)))
            if self.one_core and self._main.size:
                self._give_way(items[0].loop)

    def _next(self, me: threading.Thread) -> list[_Item] | None:
        """The next batch; None when this thread is not wanted any more."""
        with self._changed:
            if self._thread is me:
                self._run = None
            while self._thread is me:
                items = self._batch(self._main) or self._batch(self._shadow)
                if items:
                    longest = max(item.budget_s for item in items)
                    self._run = _Run(me, items, (items[0].started_at or monotonic()) + longest)
                    return items
                if not self._changed.wait(LOOK_S):
                    # Whoever was to wake it may have ended with its event loop.
                    self._waking = False
            return None

    def _batch(self, lane: _Lane) -> list[_Item]:
        """Take what goes together, less what nobody waits for; empty when nothing is left."""
        while lane.size:
            model = lane.model()
            items = [item for item in lane.take(model, self._rows(lane, model)) if not item.over]
            if items:
                now = monotonic()
                for item in items:
                    item.started_at = now
                self._tally.batches += 1
                self._tally.windows += len(items)
                self._tally.sizes[len(items)] += 1
                return items
        return []

    def _rows(self, lane: _Lane, model: LoadedModel) -> int:
        sizer = self._sizers.get(model)
        if sizer is None:
            sizer = self._sizers[model] = BatchSizer(self.cap)
        cap = sizer.cap()
        return cap if lane is self._main else min(cap, sizer.rows_within(SHADOW_SLICE_S))

    def _outcomes(self, items: Sequence[_Item]) -> list[Outcome]:
        model = items[0].model
        began = perf_counter()
        try:
            found = model.bundle.forecast_windows([item.window for item in items])
        except BaseException as error:
            if len(items) == 1:
                return [_fault(model, error)]
            return [item.too_late() if item.over else self._outcomes([item])[0] for item in items]
        spent = perf_counter() - began
        with self._changed:
            self._sizers[model].record(sum(item.rows for item in items), spent)
        return list(found)


def cores_of_process() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fault(model: LoadedModel, error: BaseException) -> ModelFault:
    kind = "non_finite" if isinstance(error, NotFinite) else "error"
    fault = ModelFault(model.model_id, kind, f"{type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault


def _hand_over(pairs: Sequence[tuple[_Item, Outcome]]) -> None:
    """Give outcomes to whoever waits, by one call for each event loop."""
    for loop in {item.loop for item, _ in pairs}:
        own = [pair for pair in pairs if pair[0].loop is loop]
        try:
            loop.call_soon_threadsafe(_settle, own)
        except RuntimeError:
            # The loop is closed, and with it everybody who waited there.
            log.debug("%d answers came after their event loop had ended", len(own))


def _settle(pairs: Sequence[tuple[_Item, Outcome]]) -> None:
    for item, outcome in pairs:
        if item.future.done():
            continue
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)
