"""The training loop: batches cut by row number from one resident tensor, early stopping.

No window is ever stored: a batch is gathered from the (N, F) features when its turn comes.
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
"""Batches between two looks at the clock."""

EVALUATION_BATCH = 2_048

BETTER = 1e-4
"""Relative improvement of the selection loss that counts as progress."""


class Network(nn.Module):
    """A network over windows (T, n, F) that gives one number a window (n,).

    Dropout is drawn outside, once for a window, by `masks`: that costs nothing beside the
    network, and parts of a batch may then run side by side without sharing a generator.
    """

    @abstractmethod
    def masks(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Scaled dropout masks for ``n`` windows, first dimension n."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""


def dropout_mask(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    """Zeros at ``rate``, the rest scaled so that the mean stays one."""
    kept = torch.rand(shape, generator=generator) >= rate
    return kept / (1 - rate)


@dataclass(frozen=True, slots=True)
class TrainingHyperparameters:
    """How a network learns; ``sequence_length`` in bars, ``patience`` in epochs.

    ``averaging`` above zero forecasts with the exponential mean of the weights over
    batches: it takes the noise of the last steps out of a model with little signal.
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
    plan: TrainingHyperparameters,
    context: FitContext,
) -> History:
    """Fit ``network`` in place; it ends with the weights of its best epoch.

    Raises:
        TrainingTimeout: when the context's deadline passes.
        TrainingError: when the loss is no longer finite.
    """
    started = perf_counter()
    lesson = _TrainingLoop(network, features, learned, plan, context)
    epochs: list[Epoch] = []
    best, best_loss, waited = lesson.weights(), float("inf"), 0
    with one_torch_thread(), GradientWorkers(min(context.threads, lesson.parts)) as crew:
        for number in range(1, plan.epochs + 1):
            fit_loss = lesson.epoch(fit_rows, crew)
            loss = lesson.evaluate(selection_rows)
            better = loss < best_loss * (1 - BETTER)
            waited = 0 if better else waited + 1
            if better:
                best, best_loss = lesson.weights(), loss
            epochs.append(Epoch(number, fit_loss, loss, better))
            if context.on_epoch is not None:
                context.on_epoch(epochs[-1])
            if waited >= plan.patience:
                break
        workers = crew.workers if crew.side_by_side else 1
    lesson.restore(best)
    seconds = perf_counter() - started
    return History(
        epochs=tuple(epochs),
        seconds=seconds,
        samples_per_second=lesson.samples / max(lesson.seconds, 1e-9),
        device=lesson.device.type,
        precision=str(lesson.precision).removeprefix("torch."),
        workers=workers,
    )


class _TrainingLoop:
    """One network, its data and its optimiser while it learns."""

    def __init__(
        self,
        network: Network,
        features: Tensor,
        learned: Tensor,
        plan: TrainingHyperparameters,
        context: FitContext,
    ) -> None:
        self.network, self.features, self.learned = network, features, learned
        self.plan, self.context = plan, context
        self.parameters: list[Tensor] = list(network.parameters())
        size = sum(parameter.numel() for parameter in self.parameters)
        self.device = features.device
        self.precision = choose_precision(self.device, size)
        self.parts = parts_of_batch(self.device, size, plan.batch_size)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )
        self.averaged = [p.detach().clone() for p in self.parameters] if plan.averaging else []
        self.steps = self.samples = 0
        self.seconds = 0.0

    def epoch(self, rows: Tensor, crew: GradientWorkers) -> float:
        """One pass over ``rows`` in a new order; the mean loss."""
        started = perf_counter()
        self.network.train()
        order = rows[torch.randperm(len(rows), generator=self.generator)]
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(torch.split(order, self.plan.batch_size)):
            if number % DEADLINE_BATCHES == 0:
                self.context.check_deadline("training")
            total += self._step(batch, crew) * len(batch)
        self.samples += len(rows)
        self.seconds += perf_counter() - started
        mean = float(total) / len(rows)
        if not mean < float("inf"):
            raise TrainingError(
                f"the training loss became {mean} in a network of learning_rate="
                f"{self.plan.learning_rate}; use a smaller learning_rate or gradient_clip"
            )
        return mean

    def _step(self, batch: Tensor, crew: GradientWorkers) -> Tensor:
        masks = self.network.masks(len(batch), self.generator)
        sections = [mask.chunk(self.parts) for mask in masks]
        parts = [
            (rows, [section[number] for section in sections])
            for number, rows in enumerate(batch.chunk(self.parts))
        ]
        results = crew.run(lambda part: self._gradient(*part, n=len(batch)), parts)
        loss, gradients = results[0]
        for other_loss, others in results[1:]:
            loss = loss + other_loss
            torch._foreach_add_(gradients, others)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self.parameters, self.plan.gradient_clip, foreach=True)
        self.optimiser.step()
        self._average()
        return loss

    def _gradient(
        self, rows: Tensor, masks: list[Tensor], *, n: int
    ) -> tuple[Tensor, list[Tensor]]:
        """A part's share of the batch's mean loss, and of its gradient."""
        window = gather_windows(self.features, rows, self.plan.sequence_length)
        half = self.precision is not torch.float32
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            forecast = self.network(window, [mask.to(self.device) for mask in masks])
        loss = (forecast.float() - self.learned[rows.to(self.device)]).square().sum() / n
        return loss.detach(), list(torch.autograd.grad(loss, self.parameters))

    def _average(self) -> None:
        self.steps += 1
        if self.averaged:
            # A young mean follows closely, so that it forgets where it started.
            keep = min(self.plan.averaging, self.steps / (self.steps + 10))
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - keep)

    def evaluate(self, rows: Tensor) -> float:
        """Mean squared error in float32 of the weights that would be kept now."""
        current = self.weights()
        own = [p.detach().clone() for p in self.parameters] if self.averaged else None
        if own is not None:
            self.restore(current)
        self.network.eval()
        total = 0.0
        with torch.no_grad():
            for part in torch.split(rows, EVALUATION_BATCH):
                forecast = self.network(
                    gather_windows(self.features, part, self.plan.sequence_length)
                )
                total += float((forecast - self.learned[part.to(self.device)]).square().sum())
        if own is not None:
            self.restore(own)
        return total / len(rows)

    def weights(self) -> list[Tensor]:
        """A copy of the weights to forecast with."""
        return [p.detach().clone() for p in (self.averaged or self.parameters)]

    def restore(self, weights: list[Tensor]) -> None:
        """Put a copy back."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)
