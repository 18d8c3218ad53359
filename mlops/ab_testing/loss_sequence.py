"""The confidence sequence of the mean loss difference of n pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops.ab_testing.loss_variance import LossCovariance
from mlops.arrays import FloatArray
from mlops.stats.confidence_sequence import DelayedStart

MIN_PAIRS = 100
PAIRS_PER_HORIZON = 20
MOST_PAIRS = 1e9
"""More pairs than that are given as unknown."""

ROUNDING = 1e-12
"""Share of a loss below which a difference is rounding."""

SEEN_WITH = 0.8416212335729143
"""Normal quantile of an 80 % chance."""


def count_first_pairs(horizon: int) -> int:
    """m, the pairs of the first look that counts: fewer overlapping losses have no HAC variance."""
    return max(MIN_PAIRS, PAIRS_PER_HORIZON * horizon)


@dataclass(frozen=True, slots=True, eq=False)
class LossSequence:
    """Bounds of the mean of d - share * L at one look, with the larger of several variances.

    Args:
        columns: Loss difference d and champion's loss L ``(n, 2)``.
        covariances: Estimates of which the larger counts, for each share anew.
    """

    columns: FloatArray
    covariances: Sequence[LossCovariance]
    boundary: DelayedStart

    @property
    def n(self) -> int:
        return len(self.columns)

    @property
    def z(self) -> float:
        """Standard errors of the half-width."""
        return self.boundary.z(self.n)

    def mean(self, share: float = 0.0) -> float:
        """The mean of d - share * L."""
        return float(self.columns[:, 0].mean()) - share * float(self.columns[:, 1].mean())

    def covariance(self, share: float = 0.0) -> LossCovariance:
        """The estimate with the larger variance of d - share * L."""
        return max(self.covariances, key=lambda one: one.of(share))

    def standard_error(self, share: float = 0.0) -> float:
        """The standard error of the mean of d - share * L."""
        return math.sqrt(self.covariance(share).of(share) / self.n)

    def bounds(self, share: float = 0.0) -> tuple[float, float]:
        """The interval of the mean of d - share * L."""
        half = self.z * self.standard_error(share)
        return self.mean(share) - half, self.mean(share) + half

    @property
    def is_zero(self) -> bool:
        """Whether no pair differs by more than rounding."""
        largest = float(np.abs(self.columns[:, 0]).max(initial=0.0))
        return largest <= ROUNDING * float(np.abs(self.columns[:, 1]).max(initial=0.0))

    @property
    def varies(self) -> bool:
        """Whether the mean difference has a standard error above rounding."""
        return self.standard_error() > ROUNDING * abs(self.mean())

    def relative_bounds(self) -> tuple[float | None, float | None]:
        """The shares of L that are not refuted as the size of d; None where unbounded.

        They solve n (mean of d - share * L)^2 <= z^2 v(share), as in Fieller (1954), so the mean
        of L may be as uncertain as that of d.
        """
        loss, difference = float(self.columns[:, 1].mean()), self.mean()
        lows, highs = [], []
        for v in self.covariances:
            a = self.n * loss**2 - self.z**2 * v.loss
            b = self.n * difference * loss - self.z**2 * v.both
            c = self.n * difference**2 - self.z**2 * v.difference
            if a <= ROUNDING * self.n * loss**2:
                return None, None
            root = math.sqrt(max(b * b - a * c, 0.0))
            lows.append((b - root) / a)
            highs.append((b + root) / a)
        return min(lows), max(highs)

    def pairs_to_see(self, gap: float, *, share: float) -> int | None:
        """Pairs that show a mean of d - share * L of this size, at the present variance."""
        return count_pairs_to_see(gap, self.covariance(share).of(share), self.boundary)

    def p_value(self) -> float:
        """The always-valid p-value of this look alone; 1 where nothing varies."""
        if not self.varies:
            return 1.0
        return self.boundary.p_value(self.n, self.mean() / self.standard_error())


def count_pairs_to_see(gap: float, variance: float, boundary: DelayedStart) -> int | None:
    """Pairs at which a mean difference of this size is outside its bounds; None if unknown.

    Args:
        gap: The size of the mean difference.
        variance: Long-run variance of one pair.
    """
    n = float(boundary.first)
    if gap <= 0.0 or variance * boundary.z(n) ** 2 / gap**2 > MOST_PAIRS:
        return None
    for _ in range(60):  # z grows with the root of ln n, so each turn adds far less than the last
        n = max(float(boundary.first), variance * boundary.z(n) ** 2 / gap**2)
    return math.ceil(n)


def find_visible_gain(variance: float, *, pairs: int, boundary: DelayedStart) -> float | None:
    """The mean difference seen with a chance of 80 % within so many pairs; None below the first.

    Args:
        variance: Long-run variance of one pair.
    """
    if pairs < boundary.first:
        return None
    return (boundary.z(pairs) + SEEN_WITH) * math.sqrt(variance / pairs)
