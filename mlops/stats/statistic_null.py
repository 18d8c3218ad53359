"""The p-value of a statistic from its own history of overlapping, dependent windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from mlops.arrays import FloatArray

MIN_INDEPENDENT = 2.5
"""The least m for which a p-value is computed; callers should demand more before they trust it."""


@dataclass(frozen=True, slots=True)
class StatisticNull:
    """One statistic over the reference's windows: mean, spread and the values in order (J,).

    ``independent`` is m: the J overlapping windows are worth m independent windows.
    """

    mean: float
    spread: float
    ranked: FloatArray = field(repr=False)
    independent: float

    @classmethod
    def of(cls, values: FloatArray, independent: float, *, resolution: float) -> StatisticNull:
        """Fit the null to the statistic of each window (J,).

        Args:
            resolution: The least spread, which is the change by one bar of the window. Without
                it a feature of the clock, equal in every window, would alarm at a missing bar.
        """
        m = max(independent, MIN_INDEPENDENT)
        spread = max(float(values.std()), resolution) * np.sqrt((m + 1.0) / (m - 1.0))
        return cls(float(values.mean()), float(spread), np.sort(values), m)

    def to_array(self) -> FloatArray:
        """All fields in one array, which `from_array` reads back."""
        return np.concatenate([[self.mean, self.spread, self.independent], self.ranked])

    @classmethod
    def from_array(cls, packed: NDArray[Any]) -> Self:
        mean, spread, independent = map(float, packed[:3])
        return cls(mean, spread, packed[3:], independent)

    @property
    def median(self) -> float:
        middle = self.ranked[(self.ranked.size - 1) // 2 : self.ranked.size // 2 + 1]
        return float(middle.mean())

    def upper(self, values: FloatArray) -> FloatArray:
        """P-values against an unusually large statistic."""
        tail = stdtr(self.independent - 1.0, -self._standardised(values))
        reached = self.ranked.size - np.searchsorted(self.ranked, values, side="left")
        share = (1.0 + reached) / (self.ranked.size + 1.0)
        p: FloatArray = np.where(reached > 0, np.maximum(tail, share), tail)
        return p

    def two_sided(self, values: FloatArray) -> FloatArray:
        """P-values against an unusually large or small statistic."""
        lower = stdtr(self.independent - 1.0, self._standardised(values))
        p: FloatArray = np.minimum(1.0, 2.0 * np.minimum(self.upper(values), lower))
        return p

    def _standardised(self, values: FloatArray) -> FloatArray:
        return (values - self.mean) / self.spread
