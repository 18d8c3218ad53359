"""Evaluates a version on any period, and compares two versions on exactly the same bars."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Unpack

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, TimeArray, naive_utc
from mlops.data.time_columns import TimeArguments
from mlops.errors import RegistryError
from mlops.features.dataset import Dataset
from mlops.models.bundle import Bundle
from mlops.registry.connection import Registry, load
from mlops.stats.comparison import TestResult, diebold_mariano
from mlops.store import get_route
from mlops.validation.evaluation import Evaluation
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import cut_record, evaluate_record


@dataclass(frozen=True, slots=True)
class Period:
    """Forecasts made at or after ``start`` and before ``end`` (aware times); None is open."""

    start: datetime | None = None
    end: datetime | None = None

    def contains(self, made_at: TimeArray) -> BoolArray:
        """(n,) whether each forecast was made within the period."""
        inside = np.ones(len(made_at), dtype=bool)
        if self.start is not None:
            inside &= made_at >= _naive_utc(self.start)
        if self.end is not None:
            inside &= made_at < _naive_utc(self.end)
        return inside


ALL = Period()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same ``n`` forecasts.

    ``a_beats_b`` and ``b_beats_a`` are one-sided Diebold-Mariano tests on the target's losses.
    """

    a: str
    b: str
    n: int
    evaluation_a: Evaluation
    evaluation_b: Evaluation
    a_beats_b: TestResult
    b_beats_a: TestResult

    def __str__(self) -> str:
        mse_a, mse_b = self.evaluation_a["mse"].value, self.evaluation_b["mse"].value
        return (
            f"{self.a} against {self.b} on {self.n:,} forecasts: MSE {mse_a:.6g} and {mse_b:.6g}; "
            f"p={self.a_beats_b.p_value:.3g} that the first is no better, "
            f"p={self.b_beats_a.p_value:.3g} that the second is not"
        )


def evaluate_version(
    registry: Registry,
    model_id: str,
    bars: pd.DataFrame,
    *,
    fee_bps: float,
    period: Period = ALL,
    **written: Unpack[TimeArguments],
) -> Evaluation:
    """Measure a version on bars of its service.

    Args:
        bars: With enough history before ``period`` for the first forecast.
        fee_bps: Costs of one turnover of the whole position, in basis points.
        written: How the time of the bars is written.

    Raises:
        RegistryError: when no forecast of the period has both enough history and an outcome.
    """
    bundle = load(registry, model_id)
    dataset = bundle.dataset(bars, **written)
    forecasts = _forecast_record(registry, bundle, dataset, period)
    return evaluate_record(forecasts, dataset, fee_bps=fee_bps)


def compare_versions(
    registry: Registry,
    a: str,
    b: str,
    bars: pd.DataFrame,
    *,
    fee_bps: float,
    period: Period = ALL,
    **written: Unpack[TimeArguments],
) -> Comparison:
    """Measure two versions of one service on the rows that both can forecast.

    Args:
        bars: With enough history before ``period`` for the first forecast.
        fee_bps: Costs of one turnover of the whole position, in basis points.
        written: How the time of the bars is written.

    Raises:
        RegistryError: when they forecast different things, or have no common forecast.
    """
    first, second = load(registry, a), load(registry, b)
    if first.service != second.service:
        raise RegistryError(
            f"{a} forecasts {first.service} and {b} forecasts {second.service}; "
            "compare versions of one service"
        )
    dataset = first.dataset(bars, **written)
    other = second.forecaster.forecast(dataset)
    record_a = _forecast_record(registry, first, dataset, period, also=np.isfinite(other))
    rows = np.searchsorted(dataset.labels.made_at, record_a.made_at)
    record_b = record_a.of(other[rows])
    gain = record_b.comparable_losses() - record_a.comparable_losses()
    gain = gain[np.isfinite(gain)]
    horizon = first.service.horizon
    return Comparison(
        a=a,
        b=b,
        n=len(record_a),
        evaluation_a=evaluate_record(record_a, dataset, fee_bps=fee_bps),
        evaluation_b=evaluate_record(record_b, dataset, fee_bps=fee_bps),
        a_beats_b=diebold_mariano(gain, horizon=horizon),
        b_beats_a=diebold_mariano(-gain, horizon=horizon),
    )


def _forecast_record(
    registry: Registry,
    bundle: Bundle,
    dataset: Dataset,
    period: Period,
    also: BoolArray | None = None,
) -> Forecasts:
    labels = dataset.labels
    forecast = bundle.forecaster.forecast(dataset)
    route = get_route(registry.store, bundle.service.key)
    # Before the service has begun, it has no baseline but persistence.
    baseline = (
        labels.persistence
        if route is None
        else load(registry, route.baseline).forecaster.forecast(dataset)
    )
    keep = labels.valid & np.isfinite(forecast) & np.isfinite(baseline)
    keep &= period.contains(labels.made_at)
    keep &= True if also is None else also
    if not keep.any():
        raise RegistryError(
            f"none of {len(dataset):,} bars has {bundle.config['warm_up']} bars of history and "
            "an outcome in the period asked for; give earlier and later bars"
        )
    one_fold = np.zeros(len(dataset), dtype=np.int64)
    return cut_record(dataset, np.flatnonzero(keep), forecast, baseline, one_fold)


def _naive_utc(at: datetime) -> np.datetime64:
    if at.tzinfo is None:
        raise RegistryError(f"{at.isoformat()} has no zone; pass an aware time")
    return naive_utc(at)
