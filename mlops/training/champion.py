"""The forecasts that a champion is compared by: those of outcomes that it cannot have seen."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from mlops.arrays import FloatArray, RowArray, naive_utc
from mlops.features.dataset import Dataset
from mlops.models.base import Forecaster
from mlops.store import ModelVersion
from mlops.store.judgements import is_from_elsewhere


def fitted_until(version: ModelVersion) -> np.datetime64 | None:
    """When the last label that a version was fitted on became known; None where nobody knows.

    One from elsewhere was fitted before its registration, which is all that is sure.
    """
    if is_from_elsewhere(version):
        return naive_utc(version.created_at)
    stored = version.notes.get("fitted_until")
    until = version.trained_until if stored is None else datetime.fromisoformat(stored)
    return None if until is None else naive_utc(until)


def forecast_unseen(
    champion: Forecaster, saw: np.datetime64 | None, dataset: Dataset, rows: RowArray
) -> FloatArray:
    """The champion's forecasts (n,); NaN where it has no window or may have seen the outcome.

    Args:
        saw: When the last label that it was fitted on was known; None where nobody knows, and all
            rows count as unseen.
        rows: Positions of the rows (n,) in the dataset.
    """
    honest = champion.ready(dataset)[rows]
    if saw is not None:
        honest &= dataset.labels.made_at[rows] >= saw
    forecasts = np.full(rows.size, np.nan)
    forecasts[honest] = champion.predict(dataset, rows[honest])
    return forecasts
