"""Errors and hit rates of forecasts, and `ModelMetrics`, the platform's figures of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from mlops.arrays import FloatArray
from mlops.errors import GateError

PROBABILITY_FLOOR = 1e-6


def squared_error(y: ArrayLike, forecast: ArrayLike) -> FloatArray:
    """Squared error per row."""
    return (np.asarray(y, dtype=np.float64) - np.asarray(forecast, dtype=np.float64)) ** 2


def mse(y: ArrayLike, forecast: ArrayLike) -> float:
    """Mean squared error, in squared units of y."""
    return float(squared_error(y, forecast).mean())


def mae(y: ArrayLike, forecast: ArrayLike) -> float:
    """Mean absolute error, in units of y."""
    return float(np.sqrt(squared_error(y, forecast)).mean())


def r2_score(y: ArrayLike, forecast: ArrayLike) -> float:
    """1 - MSE / variance of y, against the mean of the same y; NaN where y is constant."""
    y = np.asarray(y, dtype=np.float64)
    return skill(squared_error(y, forecast), squared_error(y, np.full(y.shape, y.mean())))


def r2_out_of_sample(y: ArrayLike, forecast: ArrayLike, naive: ArrayLike) -> float:
    """1 - MSE / MSE of the naive forecast (Campbell and Thompson 2008); NaN if that is 0."""
    return skill(squared_error(y, forecast), squared_error(y, naive))


def skill(losses: FloatArray, baseline_losses: FloatArray) -> float:
    """1 - mean loss / mean loss of the baseline; NaN where the baseline's loss is 0."""
    reference = float(baseline_losses.mean())
    return 1.0 - float(losses.mean()) / reference if reference > 0.0 else math.nan


def log_loss(outcome: ArrayLike, probability: ArrayLike) -> FloatArray:
    """Log loss per row (nats) of a probability that the outcome is 1, floored at 1e-6."""
    p = np.clip(np.asarray(probability, dtype=np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    up = np.asarray(outcome, dtype=np.float64) > 0.5
    return -np.log(np.where(up, p, 1.0 - p))


@dataclass(frozen=True, slots=True)
class DirectionFigures:
    """Hits on the sign of a move; up is the positive class.

    ``coverage`` is the share of moving rows for which the forecast is up or down;
    ``base_rate`` the share of the more common side, ``up_rate`` the share of up.
    """

    accuracy: float
    precision: float
    recall: float
    f1_score: float
    base_rate: float
    up_rate: float
    coverage: float
    n: int


def direction_figures(move: ArrayLike, forecast_move: ArrayLike) -> DirectionFigures:
    """Hit rates over rows where outcome and forecast both move; NaN without such a row."""
    actual = np.sign(np.asarray(move, dtype=np.float64))
    called = np.sign(np.asarray(forecast_move, dtype=np.float64))
    moving = actual != 0
    both = moving & (called != 0) & np.isfinite(called)
    up, said_up = actual[both] > 0, called[both] > 0
    hits = float(np.sum(up & said_up))
    precision, recall = _ratio(hits, said_up.sum()), _ratio(hits, up.sum())
    up_rate = _ratio(float(np.sum(actual[moving] > 0)), moving.sum())
    return DirectionFigures(
        accuracy=_ratio(float(np.sum(up == said_up)), both.sum()),
        precision=precision,
        recall=recall,
        f1_score=_ratio(2.0 * hits, said_up.sum() + up.sum()),
        base_rate=max(up_rate, 1.0 - up_rate),
        up_rate=up_rate,
        coverage=_ratio(float(both.sum()), moving.sum()),
        n=int(both.sum()),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole > 0 else math.nan


_SHARES = ("accuracy", "precision", "recall", "f1_score", "win_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetrics:
    """A model's figures by the platform's names; None where unknown or undefined.

    ``max_drawdown`` is <= 0 (-0.25 is a fall of a quarter), ``sharpe_ratio`` annualised,
    ``profit_factor`` +inf without a loss.

    Raises:
        GateError: when a figure is outside its range, naming figure and range.
    """

    mse: float
    mae: float
    r2_score: float | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1_score: float | None = None
    sharpe_ratio: float | None = None
    max_drawdown: float | None = None
    win_rate: float | None = None
    profit_factor: float | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            if getattr(self, name) is None:
                continue
            value = float(getattr(self, name))
            low, high = _allowed_range(name)
            if not low <= value <= high or (math.isinf(value) and name != "profit_factor"):
                raise GateError(
                    f"metric {name} is {value}, outside [{low:g}, {high:g}]; "
                    "correct it, or leave it out where it is not known"
                )

    def to_dict(self) -> dict[str, float | bool | None]:
        """JSON-legal: an infinite profit factor becomes null with ``no_losses`` true."""
        values: dict[str, float | bool | None] = {}
        values |= {f.name: getattr(self, f.name) for f in fields(self)}
        if self.profit_factor == math.inf:
            values |= {"profit_factor": None, "no_losses": True}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back."""
        known = dict(values)
        if known.pop("no_losses", False):
            known["profit_factor"] = math.inf
        return cls(**known)


def _allowed_range(name: str) -> tuple[float, float]:
    if name in _SHARES:
        return 0.0, 1.0
    if name in {"mse", "mae", "profit_factor"}:
        return 0.0, math.inf
    if name == "max_drawdown":
        return -1.0, 0.0
    return -math.inf, 1.0 if name == "r2_score" else math.inf
