"""Tests of one forecast against another or against chance, and exact bounds of a share.

The tests of forecasts are one-sided: a small p-value says that the forecast is better than its
reference. `is_surely_above` and `share_interval` judge a count such as failures of requests by
the exact binomial distribution (Clopper and Pearson 1934).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv

from mlops.stats.dependence import is_constant, lag_length, long_run_variance


def is_surely_above(share: float, *, count: int, trials: int, alpha: float) -> bool:
    """Whether ``count`` of ``trials`` refute that the true share is at most ``share``.

    Args:
        alpha: The level of the one-sided test: the most probable false refutation.
    """
    if count == 0:
        return False
    # P(X >= count) for a binomial X is a regularised incomplete beta function.
    return float(betainc(count, trials - count + 1, share)) <= alpha


def share_interval(
    count: int, trials: int, *, confidence_level: float = 0.95
) -> tuple[float, float]:
    """The two-sided interval of a share; 0 to 1 without a trial."""
    tail = (1.0 - confidence_level) / 2.0
    low = 0.0 if count == 0 else float(betaincinv(count, trials - count + 1, tail))
    high = 1.0 if count == trials else float(betaincinv(count + 1, trials - count, 1.0 - tail))
    return low, high


@dataclass(frozen=True, slots=True)
class TestResult:
    """A statistic and its one-sided p-value; NaN and 1 for rows that cannot be tested."""

    __test__ = False

    statistic: float
    p_value: float
    n: int


def diebold_mariano(
    difference: ArrayLike, *, horizon: int = 1, lags: int | None = None
) -> TestResult:
    """Test whether the mean of loss(reference) - loss(candidate) is above zero.

    HAC variance, the small-sample factor of Harvey, Leybourne and Newbold (1997) and Student's t
    with n - 1 degrees of freedom. The p-value is 1 for rows without variation and for at most
    ``horizon`` rows.

    Args:
        difference: Differences of loss, one a forecast (n,).
        horizon: Bars that a label looks ahead, over which the differences overlap.
        lags: Bartlett lags; by default `lag_length`.
    """
    from scipy.stats import t

    d = np.asarray(difference, dtype=np.float64)
    n = d.size
    if n <= horizon or is_constant(d):
        return TestResult(math.nan, 1.0, n)
    lags = lag_length(n, horizon=horizon) if lags is None else lags
    statistic = float(d.mean()) / math.sqrt(long_run_variance(d, lags) / n)
    statistic *= math.sqrt(max(n + 1 - 2 * horizon + horizon * (horizon - 1) / n, 0.0) / n)
    return TestResult(statistic, float(t.sf(statistic, n - 1)), n)


def clark_west(
    y: ArrayLike, forecast: ArrayLike, naive: ArrayLike, *, horizon: int = 1
) -> TestResult:
    """Test whether a forecast that nests the naive forecast predicts better in population.

    The statistic is the mean of the squared-error difference plus (naive - forecast)^2, which is
    the noise of a larger model that estimates parameters of zero. Source: Clark and West (2007).
    """
    from scipy.stats import norm

    target, model, base = (np.asarray(a, dtype=np.float64) for a in (y, forecast, naive))
    adjusted = (target - base) ** 2 - (target - model) ** 2 + (base - model) ** 2
    if is_constant(adjusted):
        return TestResult(math.nan, 1.0, adjusted.size)
    lags = lag_length(adjusted.size, horizon=horizon)
    deviation = math.sqrt(long_run_variance(adjusted, lags) / adjusted.size)
    statistic = float(adjusted.mean()) / deviation
    return TestResult(statistic, float(norm.sf(statistic)), adjusted.size)


def pesaran_timmermann(
    move: ArrayLike, forecast_move: ArrayLike, *, horizon: int = 1
) -> TestResult:
    """Test whether forecast signs agree with realised signs more often than independent signs.

    The statistic is the covariance of the two signs with a HAC variance. For independent rows it
    is that of Pesaran and Timmermann (1992); the variance allows for overlapping labels.
    """
    from scipy.stats import norm

    up = (np.asarray(move, dtype=np.float64) > 0).astype(np.float64)
    said_up = (np.asarray(forecast_move, dtype=np.float64) > 0).astype(np.float64)
    agreement = (up - up.mean()) * (said_up - said_up.mean())
    if is_constant(up) or is_constant(said_up):
        return TestResult(math.nan, 1.0, up.size)
    lags = lag_length(up.size, horizon=horizon)
    deviation = math.sqrt(long_run_variance(agreement, lags) / up.size)
    statistic = float(agreement.mean()) / deviation
    return TestResult(statistic, float(norm.sf(statistic)), up.size)
