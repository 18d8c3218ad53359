"""Walks a recipe forward in time: fit on each fold, forecast its test rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mlops.arrays import FloatArray, IntArray
from mlops.data.splits import Fold
from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, Forecaster, History, build_forecaster
from mlops.models.recipe import Recipe

NO_FOLD = -1


@dataclass(frozen=True, slots=True)
class WalkForward:
    """Out-of-sample forecasts of a recipe.

    Args:
        forecasts: (N,); NaN outside the test rows and where a window is incomplete.
        fold_of_row: (N,); `NO_FOLD` on the same rows.
        last: The forecaster that was fitted on the last fold.
        histories: Losses of the fits, fold after fold.
    """

    forecasts: FloatArray
    fold_of_row: IntArray
    last: Forecaster
    histories: tuple[History, ...]


def run_walk_forward(
    recipe: Recipe,
    dataset: Dataset,
    folds: Sequence[Fold],
    context: FitContext,
    *,
    on_fold: Callable[[int, History], None] | None = None,
    allowed_classes: Collection[str] = (),
) -> WalkForward:
    """Fit on each fold in turn and forecast its test rows.

    Args:
        context: Each fold derives a seed of its own from the context's.
        on_fold: Called with each fold's number and losses.
        allowed_classes: Class paths of the custom models that may be built.

    Raises:
        TrainingTimeout: when the context's deadline passes.
        ModelError: when a fold leaves nothing to fit on.
    """
    forecasts = np.full(len(dataset), np.nan)
    fold_of_row = np.full(len(dataset), NO_FOLD, dtype=np.int64)
    histories: list[History] = []
    last: Forecaster | None = None
    for number, fold in enumerate(folds):
        forecaster = build_forecaster(recipe, dataset.target, allowed_classes=allowed_classes)
        seeded = context.seeded(number)
        histories.append(forecaster.fit(dataset, fold.fit, fold.selection, seeded))
        rows = fold.test[forecaster.ready(dataset)[fold.test]]
        forecasts[rows] = forecaster.predict(dataset, rows)
        fold_of_row[rows] = number
        last = forecaster
        if on_fold is not None:
            on_fold(number, histories[-1])
    if last is None:
        raise ValueError("a walk-forward needs at least one fold")
    return WalkForward(forecasts, fold_of_row, last, tuple(histories))
