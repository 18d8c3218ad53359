"""Variance, block lengths and intervals for averages of dependent rows.

Labels that look h bars ahead overlap, so neighbouring losses are correlated over at least
h rows; every test and interval of the library takes its lags and blocks from these rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from mlops.arrays import FloatArray, IntArray

BLOCK_PER_HORIZON = 5
MIN_BLOCKS = 10
SOKAL_WINDOW = 5.0


def lag_length(n: int, *, horizon: int = 1) -> int:
    """Bartlett lags for n rows of h-bar labels: max(ceil(1.5 h) if h > 1, 4 (n/100)^(2/9))."""
    overlap = math.ceil(1.5 * horizon) if horizon > 1 else 0
    memory = math.floor(4.0 * math.pow(n / 100, 2 / 9))
    return min(max(overlap, memory), max(n - 1, 0))


def block_length(n: int, *, horizon: int = 1) -> int:
    """Bootstrap block in rows: max(5 h, n^(1/3)), at most a tenth of the rows."""
    wanted = max(BLOCK_PER_HORIZON * horizon, math.ceil(math.pow(n, 1 / 3)))
    return max(1, min(wanted, n // MIN_BLOCKS))


def long_run_variance(values: ArrayLike, lags: int) -> float:
    """Newey-West (Bartlett) variance of sqrt(n) times the mean; lag 0 alone where it is not > 0."""
    x = np.asarray(values, dtype=np.float64)
    centred = x - x.mean()
    gamma0 = float(centred @ centred) / x.size
    total = gamma0
    for lag in range(1, min(lags, x.size - 1) + 1):
        weight = 1.0 - lag / (lags + 1)
        total += 2.0 * weight * float(centred[lag:] @ centred[:-lag]) / x.size
    return total if total > 0.0 else gamma0


def long_run_covariance(columns: FloatArray, lags: int) -> FloatArray:
    """Newey-West (Bartlett) covariance ``(c, c)`` of sqrt(n) times the means of columns (n, c).

    Its diagonal is `long_run_variance` of each column.
    """
    n = len(columns)
    centred = columns - columns.mean(axis=0)
    total: FloatArray = centred.T @ centred / n
    for lag in range(1, min(lags, n - 1) + 1):
        product = centred[lag:].T @ centred[:-lag] / n
        total = total + (1.0 - lag / (lags + 1)) * (product + product.T)
    return total


def is_constant(values: FloatArray) -> bool:
    """Whether the rows vary by no more than rounding, so that they cannot be tested."""
    if values.size < 2:
        return True
    scale = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    return float(np.ptp(values)) <= 1e-12 * scale


def integrated_time(values: FloatArray) -> float:
    """Integrated autocorrelation time: 1 + 2 * the sum of autocorrelations, at least 1.

    So many dependent rows are worth one independent row. The sum ends at the first lag that is
    at least five times the sum. Source: Sokal (1997), section 3.
    """
    if is_constant(values):
        return 1.0
    from scipy.fft import irfft, next_fast_len, rfft

    centred = values - values.mean()
    padded = next_fast_len(2 * values.size - 1, real=True)
    spectrum = rfft(centred, padded)
    products = irfft(spectrum.real**2 + spectrum.imag**2, padded)[: values.size]
    times = 2.0 * np.cumsum(products / products[0]) - 1.0
    enough = np.flatnonzero(np.arange(values.size) >= SOKAL_WINDOW * times)
    return max(1.0, float(times[enough[0] if enough.size else -1]))


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of a two-sided interval; NaN where the statistic is undefined."""

    low: float
    high: float


def block_starts(n: int, *, block: int, reps: int, seed: int) -> IntArray:
    """First rows of the blocks of a circular bootstrap ``(reps, ceil(n / block))``."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, n, size=(reps, math.ceil(n / block)))


def bootstrap_means(columns: FloatArray, *, block: int, reps: int, seed: int) -> FloatArray:
    """Column means ``(reps, c)`` of circular block resamples of ``columns (n, c)``.

    A block's sum is a difference of cumulative sums, so the cost is reps * n / block * c.
    Every column is resampled with the same blocks. Source: Politis and Romano (1992).
    """
    starts = block_starts(len(columns), block=block, reps=reps, seed=seed)
    circle = np.concatenate([columns, columns[:block]])
    running = np.zeros((len(circle) + 1, columns.shape[1]))
    np.cumsum(circle, axis=0, out=running[1:])
    sums = running[block:] - running[:-block]
    drawn = starts.shape[1] * block
    means = [sums[:, j][starts].sum(axis=1) / drawn for j in range(columns.shape[1])]
    return np.stack(means, axis=1)


@lru_cache(maxsize=64)
def finite_block_factor(n_blocks: float, *, tail: float) -> float:
    """Factor by which a block bootstrap's quantiles are too near the mean, with few blocks.

    The bootstrap estimates its variance from n_blocks independent pieces, so the variance is too
    small by 1 - 1/n_blocks, and the quantiles are Student's rather than normal.
    """
    from scipy.stats import norm, t

    freedom = max(n_blocks - 1.0, 1.0)
    ratio = float(t.ppf(1.0 - tail, freedom) / norm.ppf(1.0 - tail))
    return ratio * math.sqrt((freedom + 1.0) / freedom)


def interval_from_draws(
    value: float, draws: FloatArray, *, n_blocks: float, confidence_level: float = 0.95
) -> Interval:
    """Percentile interval, widened about the value for the small number of blocks."""
    finite = draws[np.isfinite(draws)]
    if not math.isfinite(value) or finite.size < 2:
        return Interval(math.nan, math.nan)
    tail = (1.0 - confidence_level) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    widen = finite_block_factor(n_blocks, tail=tail)
    return Interval(
        value - widen * max(value - float(low), 0.0), value + widen * max(float(high) - value, 0.0)
    )
