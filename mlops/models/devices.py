"""Device, precision and threads of a network's fit.

Precision and the number of parts of a batch follow from the processor and the size of the
network alone, so that the same seed and data give the same weights. The number of threads is
chosen by measurement, because it cannot change the weights: a large network's batch is always
cut into two halves, whose gradients are added in a fixed order.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

import torch

from mlops.errors import ModelError

DEVICES = ("auto", "cpu", "cuda")

T = TypeVar("T")
R = TypeVar("R")

LARGE_PARAMETERS = 20_000
"""Parameters from which bfloat16 and two halves of a batch gain more than they cost."""

HALVES = 2
SMALLEST_HALF = 16
"""Samples in a half below which a processor's matrix tiles run empty."""

MEASURE_EVERY = 500
"""Batches between two measurements of the threads."""

MEASURED_BATCHES = 5
"""Batches timed each way in one measurement: two hundredths of all batches."""


def choose_device(wanted: str) -> torch.device:
    """The torch device of ``auto``, ``cpu`` or ``cuda``; ``auto`` prefers CUDA.

    Raises:
        ModelError: for a device that is unknown or not available.
    """
    if wanted not in DEVICES:
        raise ModelError(f"device={wanted!r} is not one of {', '.join(DEVICES)}")
    has_cuda = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise ModelError("device='cuda' is not available on this machine; use auto or cpu")
    return torch.device("cuda" if has_cuda else "cpu")


def choose_precision(device: torch.device, n_parameters: int) -> torch.dtype:
    """bfloat16 for a large network where the processor has native support, else float32."""
    if n_parameters < LARGE_PARAMETERS:
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    native = is_x86 and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if native else torch.float32


def parts_of_batch(device: torch.device, n_parameters: int, batch_size: int) -> int:
    """How many parts each batch of a fit is cut into."""
    worth_it = n_parameters >= LARGE_PARAMETERS and batch_size >= HALVES * SMALLEST_HALF
    return HALVES if device.type == "cpu" and worth_it else 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run each torch operation in one thread.

    Threads inside an operation spin while they wait: with one other busy process on two cores
    they slow a fit two hundredfold; a single thread is not slowed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class GradientWorkers:
    """Runs the parts of a batch one after the other or in parallel, whichever is faster.

    Both give the same result. The choice is measured on real batches and again every
    `MEASURE_EVERY` batches, because the load of the machine changes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # The calling thread works too, so the pool needs one thread less.
        self._pool = ThreadPoolExecutor(workers - 1) if workers > 1 else None
        self._batch = 0
        self._spent = {True: 0.0, False: 0.0}
        self.side_by_side = workers > 1

    def __enter__(self) -> GradientWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """Apply ``work`` to each part; results are in the order of the parts."""
        if self._pool is None or len(parts) == 1:
            return [work(part) for part in parts]
        phase = self._batch % MEASURE_EVERY
        self._batch += 1
        if phase >= 2 * MEASURED_BATCHES:
            return self._run(work, parts, self.side_by_side)
        return self._run_and_time(work, parts, phase)

    def _run_and_time(self, work: Callable[[T], R], parts: Sequence[T], phase: int) -> list[R]:
        if phase == 0:
            self._spent = {True: 0.0, False: 0.0}
        side_by_side = phase % 2 == 1
        started = perf_counter()
        results = self._run(work, parts, side_by_side)
        self._spent[side_by_side] += perf_counter() - started
        self.side_by_side = self._spent[True] <= self._spent[False]
        return results

    def _run(self, work: Callable[[T], R], parts: Sequence[T], side_by_side: bool) -> list[R]:
        if not side_by_side or self._pool is None:
            return [work(part) for part in parts]
        others = [self._pool.submit(work, part) for part in parts[1:]]
        first = work(parts[0])
        return [first, *(other.result() for other in others)]
