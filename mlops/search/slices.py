"""Cuts the bars of a training: development walked forward, then a holdout forecast once.

    |---------------- development ----------------|---- holdout ----|
    | first fit | test | test | test | test       | test | test ... |

Every test block is forecast by a fit on what was known before it. The development blocks
choose and judge the recipe; the holdout blocks belong to the winner alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlops.arrays import IntArray, RowArray
from mlops.data.splits import Fold, forward_folds, holdout_split, walk_forward
from mlops.errors import InsufficientData, SplitError
from mlops.features.dataset import Dataset
from mlops.search.config import TrainingConfig


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """The folds of one training, in time order."""

    development: tuple[Fold, ...]
    holdout: tuple[Fold, ...]

    def fold_of_row(self, n: int) -> IntArray:
        """(n,) number of the fold that tests each row, counted over both slices; -1 for none."""
        numbers = np.full(n, -1, dtype=np.int64)
        for number, fold in enumerate((*self.development, *self.holdout)):
            numbers[fold.test] = number
        return numbers

    @property
    def gap_bars(self) -> int:
        """Least distance in bars from a fitted or selecting row to a row forecast with it."""
        return min(
            int(fold.test[0] - fold.selection[-1]) for fold in (*self.development, *self.holdout)
        )


def cut_slices(dataset: Dataset, config: TrainingConfig, *, min_bars: int) -> Slices:
    """Cut all bars into development and holdout.

    Args:
        min_bars: Bars that the dataset must have at least.

    Raises:
        InsufficientData: when there are fewer than ``min_bars`` bars.
        SplitError: when a part would be empty.
    """
    _check_length(dataset, min_bars)
    labels = dataset.labels
    rows = np.flatnonzero(labels.valid)
    before, after = holdout_split(
        labels.made_at, labels.known_at, rows, fraction=config.holdout_share
    )
    development = walk_forward(
        labels.made_at,
        labels.known_at,
        before,
        n_folds=config.refits,
        selection_fraction=config.validation_split,
        window=config.fit_window,
    )
    holdout = _holdout_folds(
        dataset, config, rows, first_test_row=int(after[0]), n_folds=config.holdout_refits
    )
    return Slices(development, holdout)


def cut_refit_slices(
    dataset: Dataset, config: TrainingConfig, since: np.datetime64, *, min_bars: int
) -> Slices:
    """Cut the slices of a refit: no development, a holdout of the forecasts made after ``since``.

    Where few bars came since, there are fewer refits than ``config`` asks for.

    Raises:
        InsufficientData: when there are fewer than ``min_bars`` bars.
        SplitError: when no labelled bar is that young.
    """
    _check_length(dataset, min_bars)
    labels = dataset.labels
    rows = np.flatnonzero(labels.valid)
    new_rows = rows[labels.made_at[rows] > since]
    if not new_rows.size:
        raise SplitError(f"no labelled bar closed after {since}; refit when new bars are known")
    n_folds = min(config.holdout_refits, new_rows.size)
    holdout = _holdout_folds(
        dataset, config, rows, first_test_row=int(new_rows[0]), n_folds=n_folds
    )
    return Slices((), holdout)


def _holdout_folds(
    dataset: Dataset,
    config: TrainingConfig,
    rows: RowArray,
    *,
    first_test_row: int,
    n_folds: int,
) -> tuple[Fold, ...]:
    return forward_folds(
        dataset.labels.made_at,
        dataset.labels.known_at,
        rows,
        first_test_row=first_test_row,
        n_folds=n_folds,
        selection_fraction=config.validation_split,
        window=config.fit_window,
    )


def _check_length(dataset: Dataset, min_bars: int) -> None:
    if len(dataset) < min_bars:
        raise InsufficientData(got=len(dataset), needed=min_bars, what="a training")
