"""How much a Sharpe ratio proves: probabilistic and deflated ratios, and track-record length.

Every ratio here is per bar, and kurtosis is the plain fourth moment (3 for a normal).
Sources: Bailey and Lopez de Prado (2012, 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mlops.stats.dependence import FloatArray, is_constant

EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True, slots=True)
class SharpeMoments:
    """What the distribution of an estimated Sharpe ratio depends on."""

    sharpe: float
    n: int
    skew: float
    kurtosis: float

    @classmethod
    def of(cls, returns: ArrayLike) -> SharpeMoments | None:
        """Moments of a series of returns; None where it does not vary."""
        r = np.asarray(returns, dtype=np.float64)
        if is_constant(r):
            return None
        z = (r - r.mean()) / r.std()
        sharpe = float(r.mean() / r.std(ddof=1))
        return cls(sharpe, r.size, float((z**3).mean()), float((z**4).mean()))

    @property
    def spread(self) -> float:
        """Standard deviation of sqrt(n - 1) times the estimate."""
        variance = 1.0 - self.skew * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2
        return math.sqrt(max(variance, np.finfo(np.float64).tiny))


def probabilistic_sharpe(moments: SharpeMoments, *, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe ratio exceeds the benchmark's."""
    from scipy.stats import norm

    distance = (moments.sharpe - benchmark) * math.sqrt(moments.n - 1)
    return float(norm.cdf(distance / moments.spread))


def expected_maximum(n_trials: float) -> float:
    """Expected largest of n independent standard normals; 0 for one trial, and never below."""
    from scipy.stats import norm

    if n_trials <= 1:
        return 0.0
    first = float(norm.ppf(1.0 - 1.0 / n_trials))
    second = float(norm.ppf(1.0 - 1.0 / (n_trials * math.e)))
    # The approximation is for many trials: of 1.05 effective ones it would make -0.48.
    return max(0.0, (1.0 - EULER_GAMMA) * first + EULER_GAMMA * second)


def deflated_sharpe(
    moments: SharpeMoments, *, n_trials: float, variance: float | None = None
) -> float:
    """Probability that the ratio exceeds what the best of n worthless trials would show.

    ``variance`` is that of the trials' ratios; None takes 1 / n. The variance measured
    across trials is a trap: the more trials are good, the larger it is and the less passes.
    """
    spread = math.sqrt(1.0 / moments.n if variance is None else variance)
    return probabilistic_sharpe(moments, benchmark=spread * expected_maximum(n_trials))


def minimum_track_record(
    moments: SharpeMoments, *, benchmark: float = 0.0, confidence_level: float = 0.95
) -> float:
    """Bars needed before the probabilistic ratio reaches the level; +inf at or below benchmark."""
    from scipy.stats import norm

    gain = moments.sharpe - benchmark
    if gain <= 0.0:
        return math.inf
    return 1.0 + (moments.spread * float(norm.ppf(confidence_level)) / gain) ** 2


def effective_trials(series: FloatArray) -> float:
    """Independent trials that ``series (n, k)`` amount to: k^2 / sum of squared correlations."""
    varying = series[:, ~np.array([is_constant(column) for column in series.T])]
    if varying.shape[1] <= 1:
        return float(varying.shape[1])
    correlation = np.corrcoef(varying, rowvar=False)
    return float(varying.shape[1] ** 2 / np.sum(correlation**2))
