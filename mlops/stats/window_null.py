"""Test whether a window has left the reference, by the differences of the reference's own windows.

Market features are autocorrelated, so a window of n bars is unlike n independent draws from the
reference, and a test that assumes such draws alarms nearly always. Here the null distribution of
a statistic is its distribution over the reference's own windows of the same length: fitted once
for a series, calibrated once for a window length, then cheap for every window.

The J overlapping windows are worth m = N / (n + tau) independent windows, where tau is the
integrated autocorrelation time. The p-value is that of a new draw from a normal sample of size
m (Student's t with m - 1 degrees of freedom); inside the range of the history it is never less
than the share of windows that went as far.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from mlops.arrays import FloatArray, IntArray
from mlops.stats.dependence import integrated_time
from mlops.stats.ordered_reference import OrderedReference
from mlops.stats.statistic_null import StatisticNull

QUANTILES = 64
"""Bins of equal probability between whose edges the distributions are compared."""

WINDOWS_PER_LENGTH = 8
"""Windows begin every n/8 bars; more windows would add almost no information."""

MAX_BARS = 20_000
"""The last rows of a reference that are kept; a bundle holds so many for a column."""


@dataclass(frozen=True, slots=True)
class WindowChecks:
    """The results of E windows; every field is (E,).

    ``effect`` is in units of the Kolmogorov distance, less the usual distance between windows of
    the reference: 0.1 is about a shift of a quarter of a standard deviation. ``location`` and
    ``scale`` are mean and standard deviation of the normal scores (0 and 1 in the reference);
    ``worst_quantile`` is the reference's probability where the distributions differ most. These
    three explain the result; each is NaN for a kind of series that lacks it.
    """

    p_value: FloatArray
    effect: FloatArray
    location: FloatArray
    scale: FloatArray
    worst_quantile: FloatArray


class WindowNull(ABC):
    """A reference series in time order, and its nulls by window length.

    Args:
        values: Finite values (N,); drop missing ones, because windows are counted in bars.
        tau: The integrated autocorrelation time; by default it is measured.
        max_bars: How many of the last rows are kept; None keeps all.
    """

    kind: str
    _statistics: tuple[str, ...]

    def __init__(
        self, values: ArrayLike, *, tau: float | None = None, max_bars: int | None = MAX_BARS
    ) -> None:
        kept = np.asarray(values, dtype=np.float64)
        self.values: FloatArray = kept if max_bars is None else kept[-max_bars:]
        self.size = self.values.size
        self._prepare()
        self.tau = self._measure_tau() if tau is None else tau
        self._nulls: dict[int, dict[str, StatisticNull]] = {}

    def independent_windows(self, n: int) -> float:
        """The number m of independent windows of n bars in the reference."""
        return self.size / (n + self.tau)

    def calibrate(self, n: int) -> Mapping[str, StatisticNull]:
        """The null of each statistic for windows of n bars, computed once."""
        if n not in self._nulls:
            starts = np.arange(0, self.size - n + 1, max(1, n // WINDOWS_PER_LENGTH))
            values, resolution = self._reference_statistics(starts, n)
            m = self.independent_windows(n)
            self._nulls[n] = {
                name: StatisticNull.of(values[name], m, resolution=resolution[name])
                for name in self._statistics
            }
        return self._nulls[n]

    def check(self, values: ArrayLike, n: int | None = None, ends: ArrayLike = ()) -> WindowChecks:
        """Check the windows ``values[end - n : end]`` for all ``ends``.

        Args:
            values: A finite series.
            n: Bars of a window, at most the reference's length; by default the whole series.
            ends: The end of each window (E,); by default the end of the series.
        """
        series = np.asarray(values, dtype=np.float64)
        length = series.size if n is None else n
        stops = np.asarray(ends, dtype=np.int64).ravel()
        return self._check_windows(series, length, stops if stops.size else np.array([series.size]))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Values, tau and nulls as named arrays, which `from_arrays` reads back."""
        arrays: dict[str, NDArray[Any]] = {"values": self.values, "tau": np.array([self.tau])}
        for n, nulls in self._nulls.items():
            for name, null in nulls.items():
                arrays[f"{n}.{name}"] = null.to_array()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read `to_arrays` back; only the order of the values is computed again."""
        null = cls(arrays["values"], tau=float(arrays["tau"][0]), max_bars=None)
        for key in sorted(arrays.keys() - {"values", "tau"}):
            n, _, name = key.partition(".")
            null._nulls.setdefault(int(n), {})[name] = StatisticNull.from_array(arrays[key])
        return null

    @abstractmethod
    def _prepare(self) -> None:
        """Compute the sums of ``values`` that checks use."""

    @abstractmethod
    def _measure_tau(self) -> float:
        """The integrated autocorrelation time of the averages in the statistics (tau)."""

    @abstractmethod
    def _reference_statistics(
        self, starts: IntArray, n: int
    ) -> tuple[dict[str, FloatArray], dict[str, float]]:
        """The statistics of the reference's windows, and the change of each by one bar."""

    @abstractmethod
    def _check_windows(self, values: FloatArray, n: int, ends: IntArray) -> WindowChecks:
        """Check windows of n bars."""


