"""The quality of clean bars: holes, flat bars, likely splits, bad prints, and staleness.

Oddities are flagged and never repaired: a fall of 48 % may be a crash and not an error.
`NewestBar` measures age in bars that the market could trade since, so that closed hours
make no market stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, naive_utc
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
    prints = bad_prints(frame)
    return Flags(
        holes=holes,
        completeness=completeness,
        flat_bars=int((frame["high"] == frame["low"]).sum()),
        suspected_splits=tuple(opened[suspected_splits(frame, prints)]),
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


def bad_prints(frame: pd.DataFrame) -> BoolArray:
    """Bars whose high or low is far beyond both neighbours, a mask (N,).

    The first and last bar are never flagged: with one neighbour a print looks like a move.
    """
    high, low, close = (np.log(frame[name].to_numpy()) for name in ("high", "low", "close"))
    flagged = np.zeros(len(frame), bool)
    if len(frame) < 3:
        return flagged
    opened = np.log(frame["open"].to_numpy())
    above = high[1:-1] - np.maximum(close[:-2], np.maximum(opened[2:], close[2:]))
    below = np.minimum(close[:-2], np.minimum(opened[2:], close[2:])) - low[1:-1]
    reach = np.maximum(above, below)
    ranges = pd.Series(high - low).rolling(RANGE_BARS, center=True, min_periods=1)
    limit = np.maximum(PRINT_RANGES * ranges.median().to_numpy()[1:-1], PRINT_FLOOR)
    flagged[1:-1] = reach > limit
    return flagged


def suspected_splits(frame: pd.DataFrame, prints: BoolArray) -> BoolArray:
    """Bars that begin a lasting step of the price on ordinary turnover, a mask (N,).

    A split leaves turnover (price times volume) as it is; a crash multiplies it.
    """
    close, opened = np.log(frame["close"].to_numpy()), np.log(frame["open"].to_numpy())
    previous = np.concatenate([close[:1], close[:-1]])
    step = np.maximum(np.abs(opened - previous), np.abs(close - previous))
    after, before = _trailing_median(close[::-1])[::-1], _trailing_median(close)[:-1]
    lasting = np.abs(after - np.append(close[:1], before))
    turnover = frame["close"].to_numpy() * frame["volume"].to_numpy()
    # Infinite where no bar lies before, so that its turnover is ordinary.
    usual = pd.Series(turnover).shift().rolling(TURNOVER_BARS, min_periods=1).median()
    ordinary = turnover <= SPLIT_TURNOVER * usual.fillna(np.inf).to_numpy()
    suspected: BoolArray = (step >= SPLIT_STEP) & (lasting >= SPLIT_STEP) & ordinary & ~prints
    suspected[:1] = False
    return suspected


def _trailing_median(close: FloatArray) -> FloatArray:
    """Median of each bar and the few before it, which one bad print does not move."""
    return pd.Series(close).rolling(PERSIST_BARS, min_periods=1).median().to_numpy()


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
