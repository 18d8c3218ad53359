"""Bars that hold prices of the bars beside them, though they share a stamp with none of them.

Such are the day bars of a table whose rows of equal stamps were dropped before, or that lie in
closed hours or holes. Their prices agree with those of the bars they span to `AGREE`, which is no
chance where the market's prices seldom agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data.repeated_stamps import AGREE, PRICES
from mlops.errors import BarsError
from mlops.service import Timeframe

MISSED_SHARE = 0.05
"""A bar whose close is further from the next open, as a share of its range, is looked at."""

SELDOM = 0.02
"""Where more of the bars have the high of the bar before, prices agree by chance: nothing is told.

In hourly bars of Bitcoin, Ether, the euro and SPY it is 0.01 to 0.016.
"""

_MOST_LOOKED_AT = 200
_CHUNK = 1 << 16
_LONGEST = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Series:
    """Bars as arrays (N,), oldest first."""

    stamps: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    step: int

    @classmethod
    def of(cls, frame: pd.DataFrame, timeframe: Timeframe) -> Series:
        stamps = np.asarray(pd.DatetimeIndex(frame.index).as_unit("ns").asi8)
        opened, high, low, close = (frame[name].to_numpy() for name in PRICES)
        return cls(stamps, opened, high, low, close, timeframe.minutes * 60 * 10**9)

    @property
    def reach(self) -> int:
        """How many bars a month has at most."""
        return _LONGEST // timedelta(microseconds=self.step // 1000) + 1


def refuse_coarse_rows(frame: pd.DataFrame, timeframe: Timeframe) -> None:
    """Refuse bars that span the bars beside them.

    Raises:
        BarsError: naming the first such bar and how many bars it spans.
    """
    series = Series.of(frame, timeframe)
    found = find_coarse_rows(series)
    if not found:
        return
    row, count = min(found.items())
    more = f", as {len(found) - 1:,} more do theirs" if len(found) > 1 else ""
    raise BarsError(
        f"the bar of {frame.index[row]:%Y-%m-%d %H:%M} holds the prices of {count} bars beside it"
        f"{more}: these are bars of two timeframes; keep the {timeframe} bars alone",
        column="close",
    )


def find_coarse_rows(series: Series) -> dict[int, int]:
    """The positions of coarser bars, and how many other bars each spans."""
    spans = {row: _count_spanned(series, row) for row in _choose_apart(series)}
    spans |= {row: _count_after(series, row) for row in _choose_missing(series)}
    found = {row: count for row, count in spans.items() if count}
    return found if found and _share_of_equal_highs(series) <= SELDOM else {}


def _choose_apart(series: Series) -> list[int]:
    """Bars beside a gap, those between two gaps first, then the widest."""
    apart = np.diff(series.stamps) > series.step
    sides = np.append(apart, False).astype(int) + np.append(False, apart)
    rows = np.flatnonzero(sides)
    width = (series.high[rows] - series.low[rows]) / series.low[rows]
    chosen: list[int] = rows[np.lexsort((-width, -sides[rows]))][:_MOST_LOOKED_AT].tolist()
    return chosen


def _choose_missing(series: Series) -> list[int]:
    """Bars that close away from the next open and hold the next bar, the widest by it first."""
    found = [
        start + np.flatnonzero(_are_odd(series, slice(start, start + _CHUNK)))
        for start in range(0, max(len(series.stamps) - 1, 0), _CHUNK)
    ]
    rows = np.concatenate([np.zeros(0, np.int64), *found])
    width = series.high - series.low if len(rows) else series.high
    ratio = width[rows] / np.maximum(width[rows + 1], width[rows] * 1e-9)
    chosen: list[int] = rows[np.argsort(-ratio, kind="stable")][:_MOST_LOOKED_AT].tolist()
    return chosen


def _are_odd(series: Series, part: slice) -> BoolArray:
    following = slice(part.start + 1, part.stop + 1)
    high, low = series.high[part], series.low[part]
    count = len(series.stamps[following])
    high, low = high[:count], low[:count]
    missed = np.abs(series.close[part][:count] - series.open[following])
    odd = missed > MISSED_SHARE * (high - low)
    odd &= (series.high[following] <= high) & (series.low[following] >= low)
    odd &= series.stamps[following] - series.stamps[part][:count] == series.step
    return np.asarray(odd)


def _count_after(series: Series, row: int) -> int:
    """How many of the next bars a bar spans that stands in the place of one of its bars."""
    before = np.arange(row - 1, max(row - 1 - series.reach, -1), -1)
    after = np.arange(row + 1, min(row + 1 + series.reach, len(series.stamps)))
    before, after = (_cut_to_range(series, row, rows) for rows in (before, after))
    high, low = series.high[row], series.low[row]
    is_top = _near(series.high[before], high).any() | _near(series.high[after], high)
    is_bottom = _near(series.low[before], low).any() | _near(series.low[after], low)
    whole = np.logical_and(np.logical_or.accumulate(is_top), np.logical_or.accumulate(is_bottom))
    ends = np.flatnonzero(whole & _near(series.close[after], series.close[row]))
    # One bar of the same close and range is chance.
    ends = ends[ends > 0]
    return int(ends[0]) + 1 if len(ends) else 0


def _cut_to_range(series: Series, row: int, rows: IntArray) -> IntArray:
    """The first of the rows, as far as they lie within the range of a bar."""
    outside = series.high[rows] > series.high[row] * (1 + AGREE)
    outside |= series.low[rows] < series.low[row] * (1 - AGREE)
    return rows[: int(np.argmax(outside))] if outside.any() else rows


def _count_spanned(series: Series, row: int) -> int:
    """How many bars before or after it, without itself, a bar is the union of; 0 of less than 2."""
    before = np.arange(row - 1, max(row - 1 - series.reach, -1), -1)
    after = np.arange(row + 1, min(row + 1 + series.reach, len(series.stamps)))
    starts = np.flatnonzero(_near(series.open[before], series.open[row]))
    ends = np.flatnonzero(_near(series.close[after], series.close[row]))
    begins = len(after) > 0 and bool(_near(series.open[after[:1]], series.open[row])[0])
    closes = len(before) > 0 and bool(_near(series.close[before[:1]], series.close[row])[0])
    left = [*([0] if begins else []), *(starts + 1).tolist()]
    right = [*([0] if closes else []), *(ends + 1).tolist()]
    if not left or not right:
        return 0
    count = np.add.outer(left, right)
    high, low = (
        extreme.outer(_run(extreme, values, before)[left], _run(extreme, values, after)[right])
        for extreme, values in ((np.maximum, series.high), (np.minimum, series.low))
    )
    fits = (count >= 2) & _near(high, series.high[row]) & _near(low, series.low[row])
    return int(count[fits].min()) if fits.any() else 0


def _run(extreme: np.ufunc, values: FloatArray, rows: IntArray) -> FloatArray:
    """The extreme of the first 0, 1, 2, ... of the rows."""
    empty = -np.inf if extreme is np.maximum else np.inf
    running: FloatArray = np.append(empty, extreme.accumulate(values[rows]))
    return running


def _near(values: FloatArray, value: float) -> BoolArray:
    return np.asarray(np.abs(values - value) <= AGREE * value)


def _share_of_equal_highs(series: Series) -> float:
    """How often two bars have one high, of those that hold not each other."""
    stride = max(len(series.high) // 100_000, 1)
    rows = np.arange(0, len(series.high) - 1, stride)
    rows = rows[series.low[rows + 1] < series.low[rows] * (1 - AGREE)]
    if not len(rows):
        return 1.0
    one, other = series.high[rows], series.high[rows + 1]
    return float(np.mean(np.abs(one - other) <= AGREE * one))
