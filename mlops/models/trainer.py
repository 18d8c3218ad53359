"""The training loop of a network, with early stopping and gradients in fixed order.

The (N, F) features stay on the device; the windows of a batch are gathered from them by row
number just before the batch is used, so windows are never stored.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from mlops.errors import TrainingError
from mlops.models.base import Epoch, FitContext, History
from mlops.models.devices import GradientWorkers, choose_precision, one_torch_thread, parts_of_batch
from mlops.models.recipe import Recipe

DEADLINE_BATCHES = 32
"""Batches between two checks of the deadline."""

EVALUATION_BATCH = 2_048

BETTER = 1e-4
"""Relative improvement of the selection loss that counts as progress."""


class Network(nn.Module):
    """A network that gives one number a window (n,) from windows (T, n, F).

    `masks` draws dropout before the forward pass, once for each window: the cost is negligible,
    and parts of a batch can run in parallel without sharing a generator.
    """

    @abstractmethod
    def masks(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Scaled dropout masks for ``n`` windows, first dimension n."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""


def dropout_mask(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    """A mask with a share of ``rate`` zeros, whose other entries are scaled to a mean of one."""
    kept = torch.rand(shape, generator=generator) >= rate
    return kept / (1 - rate)


@dataclass(frozen=True, slots=True)
class TrainingHyperparameters:
    """Hyperparameters of the training loop.

    ``sequence_length`` is in bars, ``patience`` in epochs without a better selection loss. With
    ``averaging`` above zero the network forecasts with the exponential mean of its weights over
    batches, which reduces the noise of the last steps.
    """

    sequence_length: int
    learning_rate: float
    batch_size: int
    epochs: int
    patience: int
    weight_decay: float
    gradient_clip: float
    averaging: float

    @classmethod
    def of(cls, recipe: Recipe) -> TrainingHyperparameters:
        """Read a checked recipe."""
        names = [name for name in cls.__slots__ if name != "sequence_length"]
        return cls(recipe.sequence_length, **{name: recipe.params[name] for name in names})  # type: ignore[arg-type]


def gather_windows(features: Tensor, rows: Tensor, sequence_length: int) -> Tensor:
    """Windows (T, n, F) that end at ``rows``."""
    back = torch.arange(1 - sequence_length, 1)[:, None]
    return features[(rows + back).to(features.device)]


def train_network(
    network: Network,
    features: Tensor,
    learned: Tensor,
    *,
    fit_rows: Tensor,
    selection_rows: Tensor,
    config: TrainingHyperparameters,
    context: FitContext,
) -> History:
    """Fit ``network`` in place and give it the weights of its best epoch.

    Args:
        features: Scaled features of every bar (N, F).
        learned: Standardised labels of every bar (N,); only those of the rows are read.
        fit_rows: Positions to fit on.
        selection_rows: Positions whose loss decides the best epoch and when to stop.

    Raises:
        TrainingTimeout: when the context's deadline passes.
        TrainingError: when the loss is no longer finite.
    """
    started = perf_counter()
    loop = _TrainingLoop(network, features, learned, config, context)
    epochs: list[Epoch] = []
    best, best_loss, waited = loop.weights(), float("inf"), 0
    with one_torch_thread(), GradientWorkers(min(context.threads, loop.parts)) as workers:
        for number in range(1, config.epochs + 1):
            fit_loss = loop.run_epoch(fit_rows, workers)
            loss = loop.evaluate(selection_rows)
            better = loss < best_loss * (1 - BETTER)
            waited = 0 if better else waited + 1
            if better:
                best, best_loss = loop.weights(), loss
            epochs.append(Epoch(number, fit_loss, loss, better))
            if context.on_epoch is not None:
                context.on_epoch(epochs[-1])
            if waited >= config.patience:
                break
        n_workers = workers.workers if workers.side_by_side else 1
    loop.restore(best)
    seconds = perf_counter() - started
    return History(
        epochs=tuple(epochs),
        seconds=seconds,
        samples_per_second=loop.samples / max(loop.seconds, 1e-9),
        device=loop.device.type,
        precision=str(loop.precision).removeprefix("torch."),
        workers=n_workers,
    )


class _TrainingLoop:
    """The state of one fit: network, data, optimiser and random generator."""

    def __init__(
        self,
        network: Network,
        features: Tensor,
        learned: Tensor,
        config: TrainingHyperparameters,
        context: FitContext,
    ) -> None:
        self.network, self.features, self.learned = network, features, learned
        self.config, self.context = config, context
        self.parameters: list[Tensor] = list(network.parameters())
        size = sum(parameter.numel() for parameter in self.parameters)
        self.device = features.device
        self.precision = choose_precision(self.device, size)
        self.parts = parts_of_batch(self.device, size, config.batch_size)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.averaged = [p.detach().clone() for p in self.parameters] if config.averaging else []
        self.steps = self.samples = 0
        self.seconds = 0.0

    def run_epoch(self, rows: Tensor, workers: GradientWorkers) -> float:
        """One pass over ``rows`` in a new random order; returns the mean loss."""
        started = perf_counter()
        self.network.train()
        order = rows[torch.randperm(len(rows), generator=self.generator)]
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(torch.split(order, self.config.batch_size)):
            if number % DEADLINE_BATCHES == 0:
                self.context.check_deadline("training")
            total += self._train_batch(batch, workers) * len(batch)
        self.samples += len(rows)
        self.seconds += perf_counter() - started
        mean = float(total) / len(rows)
        if not mean < float("inf"):
            raise TrainingError(
                f"the training loss became {mean} in a network of learning_rate="
                f"{self.config.learning_rate}; use a smaller learning_rate or gradient_clip"
            )
        return mean

    def _train_batch(self, batch: Tensor, workers: GradientWorkers) -> Tensor:
        masks = self.network.masks(len(batch), self.generator)
        masks_of_parts = [mask.chunk(self.parts) for mask in masks]
        parts = [
            (rows, [chunks[number] for chunks in masks_of_parts])
            for number, rows in enumerate(batch.chunk(self.parts))
        ]
        results = workers.run(lambda part: self._compute_gradient(*part, n=len(batch)), parts)
        loss, gradients = results[0]
        for part_loss, part_gradients in results[1:]:
            loss = loss + part_loss
            torch._foreach_add_(gradients, part_gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip, foreach=True)
        self.optimiser.step()
        self._average_weights()
        return loss

    def _compute_gradient(
        self, rows: Tensor, masks: list[Tensor], *, n: int
    ) -> tuple[Tensor, list[Tensor]]:
        """A part's share of the batch's mean loss, and of its gradient."""
        window = gather_windows(self.features, rows, self.config.sequence_length)
        is_half = self.precision is not torch.float32
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_half):
            forecast = self.network(window, [mask.to(self.device) for mask in masks])
        loss = (forecast.float() - self.learned[rows.to(self.device)]).square().sum() / n
        return loss.detach(), list(torch.autograd.grad(loss, self.parameters))

    def _average_weights(self) -> None:
        self.steps += 1
        if self.averaged:
            # The mean follows the first steps closely, so that it forgets the initial weights.
            keep = min(self.config.averaging, self.steps / (self.steps + 10))
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - keep)

    def evaluate(self, rows: Tensor) -> float:
        """Mean squared error in float32 of the weights to forecast with."""
        current = self.weights()
        trained = [p.detach().clone() for p in self.parameters] if self.averaged else None
        if trained is not None:
            self.restore(current)
        self.network.eval()
        total = 0.0
        with torch.no_grad():
            for part in torch.split(rows, EVALUATION_BATCH):
                forecast = self.network(
                    gather_windows(self.features, part, self.config.sequence_length)
                )
                total += float((forecast - self.learned[part.to(self.device)]).square().sum())
        if trained is not None:
            self.restore(trained)
        return total / len(rows)

    def weights(self) -> list[Tensor]:
        """A copy of the weights to forecast with."""
        return [p.detach().clone() for p in (self.averaged or self.parameters)]

    def restore(self, weights: list[Tensor]) -> None:
        """Set the network's weights to a copy that `weights` returned."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)
