"""Two training loops over the same network, weights and series: ours, and the usual one.

The series is a laboratory one: what is learned is a fading sum of products of two inputs, so a
loop that loses precision, order or memory of the window would show it in the loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mlops.features.targets import TargetSpec
from mlops.models.base import Epoch, FitContext, History, count_usable_cores, default_recipe
from mlops.models.lstm import Lstm
from mlops.models.recipe import Recipe
from mlops.models.trainer import EVALUATION_BATCH, Network, TrainingHyperparameters, train_network
from mlops.service import Target

TARGET = TargetSpec(Target.RETURN, 1)
FEATURES = 5
FADING_BARS = 5.0
NOISE = 0.7
FIT_ROWS, SELECTION_ROWS = 5_000, 2_000
EPOCHS = 7
PROBED_BATCHES = 4
"""Batches with each number of threads, before the plain loop takes the faster for the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a measurement is; ``config`` replaces parts of the default LSTM's."""

    fit_rows: int = FIT_ROWS
    selection_rows: int = SELECTION_ROWS
    epochs: int = EPOCHS
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The default LSTM's own settings; patience never ends it early."""
        whole = {"epochs": self.epochs, "patience": self.epochs}
        return default_recipe("lstm", TARGET, {**whole, **self.config})

    def network(self) -> Network:
        """A network with the same initial weights on every call."""
        network = Lstm(self.recipe, TARGET).build(FEATURES)
        network.initialise(torch.Generator().manual_seed(0))
        return network


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Inputs (N, F), targets (N,), and the rows of training and validation."""

    inputs: Tensor
    learned: Tensor
    fit: Tensor
    selection: Tensor


def make_series(size: Size) -> Series:
    """A learnable signal of variance one with noise added."""
    rng = np.random.default_rng(0)
    first = size.recipe.sequence_length
    n = first + size.fit_rows + size.selection_rows
    inputs = rng.standard_normal((n, FEATURES)).astype(np.float32)
    fading = np.exp(-np.arange(20) / FADING_BARS)
    signal = np.convolve(inputs[:, 0] * inputs[:, 1], fading)[:n]
    learned = signal / signal.std() + NOISE * rng.standard_normal(n)
    return Series(
        torch.from_numpy(inputs),
        torch.from_numpy(learned.astype(np.float32)),
        torch.arange(first, first + size.fit_rows),
        torch.arange(first + size.fit_rows, n),
    )


class PlainLoop:
    """The loop of every tutorial: copied windows, a shuffling DataLoader, float32, AdamW.

    It is given what helps it: for each epoch the number of torch threads that is faster just
    then. The copies and the trial of threads are not held against it.
    """

    def __init__(self, series: Series, size: Size) -> None:
        torch.manual_seed(0)
        self.plan, self.network = TrainingHyperparameters.of(size.recipe), size.network()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.plan.learning_rate,
            weight_decay=self.plan.weight_decay,
        )
        every = series.inputs.unfold(0, self.plan.sequence_length, 1).transpose(1, 2)
        windows = [
            every[rows - self.plan.sequence_length + 1] for rows in (series.fit, series.selection)
        ]
        self.unseen, self.outcome = windows[1], series.learned[series.selection]
        fitted = TensorDataset(windows[0].contiguous(), series.learned[series.fit])
        self.loader = DataLoader(fitted, batch_size=self.plan.batch_size, shuffle=True)
        self.generator = torch.Generator().manual_seed(0)
        self.samples, self.seconds = 0, 0.0
        self.losses: list[float] = []

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds

    def epoch(self) -> None:
        """One pass; afterwards `losses` has the mean squared error on unseen windows."""
        before = torch.get_num_threads()
        batches = iter(self.loader)
        torch.set_num_threads(self._faster(batches))
        samples, seconds = self._timed(batches)
        self.samples, self.seconds = self.samples + samples, self.seconds + seconds
        self.losses.append(self._loss())
        torch.set_num_threads(before)

    def _faster(self, batches: Iterator[list[Tensor]]) -> int:
        speeds = {}
        for threads in {1, count_usable_cores()}:
            torch.set_num_threads(threads)
            samples, seconds = self._timed(islice(batches, PROBED_BATCHES))
            speeds[threads] = samples / seconds
        return max(speeds, key=lambda threads: speeds[threads])

    def _timed(self, batches: Iterator[list[Tensor]]) -> tuple[int, float]:
        self.network.train()
        samples, began = 0, time.perf_counter()
        for window, outcome in batches:
            self.optimiser.zero_grad()
            masks = self.network.masks(len(window), self.generator)
            forecast = self.network(window.transpose(0, 1), masks)
            torch.autograd.backward(nn.functional.mse_loss(forecast, outcome))
            nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.gradient_clip)
            self.optimiser.step()
            samples += len(window)
        return samples, time.perf_counter() - began

    def _loss(self) -> float:
        self.network.eval()
        with torch.no_grad():
            parts = [
                self.network(w.transpose(0, 1)) for w in torch.split(self.unseen, EVALUATION_BATCH)
            ]
        return float((torch.cat(parts) - self.outcome).square().mean())


def our_loop(
    series: Series, size: Size, *, threads: int, on_epoch: Callable[[Epoch], None]
) -> History:
    return train_network(
        size.network(),
        series.inputs,
        series.learned,
        fit_rows=series.fit,
        selection_rows=series.selection,
        config=TrainingHyperparameters.of(size.recipe),
        context=FitContext(seed=0, threads=threads, on_epoch=on_epoch),
    )