class NumericNull(WindowNull):
    """The window null of a numeric series: Kolmogorov distance and scale.

    The distance is taken on a grid of 64 quantiles, which loses little; scale is the mean square
    of normal scores, which detects a rise of volatility earlier than the distance. Powers of 2/3
    and 1/3 (Wilson and Hilferty's) make both nearly normal.
    """

    kind = "numeric"
    _statistics = ("distance", "scale")

    def _prepare(self) -> None:
        self.ordered = OrderedReference(self.values)
        inner = np.linspace(0.0, 1.0, QUANTILES + 1)[1:-1]
        self._edges = np.unique(np.quantile(self.ordered.values, inner))
        self._shares = np.searchsorted(self.ordered.values, self._edges, side="right") / self.size
        self.deviation = float(self.values.std())

    @cached_property
    def scores(self) -> FloatArray:
        """The normal scores of ``values`` (N,), which only fitting needs."""
        return self.ordered.own_scores()

    @property
    def _n_bins(self) -> int:
        return self._edges.size + 1

    def _measure_tau(self) -> float:
        return max(integrated_time(self.scores), integrated_time(self.scores**2))

    def _reference_statistics(
        self, starts: IntArray, n: int
    ) -> tuple[dict[str, FloatArray], dict[str, float]]:
        bins = np.searchsorted(self._edges, self.values, side="left")
        inside, outside = _count_inside_and_outside(bins, self._n_bins, starts, n)
        gaps = _distribution(inside) - _distribution(outside)
        distances = _largest_gap(gaps)
        squares = _window_means(self.scores**2, starts, n)
        values = {"distance": distances ** (2 / 3), "scale": _cube_root(squares)}
        return values, {
            "distance": _change_of_power(distances, 1.0 / n, power=2 / 3),
            "scale": _change_of_power(squares, 1.0 / n, power=1 / 3),
        }

    def _check_windows(self, values: FloatArray, n: int, ends: IntArray) -> WindowChecks:
        nulls = self.calibrate(n)
        bins = np.searchsorted(self._edges, values, side="left")
        gaps = _distribution(_count_in_windows(bins, self._n_bins, ends - n, n)) - self._shares
        scores = self.ordered.normal_scores(values)
        squares = _window_means(scores**2, ends - n, n)
        location = _window_means(scores, ends - n, n)
        distances = _largest_gap(gaps)
        p_distance = nulls["distance"].upper(distances ** (2 / 3))
        p_scale = nulls["scale"].two_sided(_cube_root(squares))
        usual = nulls["distance"].median ** 1.5
        worst = np.full(len(gaps), np.nan)
        if self._edges.size:
            worst = self._shares[np.abs(gaps).argmax(axis=1)]
        return WindowChecks(
            p_value=np.minimum(1.0, 2.0 * np.minimum(p_distance, p_scale)),
            effect=_excess_over_usual(distances, usual),
            location=location,
            scale=np.sqrt(np.maximum(squares - location**2, 0.0)),
            worst_quantile=worst,
        )


