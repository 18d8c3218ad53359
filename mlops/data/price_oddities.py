"""Bad prints and likely splits, looked for only where the price moves far enough.

The running medians of their definitions are computed around such bars alone, for over all bars of
a long history they would take longer than reading it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data.bar_columns import COLUMNS
from mlops.data.parts import PART_ROWS, map_parts

# A split moves the price by 30 % or more at once, but not the money that changes hands.
SPLIT_STEP = float(np.log(1.4))
SPLIT_TURNOVER = 5.0
TURNOVER_BARS = 20
PERSIST_BARS = 5
# A bad print reaches this many typical ranges, and 2 %, beyond both neighbours and comes back.
PRINT_RANGES = 15.0
PRINT_FLOOR = 0.02
RANGE_BARS = 169
WIDE_RATIO = 1.02
"""A high that is no such multiple of the close before it is less than `PRINT_FLOOR` above it."""

WINDOWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Prices:
    """The columns of bars as arrays (N,)."""

    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Prices:
        return cls(*(frame[name].to_numpy() for name in COLUMNS))

    def _find_wide_moves(self) -> IntArray:
        """Rows that reach far from the close before: of others none is a bad print or a split."""

        def look(begin: int) -> IntArray:
            part = slice(begin, begin + PART_ROWS + 1)
            wide = _moves_wide(self.high[part], self.low[part], self.close[part])
            return begin + np.flatnonzero(wide)

        found = map_parts(look, len(self.close) - 1)
        return np.concatenate([*found, np.empty(0, np.int64)]) + 1

    def find_bad_prints_and_splits(self) -> tuple[IntArray, IntArray]:
        """Rows of bad prints, and of the first bars after a split; no bar is both."""
        rows = self._find_wide_moves()
        prints = _find_bad_prints(self, rows)
        return prints, _find_splits(self, np.setdiff1d(rows, prints))

    def count_flat_bars(self) -> int:

        def count(begin: int) -> int:
            part = slice(begin, begin + PART_ROWS)
            return int(np.count_nonzero(self.high[part] == self.low[part]))

        return sum(map_parts(count, len(self.close)))


def _moves_wide(high: FloatArray, low: FloatArray, close: FloatArray) -> BoolArray:
    """Whether each bar but the first leaves the close before it by a wide ratio (N - 1,)."""
    before = close[:-1]
    return np.asarray((high[1:] > before * WIDE_RATIO) | (low[1:] * WIDE_RATIO < before))


def _find_bad_prints(prices: Prices, rows: IntArray) -> IntArray:
    """Those of ``rows`` whose high or low is far beyond both neighbours.

    The first and last bar are never flagged: with one neighbour a print looks like a move.
    """
    rows = rows[(rows > 0) & (rows < len(prices.close) - 1)]
    before, after = np.log(prices.close[rows - 1]), np.log(prices.close[rows + 1])
    opened = np.log(prices.open[rows + 1])
    above = np.log(prices.high[rows]) - np.maximum(before, np.maximum(opened, after))
    below = np.minimum(before, np.minimum(opened, after)) - np.log(prices.low[rows])
    reach = np.maximum(above, below)
    far = reach > PRINT_FLOOR
    rows, reach = rows[far], reach[far]
    half = RANGE_BARS // 2
    usual = _moving_median(
        lambda at: np.log(prices.high[at]) - np.log(prices.low[at]),
        rows - half,
        RANGE_BARS,
        len(prices.close),
    )
    prints: IntArray = rows[reach > np.maximum(PRINT_RANGES * usual, PRINT_FLOOR)]
    return prints


def _find_splits(prices: Prices, rows: IntArray) -> IntArray:
    """Those of ``rows`` that begin a lasting step of the price on ordinary turnover.

    A split leaves turnover (price times volume) as it is; a crash multiplies it.
    """
    rows = rows[rows > 0]
    before = np.log(prices.close[rows - 1])
    opened, close = np.log(prices.open[rows]), np.log(prices.close[rows])
    rows = rows[np.maximum(np.abs(opened - before), np.abs(close - before)) >= SPLIT_STEP]
    count = len(prices.close)
    # One bad print does not move the median of a few bars.
    lasting = _moving_median(lambda at: np.log(prices.close[at]), rows, PERSIST_BARS, count)
    past = _moving_median(
        lambda at: np.log(prices.close[at]), rows - PERSIST_BARS, PERSIST_BARS, count
    )
    rows = rows[np.abs(lasting - past) >= SPLIT_STEP]
    with np.errstate(over="ignore"):
        turnover = prices.close[rows] * prices.volume[rows]
        usual = _moving_median(
            lambda at: _finite(prices.close[at] * prices.volume[at]),
            rows - TURNOVER_BARS,
            TURNOVER_BARS,
            count,
        )
        # Infinite where no bar lies before, so that its turnover is ordinary.
        limit = SPLIT_TURNOVER * np.where(np.isnan(usual), np.inf, usual)
    suspected: IntArray = rows[turnover <= limit]
    return suspected


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isinf(values), np.nan, values)


def _moving_median(
    value_of: Callable[[IntArray], FloatArray], first: IntArray, width: int, count: int
) -> FloatArray:
    """Median of ``value_of`` over ``width`` rows from each of ``first`` on; NaN counts as none.

    Args:
        count: Of all rows; a window is cut at both ends of them.
    """
    medians = [np.empty(0)]
    for begin in range(0, len(first), WINDOWS_AT_ONCE):
        rows = first[begin : begin + WINDOWS_AT_ONCE, np.newaxis] + np.arange(width)
        inside = (rows >= 0) & (rows < count)
        values = value_of(np.clip(rows, 0, count - 1))
        # NaN is sorted behind all numbers.
        ordered = np.sort(np.where(inside, values, np.nan), axis=1)
        found = np.count_nonzero(~np.isnan(ordered), axis=1)
        row = np.arange(len(ordered))
        low, high = ordered[row, np.maximum(found - 1, 0) // 2], ordered[row, found // 2]
        medians.append(np.where(found % 2, low, (low + high) / 2))
    return np.concatenate(medians)
