"""Trading calendars: which bars a market can trade, and how many of them a year has.

They decide whether missing bars are a hole or a closed market, and annualise figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time, timedelta
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import BoolArray, IntArray, TimeArray, naive_utc, naive_utc_times
from mlops.errors import BarsError
from mlops.service import Timeframe

MINUTES_PER_YEAR = 365 * 24 * 60
_DAY_MINUTES = 1440
_FX_WEEK_EDGE = time(17)
_FX_ZONE = "America/New_York"
_YEAR_SAMPLE = (pd.Timestamp("2014-01-01", tz="UTC"), pd.Timestamp("2024-01-01", tz="UTC"))
_YEARS_IN_SAMPLE = 10
_FIAT = frozenset({"AUD", "CAD", "CHF", "CNH", "EUR", "GBP", "JPY", "NOK", "NZD", "SEK", "USD"})
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

    def bars_per_year(self, timeframe: Timeframe) -> float:
        """Bars in a year of 365 days, for annualising."""
        ...


@dataclass(frozen=True, slots=True)
class AlwaysOpen:
    """A market that never closes, such as a crypto exchange."""

    name: str = "24/7"

    def expected_opens(
        self, start: pd.Timestamp, end: pd.Timestamp, timeframe: Timeframe
    ) -> pd.DatetimeIndex:
        first = start.ceil(timeframe.step)
        return pd.date_range(first, end, freq=timeframe.step, inclusive="left", name="open_time")

    def missing_between(
        self, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
    ) -> IntArray:
        return np.maximum((opens - closes) // np.timedelta64(timeframe.step), 0).astype(np.int64)

    def bars_per_year(self, timeframe: Timeframe) -> float:
        return MINUTES_PER_YEAR / timeframe.minutes


class SessionCalendar:
    """A market open in sessions, which a subclass lists."""

    name: str

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[TimeArray, TimeArray]:
        """Opens and closes, naive UTC ns, of the sessions that touch ``[start, end]``."""
        raise NotImplementedError

    def expected_opens(
        self, start: pd.Timestamp, end: pd.Timestamp, timeframe: Timeframe
    ) -> pd.DatetimeIndex:
        opens, closes = self.sessions(start, end)
        step = np.timedelta64(timeframe.step)
        edges = zip(opens, closes, strict=True)
        stamps = [np.arange(opened, closed, step) for opened, closed in edges]
        joined = np.concatenate(stamps) if stamps else np.empty(0, "datetime64[ns]")
        index = pd.DatetimeIndex(joined, tz="UTC", name="open_time")
        return index[(index >= start) & (index < end)]

    def missing_between(
        self, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
    ) -> IntArray:
        if not len(closes):
            return np.zeros(0, np.int64)
        edges = [pd.Timestamp(closes.min(), tz="UTC"), pd.Timestamp(opens.max(), tz="UTC")]
        begun, ended = self.sessions(edges[0], edges[1])
        if not len(begun):
            return np.zeros(len(closes), np.int64)
        if self._counts_whole_sessions(timeframe):
            sessions: IntArray = np.searchsorted(begun, opens) - np.searchsorted(begun, closes)
            return np.maximum(sessions * _DAY_MINUTES // timeframe.minutes, 0)
        traded = _traded_until(begun, ended, opens) - _traded_until(begun, ended, closes)
        return np.maximum(traded // np.timedelta64(timeframe.step), 0).astype(np.int64)

    def _counts_whole_sessions(self, timeframe: Timeframe) -> bool:
        """Whether a bar is a whole session or more, however short the session is."""
        return timeframe.minutes >= _DAY_MINUTES

    def bars_per_year(self, timeframe: Timeframe) -> float:
        return _count_bars_per_year(self, timeframe)


class FxWeek(SessionCalendar):
    """The currency market: Sunday 17:00 to Friday 17:00 in New York, summer time included."""

    name = "FX"

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[TimeArray, TimeArray]:
        first = start.tz_convert(_FX_ZONE).normalize().tz_localize(None) - timedelta(days=7)
        last = end.tz_convert(_FX_ZONE).normalize().tz_localize(None) + timedelta(days=1)
        opens = pd.date_range(first, last, freq="W-SUN") + timedelta(hours=_FX_WEEK_EDGE.hour)
        closes = opens + timedelta(days=5)
        return (
            naive_utc_times(opens.tz_localize(_FX_ZONE)),
            naive_utc_times(closes.tz_localize(_FX_ZONE)),
        )

    def _counts_whole_sessions(self, timeframe: Timeframe) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return (load_calendar, (self.name,))


class ExchangeCalendar(SessionCalendar):
    """A calendar of the exchange_calendars package, such as XNYS or 24/5."""

    def __init__(self, name: str) -> None:
        self.name = name

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[TimeArray, TimeArray]:
        opens, closes = _read_sessions(self.name, start.year, end.year)
        low, high = naive_utc(start), naive_utc(end)
        touched = (closes >= low) & (opens <= high)
        return opens[touched], closes[touched]

    def __reduce__(self) -> tuple[Any, ...]:
        return (load_calendar, (self.name,))


def _traded_until(begun: TimeArray, ended: TimeArray, at: TimeArray) -> NDArray[np.timedelta64]:
    """Time that the market was open from the first session up to each moment."""
    lengths = ended - begun
    before = np.concatenate([[np.timedelta64(0, "ns")], np.cumsum(lengths)])
    index = np.searchsorted(begun, at, side="right") - 1
    safe = np.maximum(index, 0)
    inside = np.clip(at - begun[safe], np.timedelta64(0, "ns"), lengths[safe])
    traded: NDArray[np.timedelta64] = np.where(
        index >= 0, before[safe] + inside, np.timedelta64(0, "ns")
    )
    return traded


@lru_cache(maxsize=64)
def _read_sessions(name: str, first_year: int, last_year: int) -> tuple[TimeArray, TimeArray]:
    """Opens and closes, naive UTC ns, of all sessions of these years and a month around them."""
    import exchange_calendars

    start, end = f"{first_year - 1}-12-01", f"{last_year + 1}-01-31"
    schedule = exchange_calendars.get_calendar(name, start=start, end=end).schedule
    opens, closes = (
        schedule[edge].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
        for edge in ("open", "close")
    )
    return opens, closes


@lru_cache(maxsize=64)
def _count_bars_per_year(calendar: SessionCalendar, timeframe: Timeframe) -> float:
    """Mean over ten real years, holidays and short days included."""
    start, end = _YEAR_SAMPLE
    if calendar._counts_whole_sessions(timeframe):
        sessions = len(calendar.sessions(start, end)[0])
        return sessions * _DAY_MINUTES / timeframe.minutes / _YEARS_IN_SAMPLE
    return len(calendar.expected_opens(start, end, timeframe)) / _YEARS_IN_SAMPLE


@lru_cache(maxsize=64)
def load_calendar(name: str) -> Calendar:
    """Look up a calendar.

    Args:
        name: ``24/7``, ``FX``, or any code of exchange_calendars, such as ``XNYS``.

    Raises:
        BarsError: when no calendar has that name.
    """
    if name == "24/7":
        return AlwaysOpen()
    if name == FxWeek.name:
        return FxWeek()
    if name not in _exchange_codes():
        raise BarsError(
            f"calendar {name!r} is not known; use 24/7, FX or a code of exchange_calendars "
            "such as XNYS or 24/5"
        )
    return ExchangeCalendar(name)


@lru_cache(maxsize=1)
def _exchange_codes() -> frozenset[str]:
    import exchange_calendars

    return frozenset(exchange_calendars.get_calendar_names())


def calendar_for(venue: str, symbol: str) -> Calendar:
    """The calendar of a symbol: that of its exchange code, FX for currency pairs, else 24/7."""
    base, _, quote = symbol.upper().partition(":")[0].partition("/")
    if venue in _FX_VENUES and {base, quote} <= _FIAT:
        return load_calendar(FxWeek.name)
    # Exchange codes are four letters; asking only then spares the import for crypto venues.
    if len(venue) == 4 and venue.upper() in _exchange_codes():
        return load_calendar(venue.upper())
    return load_calendar("24/7")


def missing_before(opened: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar) -> IntArray:
    """Bars that the market could have traded between each bar and its predecessor, from 0 (N,)."""
    stamps = naive_utc_times(opened)
    missing = np.zeros(len(stamps), np.int64)
    step = np.timedelta64(timeframe.step)
    apart = np.flatnonzero(np.diff(stamps) > step) + 1
    missing[apart] = calendar.missing_between(stamps[apart - 1] + step, stamps[apart], timeframe)
    return missing


def hole_before(frame: pd.DataFrame, timeframe: Timeframe, calendar: Calendar) -> BoolArray:
    """Whether tradable bars are missing just before each bar (N,); False for the first.

    Closed hours, such as a weekend, are no hole.
    """
    return missing_before(pd.DatetimeIndex(frame.index), timeframe, calendar) > 0
