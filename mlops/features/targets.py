"""The targets: their labels, their naive forecasts, and the times at which labels are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from mlops.arrays import BoolArray, FloatArray, TimeArray
from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays
from mlops.features.indicators import log_range
from mlops.features.rolling import log_of_ratio, trailing_mean, trailing_sum
from mlops.plain_numbers import whole_number
from mlops.service import Target

BASE_RATE_SPAN = 168
"""Known labels (bars) over which the base rate of `direction` is counted."""


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A target and its horizon in bars; a text such as "volatility" becomes the `Target`.

    Raises:
        FeatureError: when there is no such target, or the horizon is no whole number of bars.
    """

    kind: Target
    horizon: int = 1

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "kind", Target(self.kind))
        except ValueError as error:
            raise FeatureError(f"target {self.kind!r} is not one of {', '.join(Target)}") from error
        horizon = whole_number(self.horizon)
        if horizon is None:
            raise FeatureError(f"horizon {self.horizon!r} is not a whole number of bars")
        if horizon < 1:
            raise FeatureError(f"horizon {horizon} is below 1 bar")
        object.__setattr__(self, "horizon", horizon)

    @property
    def warm_up(self) -> int:
        """Earlier bars needed before the naive forecast is defined."""
        if self.kind is Target.VOLATILITY:
            return self.horizon - 1
        if self.kind is Target.DIRECTION:
            return self.horizon + BASE_RATE_SPAN - 1
        return 0


@dataclass(frozen=True, slots=True)
class Labels:
    """Label and naive forecast of each bar (N,).

    ``made_at`` is the bar's close, when a forecast from it is made; ``known_at`` the close of
    the last bar the label uses (NaT without a label). ``y`` is NaN where the horizon is not
    complete or crosses a hole, ``persistence`` while it warms up; ``valid``: both exist.
    """

    y: FloatArray
    persistence: FloatArray
    known_at: TimeArray
    made_at: TimeArray
    valid: BoolArray

    def __len__(self) -> int:
        return len(self.y)


def build_target(
    bars: BarArrays,
    spec: TargetSpec,
    *,
    step: timedelta,
    persistence: FloatArray | None = None,
) -> Labels:
    """Label every bar whose next ``horizon`` bars exist and follow without a hole.

    Units: `volatility` is the mean of `log_range`; `return` a log return; `price` the quote's;
    `direction` 1.0 up, 0.0 not, its naive forecast a probability.

    Args:
        step: The length of a bar.
        persistence: The result of `naive_forecast` (N,), where the caller has it already.
    """
    made_at: TimeArray = bars.open_time + np.timedelta64(step)
    exists = _horizon_exists(bars, spec.horizon)
    persistence = naive_forecast(bars, spec) if persistence is None else persistence
    y = _LABELLERS[spec.kind](bars, spec.horizon, persistence)
    y[~exists] = np.nan
    known_at = np.full(len(bars), np.datetime64("NaT"), dtype="datetime64[ns]")
    known_at[exists] = made_at[np.flatnonzero(exists) + spec.horizon]
    return Labels(y, persistence, known_at, made_at, exists & np.isfinite(persistence))


def naive_forecast(bars: BarArrays, spec: TargetSpec) -> FloatArray:
    """The naive forecast at every bar (N,), from that bar and earlier bars alone."""
    return _NAIVE[spec.kind](bars, spec.horizon)


def next_bar_returns(bars: BarArrays) -> FloatArray:
    """Simple return of the following bar's close over this one's (N,).

    NaN for the last bar and where the following bar comes after a hole; a ratio that no float
    holds is cut to the largest.
    """
    with np.errstate(over="ignore"):
        ratio = _ahead(bars.close, 1) / bars.close
    returns: FloatArray = np.minimum(ratio, np.finfo(np.float64).max) - 1.0
    returns[~_horizon_exists(bars, 1)] = np.nan
    return returns


def _horizon_exists(bars: BarArrays, horizon: int) -> BoolArray:
    holes = np.concatenate([[0], np.cumsum(bars.hole_before)])
    exists = np.zeros(len(bars), dtype=bool)
    if horizon < len(bars):
        exists[:-horizon] = holes[1 + horizon :] == holes[1:-horizon]
    return exists


def _ahead(values: FloatArray, bars: int) -> FloatArray:
    ahead = np.full(len(values), np.nan)
    ahead[:-bars] = values[bars:]
    return ahead


def _label_rises(bars: BarArrays, horizon: int) -> FloatArray:
    up = np.zeros(len(bars))
    up[:-horizon] = bars.close[horizon:] > bars.close[:-horizon]
    return up


def _base_rate_of_rises(bars: BarArrays, horizon: int) -> FloatArray:
    # A label is counted from the bar that completes it; Laplace's rule keeps the rate off 0 and 1.
    exists = _horizon_exists(bars, horizon)
    known = _delayed(exists.astype(np.float64), horizon)
    rises = trailing_sum(_delayed(_label_rises(bars, horizon) * exists, horizon), BASE_RATE_SPAN)
    rate: FloatArray = (rises + 1.0) / (trailing_sum(known, BASE_RATE_SPAN) + 2.0)
    rate[: horizon + BASE_RATE_SPAN - 1] = np.nan
    return rate


def _delayed(values: FloatArray, bars: int) -> FloatArray:
    delayed = np.zeros(len(values))
    delayed[bars:] = values[:-bars]
    return delayed


_NAIVE: dict[Target, Callable[[BarArrays, int], FloatArray]] = {
    Target.VOLATILITY: lambda bars, horizon: trailing_mean(log_range(bars), horizon),
    Target.RETURN: lambda bars, _: np.zeros(len(bars)),
    Target.PRICE: lambda bars, _: bars.close.copy(),
    Target.DIRECTION: _base_rate_of_rises,
}

_LABELLERS: dict[Target, Callable[[BarArrays, int, FloatArray], FloatArray]] = {
    Target.VOLATILITY: lambda _, horizon, persistence: _ahead(persistence, horizon),
    Target.RETURN: lambda bars, horizon, _: log_of_ratio(_ahead(bars.close, horizon), bars.close),
    Target.PRICE: lambda _, horizon, persistence: _ahead(persistence, horizon),
    Target.DIRECTION: lambda bars, horizon, _: _label_rises(bars, horizon),
}