class CategoricalNull(WindowNull):
    """The window null of labels ``0 .. k - 1``; every other label counts as a new one.

    The statistic is the chi-square distance; the effect is in units of the total variation
    distance, which is the Kolmogorov distance where there are two categories.
    """

    kind = "categorical"
    _statistics = ("distance", "variation")

    def _prepare(self) -> None:
        self._labels = int(self.values.max()) + 1
        counts = np.bincount(self.values.astype(np.int64), minlength=self._n_bins)
        self._shares = counts / self.size

    @property
    def _n_bins(self) -> int:
        return self._labels + 1

    def _measure_tau(self) -> float:
        present = np.flatnonzero(self._shares)
        return max(integrated_time((self.values == label).astype(float)) for label in present)

    def _reference_statistics(
        self, starts: IntArray, n: int
    ) -> tuple[dict[str, FloatArray], dict[str, float]]:
        inside, outside = _count_inside_and_outside(
            self.values.astype(np.int64), self._n_bins, starts, n
        )
        others = outside / outside.sum(axis=1, keepdims=True)
        chi, variation = self._distances(inside / n, others)
        seen = self._shares[self._shares > 0]
        step = float(np.mean(1.0 / seen)) / n**2
        values = {"distance": _cube_root(chi), "variation": variation}
        return values, {"distance": _change_of_power(chi, step, power=1 / 3), "variation": 0.0}

    def _check_windows(self, values: FloatArray, n: int, ends: IntArray) -> WindowChecks:
        nulls = self.calibrate(n)
        known = (values >= 0) & (values < self._labels)
        bins = np.where(known, values, self._labels).astype(np.int64)
        shares = _count_in_windows(bins, self._n_bins, ends - n, n) / n
        chi, variation = self._distances(shares, self._shares)
        nothing = np.full(len(ends), np.nan)
        return WindowChecks(
            p_value=nulls["distance"].upper(_cube_root(chi)),
            effect=_excess_over_usual(variation, nulls["variation"].median),
            location=nothing,
            scale=nothing,
            worst_quantile=nothing,
        )

    def _distances(self, shares: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
        gaps = shares - others
        chi: FloatArray = (gaps**2 / (others + 1.0 / self.size)).sum(axis=1)
        variation: FloatArray = 0.5 * np.abs(gaps).sum(axis=1)
        return chi, variation


class MeanNull(WindowNull):
    """The window null of a mean that must not rise, such as the loss beyond a baseline's.

    Negate a series whose mean must not fall, such as hits. The effect is the rise in standard
    deviations of one bar, converted to the Kolmogorov distance of a normal that is shifted so far.
    """

    kind = "mean"
    _statistics = ("mean",)

    def _prepare(self) -> None:
        self._mean = float(self.values.mean())
        self._deviation = float(self.values.std())

    def _measure_tau(self) -> float:
        return integrated_time(self.values)

    def _reference_statistics(
        self, starts: IntArray, n: int
    ) -> tuple[dict[str, FloatArray], dict[str, float]]:
        return {"mean": _window_means(self.values, starts, n)}, {"mean": self._deviation / n}

    def _check_windows(self, values: FloatArray, n: int, ends: IntArray) -> WindowChecks:
        means = _window_means(values, ends - n, n)
        rise = (means - self._mean) / self._deviation
        nothing = np.full(len(ends), np.nan)
        return WindowChecks(
            p_value=self.calibrate(n)["mean"].upper(means),
            effect=2.0 * ndtr(np.maximum(rise, 0.0) / 2.0) - 1.0,
            location=rise,
            scale=nothing,
            worst_quantile=nothing,
        )


NULLS: dict[str, type[WindowNull]] = {
    null.kind: null for null in (NumericNull, CategoricalNull, MeanNull)
}


def _count_inside_and_outside(
    bins: IntArray, n_bins: int, starts: IntArray, n: int
) -> tuple[FloatArray, FloatArray]:
    """Counts within each window, and in the reference away from it, both (J, n_bins).

    A window is not compared with itself or its neighbours: a gap of half a window on either side
    stands for the time between a reference and later windows.
    """
    size = bins.size
    gap = min(n // 2, size // 20)
    edges = [starts, starts + n, np.maximum(starts - gap, 0), np.minimum(starts + n + gap, size)]
    begin, end, before, after = _count_before(bins, n_bins, edges)
    total = np.bincount(bins, minlength=n_bins).astype(np.float64)
    return end - begin, total - (after - before)


def _count_in_windows(bins: IntArray, n_bins: int, starts: IntArray, n: int) -> FloatArray:
    if len(starts) == 1:
        window = bins[starts[0] : starts[0] + n]
        return np.bincount(window, minlength=n_bins).astype(np.float64)[None, :]
    begin, end = _count_before(bins, n_bins, [starts, starts + n])
    return end - begin


def _count_before(bins: IntArray, n_bins: int, groups: Sequence[IntArray]) -> list[FloatArray]:
    """Rows of each bin before each position: an array (J, n_bins) for each group."""
    positions, where = np.unique(np.concatenate(groups), return_inverse=True)
    steps = np.diff(positions, prepend=0, append=bins.size)
    pieces = np.repeat(np.arange(positions.size + 1), steps)
    counted = np.bincount(pieces * n_bins + bins, minlength=(positions.size + 1) * n_bins)
    running = counted.reshape(-1, n_bins)[:-1].cumsum(axis=0).astype(np.float64)
    return list(running[where.reshape(len(groups), -1)])


def _window_means(values: FloatArray, starts: IntArray, n: int) -> FloatArray:
    centre = float(values.mean())
    running = np.concatenate([[0.0], np.cumsum(values - centre)])
    means: FloatArray = (running[starts + n] - running[starts]) / n + centre
    return means


def _distribution(counts: FloatArray) -> FloatArray:
    shares: FloatArray = counts.cumsum(axis=1)[:, :-1] / counts.sum(axis=1, keepdims=True)
    return shares


def _largest_gap(gaps: FloatArray) -> FloatArray:
    largest: FloatArray = np.abs(gaps).max(axis=1, initial=0.0)
    return largest


def _cube_root(values: FloatArray) -> FloatArray:
    root: FloatArray = np.cbrt(np.maximum(values, 1e-9))
    return root


def _change_of_power(values: FloatArray, change: float, *, power: float) -> float:
    """Change of the usual value's power when the value changes by ``change``."""
    usual = max(float(np.median(values)), 0.0)
    return float((usual + change) ** power - usual**power)


def _excess_over_usual(values: FloatArray, usual: float) -> FloatArray:
    """Distance beyond the usual distance, where squares add."""
    excess: FloatArray = np.sqrt(np.maximum(values**2 - usual**2, 0.0))
    return excess
