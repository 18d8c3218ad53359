"""Records of forecasts as the gates read them, cut from a dataset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlops.features.dataset import Dataset
from mlops.validation.evaluation import Evaluation, evaluate
from mlops.validation.forecasts import Forecasts

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def record(
    dataset: Dataset, rows: Rows, forecasts: Floats, baseline: Floats, folds: NDArray[np.int64]
) -> Forecasts:
    """What was forecast on ``rows``, beside outcomes and baseline; the others are (N,)."""
    labels = dataset.labels
    return Forecasts(
        target=dataset.target.kind,
        horizon=dataset.target.horizon,
        made_at=labels.made_at[rows],
        y=labels.y[rows],
        forecast=forecasts[rows],
        persistence=labels.persistence[rows],
        baseline=baseline[rows],
        next_return=dataset.next_returns[rows],
        fold=folds[rows],
    )


def evaluation_of(rows: Forecasts, dataset: Dataset, *, fee_bps: float) -> Evaluation:
    """Metrics with intervals, annualised by the dataset's own calendar."""
    return evaluate(rows, bars_per_year=bars_per_year(dataset), fee_bps=fee_bps)


def bars_per_year(dataset: Dataset) -> float:
    """Bars of the dataset's calendar in a year."""
    return dataset.calendar.bars_per_year(dataset.timeframe)
