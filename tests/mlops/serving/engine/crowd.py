"""A model whose forecasts are known and can be held, and callers that ask a batcher for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from mlops.models.windows import Window
from mlops.serving.engine.batch_size import BatchSizer
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel

WARM_UP = 3
LONG_S = 30.0
"""A limit that a test does not reach."""


class Doubler:
    """Gives twice the close; raises on what is marked, and waits where it is told to."""

    def __init__(self) -> None:
        self.config = {"warm_up": WARM_UP}
        self.batches: list[list[float]] = []
        self.poison: dict[float, BaseException] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def forecast_windows(self, windows: list[Window]) -> list[np.ndarray]:
        marks = [float(window.values[-1, 3]) for window in windows]
        self.batches.append(marks)
        self.entered.set()
        assert self.gate.wait(LONG_S)
        for mark in marks:
            if mark in self.poison:
                raise self.poison[mark]
        return [2 * window.values[:, 3] for window in windows]


def model_of(bundle: Doubler, name: str = "lstm_a") -> LoadedModel:
    return LoadedModel(name, "digest", 1, 1.0, cast(Any, bundle))


def window(mark: float, bars: int = WARM_UP) -> Window:
    values = np.full((bars, 5), float(mark))
    times = np.arange(bars).astype("datetime64[h]").astype("datetime64[ns]")
    return Window(values, times, np.zeros(bars, dtype=bool))


@contextmanager
def running(**options: Any) -> Iterator[Batcher]:
    batcher = Batcher(**options)
    try:
        yield batcher
    finally:
        batcher.stop()


async def entered(bundle: Doubler) -> None:
    """Until the thread is inside the model."""
    assert await asyncio.to_thread(bundle.entered.wait, LONG_S)


class Crowd:
    """One forecast held in the thread, and what was asked while it was."""

    def __init__(self, batcher: Batcher, bundle: Doubler, model: LoadedModel) -> None:
        self.batcher, self.bundle, self.model = batcher, bundle, model
        self.tasks: list[asyncio.Task[Any]] = []

    async def hold(self) -> None:
        self.bundle.gate.clear()
        await self.ask(0)
        await entered(self.bundle)

    async def ask(self, *marks: float, **options: Any) -> list[asyncio.Task[Any]]:
        model, request = options.pop("model", self.model), options.pop("request", None)
        asked = [
            asyncio.ensure_future(
                self.batcher.forecast(
                    model,
                    window(mark, **options),
                    timeout_s=LONG_S,
                    request=request,
                )
            )
            for mark in marks
        ]
        self.tasks += asked
        await asyncio.sleep(0)
        return asked

    async def release(self) -> list[Any]:
        self.bundle.gate.set()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


def know(batcher: Batcher, model: LoadedModel) -> None:
    """Let the batcher know what batches of a model cost: the more in one, the better."""
    sizer = batcher._sizers[model] = BatchSizer(batcher.cap)
    for size in sizer.sizes:
        sizer.record(size, 1e-4)


Story = Callable[[Crowd], Awaitable[None]]


def play(story: Story, bundle: Doubler, model: LoadedModel, **options: Any) -> Batcher:
    """Run a story whose first forecast is held in the thread."""

    async def held() -> None:
        crowd = Crowd(batcher, bundle, model)
        await crowd.hold()
        await story(crowd)

    with running(**options) as batcher:
        know(batcher, model)
        asyncio.run(held())
    return batcher
