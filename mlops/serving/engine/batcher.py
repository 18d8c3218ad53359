"""Batches forecasts: one thread runs the models, and takes windows that wait together in one batch.

    forecast() of a single window -> single lane -> thread: windows of one model -> answers
    forecast() of one of several  -> bulk lane, served when no single window waits, or in its turn
    shadow()                      -> shadow lane, served when nobody else waits; drops its oldest

The thread never waits for a batch to fill, so a lone client is not delayed. A batch that raises is
forecast again window by window, and only the window that raises alone gets the error. A model that
does not return keeps its thread, and a new thread serves the others.

A time-out is a version's fault where the version used more than half of the time (see `stalls`);
until it has used all that the queue left of it, it gets as much time again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
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
from mlops.serving.engine.lanes import Item, Lane, Run
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.engine.stalls import TICK_S, StallClock, ThreadClock

log = logging.getLogger(__name__)

Outcome: TypeAlias = "FloatArray | ServingError | None"
"""The result of an item; None for a shadow that was dropped."""

QUEUE_LIMIT = 1024
SHADOW_LIMIT = 256
SHADOW_BUDGET_S = 5.0
SLICE_S = 0.005
"""Longest batch of bulk or shadow work: a single window waits for its end."""

SINGLE_TURNS = 4
"""After so many batches of single windows the bulk lane has a turn, so that its windows go on."""

STOP_TIMEOUT_S = 5.0
WARN_EVERY_S = 1.0
"""Least seconds between two log lines about a stalled process."""

LEAST_WAIT_S = 0.005
"""Least seconds by which a deadline is deferred."""

LOOK_S = 0.05
"""The thread looks for work at least this often, in case the loop that was to wake it ended."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the batcher has done since the start.

    Args:
        waiting: Windows of requests that wait now.
        shadows: Windows in the shadow lane now.
        dropped: Shadows that were dropped.
        restarts: Threads that were left to a model that did not return.
        stalled: Windows whose time ran out because this process was stalled.
        sizes: Batches by the number of windows in them.
        caps: The best batch size of each model, in rows.
    """

    waiting: int
    shadows: int
    batches: int
    windows: int
    dropped: int
    restarts: int
    stalled: int
    sizes: Mapping[int, int]
    caps: Mapping[str, int]


@dataclass(slots=True)
class _Tally:
    batches: int = 0
    windows: int = 0
    dropped: int = 0
    restarts: int = 0
    stalled: int = 0
    sizes: Counter[int] = field(default_factory=Counter)


class Batcher:
    """Forecasts for asyncio tasks, in batches.

    Args:
        limit: Single windows that may wait, and windows of larger requests.
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
        self.cap = cap if batching else 1
        self.one_core = count_usable_cores() == 1 if one_core is None else one_core
        self._numbers = count()
        self._changed = threading.Condition(threading.Lock())
        self._single, self._bulk, self._shadow = Lane(limit), Lane(limit), Lane(shadow_limit)
        self._turns = 0
        self._sizers: WeakKeyDictionary[LoadedModel, BatchSizer] = WeakKeyDictionary()
        self._stuck: WeakKeyDictionary[LoadedModel, threading.Thread] = WeakKeyDictionary()
        self._tally = _Tally()
        self._thread: threading.Thread | None = None
        self._run: Run | None = None
        self._stopped = False
        self._waking = False
        self._added_before = 0
        self._stalls = StallClock()
        self._ticking: asyncio.AbstractEventLoop | None = None
        self._warned_at = -math.inf

    def start(self) -> None:
        """Start the thread; `forecast` and `shadow` do so too."""
        with self._changed:
            self._stopped = False
            self._ensure_thread()

    def stop(self) -> None:
        """End the thread after its current batch; waiting items fail with `ServingError`."""
        with self._changed:
            self._stopped = True
            left = self._single.clear() + self._bulk.clear() + self._shadow.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        _deliver([(item, ServingError("this process is stopping")) for item in left])
        if thread is not None:
            thread.join(STOP_TIMEOUT_S)

    def statistics(self) -> Statistics:
        """The counts since the start, and the queues now."""
        with self._changed:
            return Statistics(
                waiting=self._waiting,
                shadows=self._shadow.size,
                batches=self._tally.batches,
                windows=self._tally.windows,
                dropped=self._tally.dropped,
                restarts=self._tally.restarts,
                stalled=self._tally.stalled,
                sizes=dict(self._tally.sizes),
                caps={model.model_id: sizer.best for model, sizer in self._sizers.items()},
            )

    @property
    def limit(self) -> int:
        return self._single.limit

    @property
    def _waiting(self) -> int:
        return self._single.size + self._bulk.size

    async def forecast(
        self,
        model: LoadedModel,
        window: Window,
        *,
        timeout_s: float,
        request: Hashable | None = None,
    ) -> FloatArray:
        """The forecasts (n,) of one window, as `Bundle.forecast_windows` returns them.

        Args:
            request: A key of the request that the window came in with others; single windows,
                which have None, go before it.

        Raises:
            QueueFull: when too many windows wait.
            TimedOut: when ``timeout_s`` passed, most of it in the queue or in a stalled process.
            ModelFault: when the model raised, used too long, or returned no finite number.
        """
        lane = self._single if request is None else self._bulk
        item = self._make_item(lane, request, model, window, timeout_s)
        with self._changed:
            if lane.full:
                raise QueueFull(waiting=lane.size, limit=lane.limit)
            self._enqueue(item)
        item.timer = item.loop.call_later(timeout_s, self._expire, item)
        try:
            forecasts = await item.future
        finally:
            item.timer.cancel()
            self._forget_cancelled(item)
        assert forecasts is not None
        return forecasts

    async def shadow(self, model: LoadedModel, window: Window) -> FloatArray | None:
        """As `forecast`, but served only while no request waits.

        Returns:
            None where the window was dropped for newer ones.

        Raises:
            ModelFault: as `forecast`.
        """
        item = self._make_item(self._shadow, None, model, window, SHADOW_BUDGET_S)
        item.patient = True
        dropped = None
        with self._changed:
            if self._shadow.full:
                dropped = self._shadow.drop_oldest()
                self._tally.dropped += 1
            self._enqueue(item)
        if dropped is not None:
            _deliver([(dropped, None)])
        try:
            return await item.future
        finally:
            self._forget_cancelled(item)

    def _make_item(
        self,
        lane: Lane,
        request: Hashable | None,
        model: LoadedModel,
        window: Window,
        budget_s: float,
    ) -> Item:
        stuck = self._stuck.get(model)
        if stuck is not None and stuck.is_alive():
            raise ModelFault(
                model.model_id, "timeout", "it is still at an earlier request; load it anew"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[FloatArray | None] = loop.create_future()
        return Item(
            number=next(self._numbers),
            lane=lane,
            request=request,
            model=model,
            window=window,
            rows=model.rows(window),
            loop=loop,
            future=future,
            budget_s=budget_s,
            asked_at=monotonic(),
            stalled_before_s=self._stalls.stalled_s,
        )

    def _enqueue(self, item: Item) -> None:
        if self._stopped:
            raise ServingError("this process is stopping")
        item.lane.put(item)
        self._ensure_thread()
        if self._ticking is not item.loop:
            self._ticking = item.loop
            self._expect_tick(item.loop)
        if not self._waking:
            self._schedule_wake(item.loop)

    def _schedule_wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Defer the wake-up by three event-loop iterations.

        So requests that are in the socket already join the batch.
        """
        self._waking, self._added_before = True, self._added
        loop.call_soon(loop.call_soon, loop.call_soon, self._wake, loop)

    @property
    def _added(self) -> int:
        return self._single.added + self._bulk.added

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._changed:
            if self.one_core and self._added_before < self._added and self._waiting < self.cap:
                # Requests still arrive. On one core the thread would keep the loop from reading.
                self._schedule_wake(loop)
                return
            self._waking = False
            self._changed.notify()

    def _expect_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stalls.expect_tick()
        loop.call_later(TICK_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note how late the event loop is, for as long as windows wait or are forecast.

        A thread whose model hangs is replaced here too: who waits behind it may be the last caller
        for a while.
        """
        with self._changed:
            if self._ticking is not loop:
                return
            self._read_stalls()
            if self._run is None and not (self._waiting or self._shadow.size):
                self._ticking = None
                self._stalls.expect_none()
            else:
                self._expect_tick(loop)
                if not self._stopped:
                    self._ensure_thread()

    def _read_stalls(self) -> float:
        return self._stalls.read(None if self._run is None else self._run.clock)

    def _ensure_thread(self) -> None:
        """Start a new thread where there is none, it died, or its model does not return."""
        run = self._run
        if run is not None and run.is_late() and run.is_overdue(self._read_stalls()):
            self._abandon_thread(run)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
            self._thread.start()

    def _abandon_thread(self, run: Run) -> None:
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

    def _expire(self, item: Item) -> None:
        """Fail an item whose deadline has passed, or defer it; runs in its event loop."""
        if item.future.done():
            return
        with self._changed:
            item.lane.remove(item)
            self._ensure_thread()
            stalled_s = self._read_stalls()
            left = item.time_left_s(stalled_s)
            error = None if left > 0 else self._explain_timeout(item, stalled_s)
        if error is None:
            item.timer = item.loop.call_later(max(left, LEAST_WAIT_S), self._expire, item)
        else:
            item.future.set_exception(error)

    def _explain_timeout(self, item: Item, stalled_s: float) -> ServingError:
        """A fault where the version used more than half of the time and has not ended."""
        half, run = item.budget_s / 2, item.run
        if run is not None and not run.ended and run.used_s(stalled_s) > half:
            late = f"no answer within {item.budget_s:g} s"
            return ModelFault(item.model.model_id, "timeout", late)
        stalled_s -= item.stalled_before_s
        if stalled_s <= half:
            return item.time_out()
        self._tally.stalled += 1
        error = TimedOut(waited_s=item.waited_s, timeout_s=item.budget_s, stalled_s=stalled_s)
        self._warn_of_stall(item.model.model_id, error)
        return error

    def _warn_of_stall(self, model_id: str, error: TimedOut) -> None:
        now = monotonic()
        if now - self._warned_at > WARN_EVERY_S:
            self._warned_at = now
            log.warning("model_id=%s %s", model_id, error, extra={"model_id": model_id})

    def _forget_cancelled(self, item: Item) -> None:
        if item.future.cancelled():
            with self._changed:
                item.lane.remove(item)

    # The thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        me, clock = threading.current_thread(), ThreadClock()
        while (run := self._wait_for_batch(me, clock)) is not None:
            items = run.items
            try:
                outcomes = self._forecast_batch(items)
            except BaseException as error:
                # An error of ours, or of what a model left behind: the thread must go on.
                model_id = items[0].model.model_id
                log.exception("a batch of %s was lost", model_id, extra={"model_id": model_id})
                outcomes = [_model_fault(item.model, error) for item in items]
            run.ended = True
            _deliver(list(zip(items, outcomes, strict=True)))
            if self.one_core and self._waiting:
                # Yield to the event loop, so that it can send replies and read new requests.
                with self._changed, suppress(RuntimeError):
                    self._waking = True
                    items[0].loop.call_soon_threadsafe(self._schedule_wake, items[0].loop)
                    self._changed.wait(LOOK_S)

    def _wait_for_batch(self, me: threading.Thread, clock: ThreadClock) -> Run | None:
        """The next batch; None once another thread has replaced this one."""
        with self._changed:
            if self._thread is me and self._run is not None:
                # Items refer to their run: without the cycle they are freed at once.
                self._run.items, self._run = (), None
            while self._thread is me:
                if items := self._take_next_batch():
                    computed, stalled = clock.computed_s(), self._stalls.stalled_s
                    longest = max(item.budget_s for item in items)
                    run = Run(me, clock, items, longest, monotonic(), computed, stalled)
                    for item in items:
                        item.run = run
                    self._run = run
                    return run
                if not self._changed.wait(LOOK_S):
                    # The event loop that was to wake the thread may have ended.
                    self._waking = False
            return None

    def _take_next_batch(self) -> list[Item]:
        """A batch of the lane whose turn it is; empty where nothing waits."""
        lanes = [self._single, self._bulk, self._shadow]
        if self._turns >= SINGLE_TURNS and self._bulk.size:
            lanes = [self._bulk, self._single, self._shadow]
        for lane in lanes:
            if items := self._take_batch(lane):
                self._turns = self._turns + 1 if lane is self._single else 0
                return items
        return []

    def _take_batch(self, lane: Lane) -> list[Item]:
        """Remove the next batch from a lane; empty when only items without a waiter were left."""
        while lane.size:
            model = lane.next_model()
            sizer = self._sizers.get(model)
            if sizer is None:
                sizer = self._sizers[model] = BatchSizer(self.cap)
            rows = sizer.cap()
            if lane is not self._single:
                rows = min(rows, sizer.rows_within(SLICE_S))
            items = [item for item in lane.take(model, rows) if not item.over]
            if items:
                self._tally.batches += 1
                self._tally.windows += len(items)
                self._tally.sizes[len(items)] += 1
                return items
        return []

    def _forecast_batch(self, items: Sequence[Item]) -> list[Outcome]:
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


def _deliver(pairs: Sequence[tuple[Item, Outcome]]) -> None:
    """Set the results of items, by one call into each event loop."""
    for loop in {item.loop for item, _ in pairs}:
        own_pairs = [pair for pair in pairs if pair[0].loop is loop]
        try:
            loop.call_soon_threadsafe(_set_results, own_pairs)
        except RuntimeError:
            # The loop is closed, so nothing waits for these answers.
            log.debug("%d answers came after their event loop had ended", len(own_pairs))


def _set_results(pairs: Sequence[tuple[Item, Outcome]]) -> None:
    for item, outcome in pairs:
        if item.future.done():
            continue
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)
