"""Trading calendars: which bars a market can trade, and how many of them a year has.

They decide whether missing bars are a hole or a closed market, and annualise figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, IntArray, TimeArray, naive_utc_times
from mlops.data.bar_rules import rows_after_gaps
from mlops.data.exchange_sessions import (
    EXTENDED_HOURS,
    ExchangeCalendar,
    ExtendedSessions,
    exchange_codes,
)
from mlops.data.sessions import FxWeek
from mlops.errors import BarsError
from mlops.service import Timeframe

MINUTES_PER_YEAR = 365 * 24 * 60
_CLOCK_CHANGE_MINUTES = 60
_FIAT = frozenset({"AUD", "BRL", "CAD", "CHF", "CNH", "CNY", "CZK", "DKK", "EUR", "GBP"}) | {
    *("HKD", "HUF", "ILS", "INR", "JPY", "KRW", "MXN", "NOK", "NZD"),
    *("PLN", "SEK", "SGD", "THB", "TRY", "TWD", "USD", "ZAR"),
}
_METALS = frozenset({"XAU", "XAG", "XPT", "XPD"})
# Venues whose currency pairs keep the FX week; a crypto exchange trades EUR/USD round the clock.
_FX_VENUES = frozenset({"sample", "file"})


class Calendar(Protocol):
    """The opening hours of one market."""

    @property
    def name(self) -> str: ...

    def expected_opens(
        self, start: pd.Timestamp, end: pd.Timestamp, timeframe: Timeframe
    ) -> pd.DatetimeIndex:
        """Opens of the bars the market can trade in ``[start, end)``."""
        ...

    def missing_between(
        self, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
    ) -> IntArray:
        """Whole bars the market could have traded in each gap ``[closes[i], opens[i])``.

        Independent of the phase of the bars, so hh:30 bars need no calendar of their own.
        """
        ...

    def find_outside(self, opens: TimeArray, timeframe: Timeframe) -> BoolArray:
        """Whether the market is closed while each bar lasts, a mask (N,); ``opens`` ascend."""
        ...

    def close_after(
        self, closed: pd.Timestamp, bars: int, timeframe: Timeframe, *, skip_short: bool = False
    ) -> pd.Timestamp:
        """The close of the bar that is so many tradable bars after one that closed at ``closed``.

        Bars have the phase of ``closed`` as far as the sessions allow it: bars of up to an hour
        and bars of a day or more have it everywhere, others until the session ends. A bar closes
        one ``timeframe`` after its open, though the session may end before.

        Args:
            bars: From 0; 0 gives ``closed``.
            skip_short: Leave out the last bar of the session that is under way, where at most
                half of it is traded. Not all sources have such bars.

        Raises:
            BarsError: when ``closed`` lies before the calendar begins.
        """
        ...

    def bars_per_year(self, timeframe: Timeframe) -> float:
        """Bars in a year of 365 days, for annualising."""
        ...


def clock_change(timeframe: Timeframe) -> np.timedelta64:
    """How much shorter or longer than others a bar may be that opens by a local clock.

    Bars of two hours and less open at each hour of any clock.
    """
    is_long = timeframe.minutes > 2 * _CLOCK_CHANGE_MINUTES
    return np.timedelta64(_CLOCK_CHANGE_MINUTES if is_long else 0, "m")


@dataclass(frozen=True, slots=True)
class AlwaysOpen:
    """A market that never closes, such as a crypto exchange."""

    name: str = "24/7"

    def expected_opens(
        self, start: pd.Timestamp, end: pd.Timestamp, timeframe: Timeframe
    ) -> pd.DatetimeIndex:
        opened = pd.Timestamp(timeframe.open_of(start)).tz_convert(start.tz).as_unit(start.unit)
        first = opened if opened == start else opened + timeframe.step
        return pd.date_range(first, end, freq=timeframe.step, inclusive="left", name="open_time")

    def missing_between(
        self, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
    ) -> IntArray:
        gaps = opens - closes + clock_change(timeframe)
        return np.maximum(gaps // np.timedelta64(timeframe.step), 0).astype(np.int64)

    def find_outside(self, opens: TimeArray, timeframe: Timeframe) -> BoolArray:
        return np.zeros(len(opens), bool)

    def close_after(
        self, closed: pd.Timestamp, bars: int, timeframe: Timeframe, *, skip_short: bool = False
    ) -> pd.Timestamp:
        return closed + bars * timeframe.step

    def bars_per_year(self, timeframe: Timeframe) -> float:
        return MINUTES_PER_YEAR / timeframe.minutes


@lru_cache(maxsize=64)
def load_calendar(name: str) -> Calendar:
    """Look up a calendar.

    Args:
        name: ``24/7``, ``FX``, any code of exchange_calendars, such as ``XNYS``, or ``XNYS-EXT``,
            the hours of stocks of the United States before and after the session included.

    Raises:
        BarsError: when no calendar has that name.
    """
    if name == "24/7":
        return AlwaysOpen()
    if name == FxWeek().name:
        return FxWeek()
    if name == EXTENDED_HOURS:
        return ExtendedSessions()
    if name not in exchange_codes():
        raise BarsError(
            f"calendar {name!r} is not known; use 24/7, FX or a code of exchange_calendars "
            f"such as XNYS or 24/5, or {EXTENDED_HOURS} for stocks before and after the session"
        )
    return ExchangeCalendar(name)


def calendar_for(venue: str, symbol: str) -> Calendar:
    """The calendar of a symbol: that of its exchange code, FX for currency pairs, else 24/7.

    Of a file it is a first guess, which `mlops.data.calendar_match` compares with the bars.
    """
    if venue in _FX_VENUES and _is_currency_pair(symbol):
        return load_calendar(FxWeek().name)
    # Exchange codes are four letters; asking only then spares the import for crypto venues.
    if len(venue) == 4 and venue.upper() in exchange_codes():
        return load_calendar(venue.upper())
    return load_calendar("24/7")


def _is_currency_pair(symbol: str) -> bool:
    """Whether a symbol, such as EUR/USD, XAU/USD or EURUSD, is a pair of the currency market."""
    pair = symbol.upper().partition(":")[0].replace("/", "")
    return len(pair) == 6 and pair[:3] in _FIAT | _METALS and pair[3:] in _FIAT


def missing_before(opened: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar) -> IntArray:
    """Bars that the market could have traded between each bar and its predecessor, from 0 (N,)."""
    missing = np.zeros(len(opened), np.int64)
    rows, counts = find_missing(opened, timeframe, calendar)
    missing[rows] = counts
    return missing


def find_missing(
    opened: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar
) -> tuple[IntArray, IntArray]:
    """The bars before which tradable bars are missing, and how many."""
    stamps = naive_utc_times(opened)
    step = np.timedelta64(timeframe.step)
    rows = rows_after_gaps(stamps, step)
    counts = calendar.missing_between(stamps[rows - 1] + step, stamps[rows], timeframe)
    return rows[counts > 0], counts[counts > 0]


def hole_before(frame: pd.DataFrame, timeframe: Timeframe, calendar: Calendar) -> BoolArray:
    """Whether tradable bars are missing just before each bar (N,); False for the first.

    Closed hours, such as a weekend, are no hole.
    """
    return missing_before(pd.DatetimeIndex(frame.index), timeframe, calendar) > 0
