"""Ranks and exact Wasserstein distances against a reference that is sorted once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from mlops.arrays import FloatArray


class OrderedReference:
    """Finite reference values (N,), sorted once, so that n ranks cost n log N."""

    def __init__(self, values: ArrayLike) -> None:
        self._given: FloatArray = np.asarray(values, dtype=np.float64)
        self.values: FloatArray = np.sort(self._given)
        self.size = self.values.size
        self._has_ties = bool((np.diff(self.values) == 0.0).any())
        # Centred, so that the running sum keeps its digits where the level is far from zero.
        self._centre = float(self.values[self.size // 2])
        self._running: FloatArray | None = None

    def normal_scores(self, values: FloatArray) -> FloatArray:
        """Normal quantile of each value's mid-rank in the reference, cut at its ends (n,)."""
        below = np.searchsorted(self.values, values, side="left")
        if self._has_ties:
            up_to = np.searchsorted(self.values, values, side="right")
        else:
            up_to = below + (self.values[np.minimum(below, self.size - 1)] == values)
        return self._scores_of_ranks((below + up_to) / 2.0)

    def own_scores(self) -> FloatArray:
        """The normal scores of the reference's own values, in their original order (N,)."""
        ranks = np.arange(self.size) + 0.5
        if self._has_ties:
            starts = np.flatnonzero(np.diff(self.values, prepend=np.nan) != 0.0)
            ends = np.append(starts[1:], self.size)
            ranks = np.repeat((starts + ends) / 2.0, ends - starts)
        in_order = np.empty(self.size)
        in_order[np.argsort(self._given, kind="stable")] = ranks
        return self._scores_of_ranks(in_order)

    def _scores_of_ranks(self, ranks: FloatArray) -> FloatArray:
        ends = 0.5 / (self.size + 1)
        scores: FloatArray = ndtri(np.clip((ranks + 0.5) / (self.size + 1), ends, 1.0 - ends))
        return scores

    def wasserstein(self, values: ArrayLike) -> float:
        """Exact 1-Wasserstein distance to the empirical distribution of ``values (n,)``.

        Each value has a slice of 1/n of the probability. Within the slice the reference's
        quantiles lie first below and then above the value, so the integral of their distance
        takes four values of the running integral of the quantiles.
        """
        if self._running is None:
            self._running = np.concatenate([[0.0], np.cumsum(self.values - self._centre)])
        current = np.sort(np.asarray(values, dtype=np.float64))
        n = current.size
        edges = np.arange(n + 1, dtype=np.float64) * (self.size / n)
        crossing = np.searchsorted(self.values, current, side="left").astype(np.float64)
        crossing = np.clip(crossing, edges[:-1], edges[1:])
        area, at_crossing = self._sum_of_first(edges), self._sum_of_first(crossing)
        below = (current - self._centre) * (2.0 * crossing - edges[:-1] - edges[1:])
        total = below + area[:-1] + area[1:] - 2.0 * at_crossing
        return float(total.sum() / self.size)

    def _sum_of_first(self, positions: FloatArray) -> FloatArray:
        """The sum of the first ``positions`` centred values, linear between whole ones."""
        assert self._running is not None
        whole = np.minimum(positions.astype(np.int64), self.size - 1)
        rest = positions - whole
        total: FloatArray = self._running[whole] + rest * (self.values[whole] - self._centre)
        return total
