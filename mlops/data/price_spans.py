"""Whether a bar holds the prices of the bars before and after it: that of a coarser timeframe does.

A coarser bar opens as the first of the bars that it spans, closes as the last of them, and its
range is theirs. A bar between them that shows a price beyond its range ends the search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import product

import numpy as np

from mlops.arrays import BoolArray, FloatArray, IntArray

AGREE = 1e-6
"""Two values agree where they differ by this share at most."""

PRICES = ("open", "high", "low", "close")

_LONGEST_NS = timedelta(days=31) // timedelta(microseconds=1) * 1000
_FIRST_PART, _GROWTH = 64, 8


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of bars (N,), oldest first."""

    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray

    @classmethod
    def of(cls, values: Mapping[str, FloatArray], rows: IntArray) -> Prices:
        return cls(*(values[name][rows] for name in PRICES))

    def bar(self, row: int) -> Bar:
        return Bar(*(float(getattr(self, name)[row]) for name in PRICES))


@dataclass(frozen=True, slots=True)
class Bar:
    """The prices of one bar."""

    open: float
    high: float
    low: float
    close: float

    @classmethod
    def of(cls, values: Mapping[str, FloatArray], row: int) -> Bar:
        return cls(*(float(values[name][row]) for name in PRICES))


@dataclass(frozen=True, slots=True)
class Side:
    """The bars on one side of a bar, as far as they lie within its range, nearest first.

    Attributes:
        room: How many bars lie there.
        ends: The numbers of bars (P,), ascending and 0 among them, with which its price is met:
            the close of the last of so many bars after it, or the open of the first before it.
        top: How many bars are needed to see its high; infinite where none shows it.
        bottom: The same of its low.
    """

    room: int
    ends: IntArray
    top: float
    bottom: float

    @property
    def whole(self) -> float:
        """How many bars are needed to see its high and its low."""
        return max(self.top, self.bottom)

    def first_end(self, least: float) -> float:
        """The least number of bars, not below ``least``, with which its price is met."""
        at = int(np.searchsorted(self.ends, least))
        return float(self.ends[at]) if at < len(self.ends) else math.inf


def count_spanned(before: Side, after: Side) -> int:
    """How many bars before and after it a bar is the union of; 0 of less than two."""
    least = math.inf
    for few, top, bottom in product(((0, 2), (1, 1), (2, 0)), *(_choices(before, after))):
        first = before.first_end(max(few[0], top[0], bottom[0]))
        last = after.first_end(max(few[1], top[1], bottom[1]))
        least = min(least, first + last)
    return int(least) if math.isfinite(least) else 0


def _choices(before: Side, after: Side) -> tuple[list[tuple[float, float]], ...]:
    """The least numbers of bars before and after with which the high, and the low, is seen."""
    return (
        [(before.top, 0.0), (0.0, after.top)],
        [(before.bottom, 0.0), (0.0, after.bottom)],
    )


def look_around(prices: Prices, bar: Bar, before: int, after: int, reach: int) -> tuple[Side, Side]:
    """The bars before and after a bar that may span them.

    Args:
        before, after: The positions of the nearest of them; one may be outside the table.
        reach: So many bars are looked at on each side at most.
    """
    count = len(prices.open)
    earlier = _find_run(prices, bar, range(before, max(before - reach, -1), -1))
    later = _find_run(prices, bar, range(after, min(after + reach, count)))
    begins = after < count and agree(float(prices.open[after]), bar.open)
    closes = before >= 0 and agree(float(prices.close[before]), bar.close)
    starts = np.append(begins, are_near(prices.open[earlier], bar.open))
    ends = np.append(closes, are_near(prices.close[later], bar.close))
    return _make_side(prices, bar, earlier, starts), _make_side(prices, bar, later, ends)


def _find_run(prices: Prices, bar: Bar, rows: range) -> IntArray:
    """The first of the rows, as far as they lie within the range of a bar."""
    begin, size = 0, _FIRST_PART
    while begin < len(rows):
        part = _as_array(rows[begin : begin + size])
        outside = prices.high[part] > bar.high * (1 + AGREE)
        outside |= prices.low[part] < bar.low * (1 - AGREE)
        if outside.any():
            return _as_array(rows[: begin + int(np.argmax(outside))])
        begin, size = begin + size, size * _GROWTH
    return _as_array(rows)


def _as_array(rows: range) -> IntArray:
    return np.arange(rows.start, rows.stop, rows.step)


def _make_side(prices: Prices, bar: Bar, rows: IntArray, meets: BoolArray) -> Side:
    top, bottom = are_near(prices.high[rows], bar.high), are_near(prices.low[rows], bar.low)
    return Side(len(rows), np.flatnonzero(meets), _count_to_first(top), _count_to_first(bottom))


def _count_to_first(found: BoolArray) -> float:
    return float(np.argmax(found)) + 1 if found.any() else math.inf


def are_near(values: FloatArray, value: float) -> BoolArray:
    return np.asarray(np.abs(values - value) <= AGREE * value)


def agree(one: float, other: float) -> bool:
    return abs(one - other) <= AGREE * other


def count_bars_of_a_month(step: int) -> int:
    """How many bars of ``step`` nanoseconds a month has at most."""
    return _LONGEST_NS // max(step, 1) + 1


def bound_chance(count: int, expected: float) -> float:
    """A bound of the chance that ``count`` of many rare things happen where few are expected.

    It is the smaller bound of Markov and Chernoff, for independent things whose chances have the
    sum ``expected``.
    """
    if count <= expected:
        return 1.0
    ratio = max(expected, 1e-300) / count
    return min(ratio, math.exp(count - expected + count * math.log(ratio)))
