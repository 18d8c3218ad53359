"""The quality of clean bars: holes, flat bars, likely splits, bad prints, and staleness.

Oddities are flagged and never repaired: a fall of 48 % may be a crash and not an error.
`fresh_until` and `NewestBar` measure age in bars that the market could trade since, so that closed
hours make no market stale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from mlops.data.calendar import Calendar, find_missing
from mlops.data.price_oddities import Prices
from mlops.service import Service, Timeframe


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
    prints, splits = prices.find_bad_prints_and_splits()
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
    rows, counts = find_missing(opened, timeframe, calendar)
    holes = tuple(
        Hole(begin + timeframe.step, end, count)
        for begin, end, count in zip(opened[rows - 1], opened[rows], counts.tolist(), strict=True)
    )
    return holes, len(opened) / (len(opened) + int(counts.sum()))


def fresh_until(
    closed: datetime, timeframe: Timeframe, calendar: Calendar, max_age_bars: float
) -> datetime:
    """Market time from which a bar is too old: so many tradable bars have closed since.

    Closed hours do not count. A short last bar of the session does not count either: not all
    sources have it, and where they do, it is the newest bar before it can make one stale.

    Args:
        closed: The close of the bar.
        max_age_bars: A fraction counts as that share of the last of the bars.
    """
    whole = math.ceil(max_age_bars)
    last = calendar.close_after(pd.Timestamp(closed), whole, timeframe, skip_short=True)
    return (last - (whole - max_age_bars) * timeframe.step).to_pydatetime()


@dataclass(frozen=True, slots=True)
class NewestBar:
    """The close of the newest complete bar (None without a bar) and the market time ``now``."""

    closed_at: datetime | None
    now: datetime
    calendar: Calendar

    def is_stale(self, service: Service, *, max_age_bars: float) -> bool:
        """Whether the newest bar is too old by `fresh_until`, or there is none."""
        if self.closed_at is None:
            return True
        limit = fresh_until(self.closed_at, service.timeframe, self.calendar, max_age_bars)
        return self.now > limit
