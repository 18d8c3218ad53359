"""The quality of clean bars: holes, flat bars, likely splits, bad prints, and staleness.

Oddities are flagged and never repaired: a fall of 48 % may be a crash and not an error.
`NewestBar` measures age in bars that the market could trade since, so that closed hours
make no market stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray, naive_utc
from mlops.data.bar_columns import COLUMNS
from mlops.data.bar_rules import PART_ROWS
from mlops.data.calendar import Calendar, missing_before
from mlops.service import Service, Timeframe

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
class Hole:
    """Missing bars that the market could have traded, opened in ``[start, end)`` (UTC)."""

    start: pd.Timestamp
    end: pd.Timestamp
    bars: int


@dataclass(frozen=True, slots=True)
class Flags:
    """Oddities of a frame; ``completeness`` is the share of tradable bars present, 0 to 1."""

    holes: tuple[Hole, ...]
    completeness: float
    flat_bars: int
    suspected_splits: tuple[pd.Timestamp, ...]
    bad_prints: tuple[pd.Timestamp, ...]


def flag_oddities(frame: pd.DataFrame, timeframe: Timeframe, calendar: Calendar) -> Flags:
    """Flag the oddities of clean, sorted bars."""
    opened = pd.DatetimeIndex(frame.index)
    holes, completeness = find_holes(opened, timeframe, calendar)
    prices = Prices.of(frame)
    rows = prices.find_wide_moves()
    prints = find_bad_prints(prices, rows)
    splits = find_suspected_splits(prices, np.setdiff1d(rows, prints))
    return Flags(
        holes=holes,
        completeness=completeness,
        flat_bars=prices.count_flat_bars(),
        suspected_splits=tuple(opened[splits]),
        bad_prints=tuple(opened[prints]),
    )


def find_holes(
    opened: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar
) -> tuple[tuple[Hole, ...], float]:
    """The holes between bars, and the share of tradable bars that are present, 0 to 1."""
    missing = missing_before(opened, timeframe, calendar)
    holes = tuple(
        Hole(opened[row - 1] + timeframe.step, opened[row], int(missing[row]))
        for row in np.flatnonzero(missing).tolist()
    )
    return holes, len(opened) / (len(opened) + int(missing.sum()))


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

    def find_wide_moves(self) -> IntArray:
        """Rows that reach far from the close before: of others none is a bad print or a split."""
        found = [
            begin + np.flatnonzero(_moves_wide(self.high[part], self.low[part], self.close[part]))
            for begin, part in _parts(len(self.close))
        ]
        return np.concatenate([*found, np.empty(0, np.int64)]) + 1

    def count_flat_bars(self) -> int:
        return sum(
            int(np.count_nonzero(self.high[part][1:] == self.low[part][1:]))
            for _, part in _parts(len(self.close))
        ) + int((self.high[:1] == self.low[:1]).sum())


def _parts(count: int) -> Iterator[tuple[int, slice]]:
    """Slices that fit the cache of a core, each with the row before it, and their first rows."""
    for begin in range(0, count - 1, PART_ROWS):
        yield begin, slice(begin, begin + PART_ROWS + 1)


def _moves_wide(high: FloatArray, low: FloatArray, close: FloatArray) -> BoolArray:
    """Whether each bar but the first leaves the close before it by a wide ratio (N - 1,)."""
    before = close[:-1]
    return np.asarray((high[1:] > before * WIDE_RATIO) | (low[1:] * WIDE_RATIO < before))


def find_bad_prints(prices: Prices, rows: IntArray) -> IntArray:
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
    usual = moving_median(
        lambda at: np.log(prices.high[at]) - np.log(prices.low[at]),
        rows - half,
        RANGE_BARS,
        len(prices.close),
    )
    prints: IntArray = rows[reach > np.maximum(PRINT_RANGES * usual, PRINT_FLOOR)]
    return prints


def find_suspected_splits(prices: Prices, rows: IntArray) -> IntArray:
    """Those of ``rows`` that begin a lasting step of the price on ordinary turnover.

    A split leaves turnover (price times volume) as it is; a crash multiplies it.
    """
    rows = rows[rows > 0]
    before = np.log(prices.close[rows - 1])
    opened, close = np.log(prices.open[rows]), np.log(prices.close[rows])
    rows = rows[np.maximum(np.abs(opened - before), np.abs(close - before)) >= SPLIT_STEP]
    count = len(prices.close)
    # One bad print does not move the median of a few bars.
    lasting = moving_median(lambda at: np.log(prices.close[at]), rows, PERSIST_BARS, count)
    past = moving_median(
        lambda at: np.log(prices.close[at]), rows - PERSIST_BARS, PERSIST_BARS, count
    )
    rows = rows[np.abs(lasting - past) >= SPLIT_STEP]
    with np.errstate(over="ignore"):
        turnover = prices.close[rows] * prices.volume[rows]
        usual = moving_median(
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


def moving_median(
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


@dataclass(frozen=True, slots=True)
class NewestBar:
    """The close of the newest complete bar (None without a bar) and the market time ``now``."""

    closed_at: datetime | None
    now: datetime
    calendar: Calendar

    def is_stale(self, service: Service, *, max_age_bars: float) -> bool:
        """Whether the newest bar is older than ``max_age_bars`` and the market traded since.

        Closed hours do not count: after a weekend the count begins anew.
        """
        if self.closed_at is None:
            return True
        if self.now - self.closed_at <= max_age_bars * service.timeframe.step:
            return False
        return self.missed(service) >= max(1, int(max_age_bars))

    def missed(self, service: Service) -> int:
        """Tradable bars that have closed since the newest bar."""
        if self.closed_at is None:
            return 0
        closed, now = (np.array([naive_utc(moment)]) for moment in (self.closed_at, self.now))
        return int(self.calendar.missing_between(closed, now, service.timeframe)[0])
