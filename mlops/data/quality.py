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

from mlops.arrays import naive_utc
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
