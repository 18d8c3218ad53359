"""Cuts records of forecasts from a dataset, and writes them to and reads them from bundles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.arrays import FloatArray, IntArray, RowArray
from mlops.features.dataset import Dataset
from mlops.service import Service
from mlops.validation.evaluation import Evaluation, evaluate
from mlops.validation.forecasts import Forecasts

HELD = "holdout."
"""Prefix of a record's columns in the reference table of a bundle."""
KEPT_ROWS = 20_000

_COLUMNS = ("y", "forecast", "persistence", "baseline", "next_return")


def cut_record(
    dataset: Dataset,
    rows: RowArray,
    forecasts: FloatArray,
    baseline: FloatArray,
    folds: IntArray,
) -> Forecasts:
    """The record of the forecasts on ``rows`` (n,); the other arrays are (N,), one value a bar."""
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


def record_table(rows: Forecasts | None) -> dict[str, NDArray[Any]]:
    """The last `KEPT_ROWS` of a record as columns of a bundle's reference; empty for None."""
    if rows is None:
        return {}
    columns = {name: getattr(rows, name)[-KEPT_ROWS:] for name in _COLUMNS}
    times = rows.made_at[-KEPT_ROWS:].astype("datetime64[ns]").astype(np.int64)
    return {f"{HELD}{name}": column for name, column in (columns | {"made_at": times}).items()}


def read_record(table: Mapping[str, NDArray[Any]], service: Service) -> Forecasts | None:
    """Read the record in a bundle's reference, as one fold; None where there is none."""
    if f"{HELD}y" not in table:
        return None
    columns = {name: table[f"{HELD}{name}"].astype(np.float64) for name in _COLUMNS}
    return Forecasts(
        target=service.target,
        horizon=service.horizon,
        made_at=table[f"{HELD}made_at"].astype("datetime64[ns]"),
        fold=np.zeros(len(columns["y"]), dtype=np.int64),
        **columns,
    )


def evaluate_record(rows: Forecasts, dataset: Dataset, *, fee_bps: float) -> Evaluation:
    """Measure a record, annualised by the dataset's calendar; ``fee_bps`` per whole turnover."""
    return evaluate(rows, bars_per_year=bars_per_year(dataset), fee_bps=fee_bps)


def bars_per_year(dataset: Dataset) -> float:
    """Bars of the dataset's calendar in a year."""
    return dataset.calendar.bars_per_year(dataset.timeframe)
