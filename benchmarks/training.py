"""Training speed of the default LSTM beside a plain DataLoader loop, and with a busy neighbour."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.figure import Figure
from benchmarks.loops import PlainLoop, Size, make_series, our_loop
from mlops.models.base import Epoch, count_usable_cores
from mlops.models.trainer import TrainingHyperparameters

IDLE_EPOCHS, BUSY_EPOCHS = 5, 10
NEIGHBOUR_ROWS = 2_500
BUSY = "while True: pass"


def against_plain_loop(size: Size | None = None) -> list[Figure]:
    """Run both loops alternately, epoch by epoch, so that other processes disturb both alike."""
    size = size or Size()
    load = os.getloadavg()[0]
    series = make_series(size)
    plain = PlainLoop(series, size)
    ours = our_loop(series, size, threads=count_usable_cores(), on_epoch=lambda _: plain.epoch())
    ratio = ours.samples_per_second / plain.samples_per_second
    loss = min(epoch.selection_loss for epoch in ours.epochs)
    peer = min(plain.losses)
    plan, units = TrainingHyperparameters.of(size.recipe), size.recipe.params["lstm_units"]
    return [
        Figure(
            f"training an LSTM of {units}, T={plan.sequence_length}, batch {plan.batch_size}",
            f"{ratio:.2f} times as fast: {ours.samples_per_second:,.0f} samples/s",
            ">= 1.5 times",
            ratio >= 1.5,
            f"a plain DataLoader loop in float32: {plain.samples_per_second:,.0f} samples/s; "
            f"ours in {ours.precision}; load average {load:.1f} on {os.cpu_count()} cores",
        ),
        Figure(
            f"its validation loss, best of {size.epochs} epochs",
            f"{loss:.4f} ({loss / peer - 1:+.1%})",
            "within 2 %",
            abs(loss / peer - 1) <= 0.02,
            f"the plain loop: {peer:.4f}; without learning "
            f"{float(series.learned[series.selection].var()):.4f}",
        ),
    ]


@dataclass(slots=True)
class Neighbour:
    """A process that keeps one core busy, started in the middle of a training."""

    after: int
    process: subprocess.Popen[bytes] | None = None
    ended: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def look(self, epoch: Epoch) -> None:
        self.ended.append(time.perf_counter())
        if epoch.number == self.after:
            self.process = subprocess.Popen([sys.executable, "-c", BUSY])

    @property
    def seconds(self) -> Sequence[float]:
        """Wall time of each epoch."""
        return [b - a for a, b in zip(self.ended, self.ended[1:], strict=False)]


@contextmanager
def neighbour_after(epochs: int) -> Iterator[Neighbour]:
    """A busy process that starts after some epochs and ends with the block."""
    neighbour = Neighbour(epochs)
    try:
        yield neighbour
    finally:
        if neighbour.process is not None:
            neighbour.process.kill()
            neighbour.process.wait()


def beside_a_busy_neighbour(size: Size | None = None, *, idle: int = IDLE_EPOCHS) -> Figure:
    """Throughput before and after another process begins to spin on a core."""
    size = size or Size(
        fit_rows=NEIGHBOUR_ROWS, selection_rows=256, epochs=IDLE_EPOCHS + BUSY_EPOCHS
    )
    with neighbour_after(idle) as neighbour:
        our_loop(make_series(size), size, threads=count_usable_cores(), on_epoch=neighbour.look)
    before, after = neighbour.seconds[:idle], neighbour.seconds[idle:]
    free, busy = (len(part) * size.fit_rows / sum(part) for part in (before, after))
    return Figure(
        "training beside a busy neighbour",
        f"{busy / free:.0%} of the idle speed: {busy:,.0f} samples/s",
        "> 33 %",
        busy > free / 3,
        f"before it came: {free:,.0f} samples/s on {os.cpu_count()} cores",
    )


def figures(*, quick: bool = False) -> list[Figure]:
    size = Size(fit_rows=1_000, selection_rows=500, epochs=2) if quick else None
    return [*against_plain_loop(size), beside_a_busy_neighbour(size, idle=1 if quick else 5)]
