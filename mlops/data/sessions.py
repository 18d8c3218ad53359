"""Calendars of markets that trade in sessions: which bars fall into them and which are missing.

A *session* is one trading day. A *stretch* is time in which the market trades without a break: a
part of a session, or several sessions that follow one another at once. Bars shorter than a day
are counted by stretches, longer bars by sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import BoolArray, IntArray, TimeArray, naive_utc, naive_utc_times
from mlops.errors import BarsError
from mlops.service import Timeframe

DAY_MINUTES = 1440
_HOUR_MINUTES = 60
MONDAY = np.datetime64("1970-01-05T00:00", "ns")
AUCTION = timedelta(minutes=10)
"""Bars this close to a session belong to it: auctions trade just before and just after it."""

_FX_DAY_EDGE = timedelta(hours=17)
_FX_ZONE = "America/New_York"
_FX_DAYS = np.arange(5).astype("timedelta64[D]")
_FX_EDGE = timedelta(hours=1)
_CLOCK_CHANGE = np.timedelta64(2, "h")
"""Days by a local clock are shorter or longer by this much at most."""

_LONGEST_CLOSED = timedelta(days=14)
"""Most markets never close for longer."""

_LEAST_TRADED = np.timedelta64(1, "h")
"""Least time that a market trades in a bar of a day or more, such as a Sunday's of currencies."""

_SAMPLED_YEARS = ((2014, 10), (2021, 4))
"""First year and number of years that are counted; the second for calendars that begin late."""


@dataclass(frozen=True, slots=True, eq=False)
class Periods:
    """Times when a market is open: opens and closes (N,), naive UTC ns, ascending."""

    opens: TimeArray
    closes: TimeArray

    def __len__(self) -> int:
        return len(self.opens)

    def touching(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        touched = (self.closes >= naive_utc(start)) & (self.opens <= naive_utc(end))
        return Periods(self.opens[touched], self.closes[touched])

    def joined(self) -> Periods:
        """Periods that follow one another at once as one."""
        if not len(self):
            return self
        apart = self.opens[1:] > self.closes[:-1]
        return Periods(
            self.opens[np.append(True, apart)],
            self.closes[np.append(apart, True)],
        )

    @property
    def middles(self) -> TimeArray:
        return self.opens + (self.closes - self.opens) // 2


@dataclass(frozen=True)
class SessionCalendar:
    """A market open in sessions, which a subclass lists."""

    name: str
    leeway = AUCTION
    """How far outside a session a bar may lie and still belong to it."""

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        """The trading days that touch ``[start, end]``."""
        raise NotImplementedError

    def stretches(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        """Times of trading without a break that touch ``[start, end]``."""
        return self.sessions(start, end).joined()

    def expected_opens(
        self, start: pd.Timestamp, end: pd.Timestamp, timeframe: Timeframe
    ) -> pd.DatetimeIndex:
        if timeframe.minutes > DAY_MINUTES:
            stamps = _find_long_bars(self.sessions(start, end), timeframe)
        elif timeframe.minutes == DAY_MINUTES:
            stamps = self.sessions(start, end).opens
        else:
            stamps = _list_bars(self.stretches(start, end), timeframe)
        index = pd.DatetimeIndex(stamps, tz="UTC", name="open_time")
        return index[(index >= start) & (index < end)]

    def missing_between(
        self, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
    ) -> IntArray:
        if not len(closes):
            return np.zeros(0, np.int64)
        edges = pd.Timestamp(closes.min(), tz="UTC"), pd.Timestamp(opens.max(), tz="UTC")
        if timeframe.minutes >= DAY_MINUTES:
            return _count_days(self.sessions(*edges).middles, closes, opens, timeframe)
        stretches = self.stretches(*edges)
        return _count_bars(stretches, closes, opens, timeframe)

    def find_outside(self, opens: TimeArray, timeframe: Timeframe) -> BoolArray:
        if not len(opens):
            return np.zeros(0, bool)
        step, leeway = np.timedelta64(timeframe.step), np.timedelta64(self.leeway)
        first, last = pd.Timestamp(opens.min(), tz="UTC"), pd.Timestamp(opens.max(), tz="UTC")
        sessions = self.sessions(first - self.leeway, last + timeframe.step + self.leeway)
        if timeframe.minutes >= DAY_MINUTES:
            traded = _traded_until(sessions, opens + step) - _traded_until(sessions, opens)
            return np.asarray(traded < _LEAST_TRADED)
        following = np.searchsorted(sessions.closes + leeway, opens, side="right")
        begins = np.append(sessions.opens, np.datetime64("2262-01-01", "ns"))
        outside: BoolArray = begins[following] - leeway >= opens + step
        return outside

    def close_after(
        self, closed: pd.Timestamp, bars: int, timeframe: Timeframe, *, skip_short: bool = False
    ) -> pd.Timestamp:
        if bars < 1:
            return closed
        begin, ahead = naive_utc(closed), bars * timeframe.step + _LONGEST_CLOSED
        while True:
            edges = closed - timeframe.step, closed + ahead
            if timeframe.minutes >= DAY_MINUTES:
                opens = _list_days_after(self.sessions(*edges).middles, begin, timeframe)
            else:
                opens = _list_bars_after(self.stretches(*edges), begin, timeframe, skip_short)
            if len(opens) >= bars:
                return pd.Timestamp(opens[bars - 1], tz="UTC") + timeframe.step
            ahead *= 2

    def bars_per_year(self, timeframe: Timeframe) -> float:
        return _count_bars_per_year(self, timeframe)


@dataclass(frozen=True)
class FxWeek(SessionCalendar):
    """The currency market: Sunday 17:00 to Friday 17:00 in New York, summer time included.

    It knows no holidays: sources differ in what they hold of Christmas and New Year, and bars
    that are missing then are holes.
    """

    name: str = "FX"
    leeway = _FX_EDGE
    """Sources begin and end the week up to an hour apart."""

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        first = start.tz_convert(_FX_ZONE).normalize().tz_localize(None) - timedelta(days=7)
        last = end.tz_convert(_FX_ZONE).normalize().tz_localize(None) + timedelta(days=1)
        sundays = pd.date_range(first, last, freq="W-SUN").to_numpy()
        days = (sundays[:, None] + _FX_DAYS[None, :]).ravel()
        opens = pd.DatetimeIndex(days) + _FX_DAY_EDGE
        return Periods(
            naive_utc_times(opens.tz_localize(_FX_ZONE)),
            naive_utc_times((opens + timedelta(days=1)).tz_localize(_FX_ZONE)),
        )


def _list_bars(stretches: Periods, timeframe: Timeframe) -> TimeArray:
    """Opens of the bars of each stretch, the first at its begin."""
    step = np.timedelta64(timeframe.step)
    edges = zip(stretches.opens, stretches.closes, strict=True)
    stamps = [np.arange(begun, ended, step) for begun, ended in edges]
    return np.concatenate(stamps) if stamps else np.empty(0, "datetime64[ns]")


def _list_bars_after(
    stretches: Periods, closed: np.datetime64, timeframe: Timeframe, skip_short: bool
) -> TimeArray:
    """Opens of the bars shorter than a day that follow one that closed at ``closed``."""
    step = np.timedelta64(timeframe.step)
    own = np.searchsorted(stretches.opens, closed - step, side="right") - 1
    began = own >= 0 and stretches.closes[own] > closed - step
    # The next stretch may begin before a last bar, which is short, has lasted its full time.
    since = min(closed, stretches.closes[own]) if began else closed
    coming = stretches.closes > since
    begun, ended = np.maximum(stretches.opens[coming], since), stretches.closes[coming]
    opens = _list_bars(Periods(begun, ended), timeframe)
    if skip_short and began and len(begun) and begun[0] == since:
        is_short = (opens < ended[0]) & (2 * (ended[0] - opens) <= step)
        opens = opens[~is_short]
    begins_within = ((stretches.opens > closed - step) & (stretches.opens < closed)).any()
    off_phase = began and (closed - stretches.opens[own]) % step != np.timedelta64(0)
    if (off_phase or (begins_within and not began)) and _HOUR_MINUTES % timeframe.minutes == 0:
        opens = opens - (opens - closed) % step
    return opens


def _list_days_after(middles: TimeArray, closed: np.datetime64, timeframe: Timeframe) -> TimeArray:
    """Opens of the bars of a day or more that follow one that closed at ``closed``."""
    step = np.timedelta64(timeframe.step)
    numbers = np.unique((middles[middles >= closed] - closed) // step)
    return closed + numbers * step


def _find_long_bars(sessions: Periods, timeframe: Timeframe) -> TimeArray:
    """Opens of the bars, counted from a Monday, in which the middle of a session lies."""
    step = np.timedelta64(timeframe.step)
    numbers = np.unique((sessions.middles - MONDAY) // step)
    return MONDAY + numbers * step


def _count_bars(
    stretches: Periods, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
) -> IntArray:
    """Bars shorter than a day that could be traded in each gap ``[closes[i], opens[i])``.

    A stretch that lies in the gap as a whole counts all its bars, its last one may be short. Of
    a stretch in which the gap begins, a last bar is counted if more than half of it is traded.
    """
    step = np.timedelta64(timeframe.step)
    begun, ended = stretches.opens, stretches.closes
    whole = np.concatenate([[0], np.cumsum(-((begun - ended) // step))])
    first = np.searchsorted(begun, closes, side="left")
    last = np.searchsorted(ended, opens, side="right")
    # Sentinels: no stretch before the first and none after the last. They are compared with and
    # never subtracted, for an interval of 64 bits holds 292 years.
    end_before = np.append(np.datetime64("1678-01-01", "ns"), ended)[first]
    begin_after = np.append(begun, np.datetime64("2262-01-01", "ns"))[last]
    tail = np.maximum(np.minimum(end_before, opens), closes) - closes
    head: NDArray[np.timedelta64] = np.subtract(
        opens, np.minimum(np.maximum(begin_after, closes), opens)
    )
    tail_bars = (2 * tail + step - np.timedelta64(1, "ns")) // (2 * step)
    across = whole[np.maximum(last, first)] - whole[first] + tail_bars + head // step
    within = (opens - closes) // step
    counted: IntArray = np.where(last < first, within, across).astype(np.int64)
    return np.maximum(counted, 0)


def _count_days(
    middles: TimeArray, closes: TimeArray, opens: TimeArray, timeframe: Timeframe
) -> IntArray:
    """Bars of a day or more that could be traded in each gap ``[closes[i], opens[i])``.

    The middle of a session tells whose bar it is, whether days are stamped by the session's open,
    by its date or by midnight of any zone.
    """
    step = np.timedelta64(timeframe.step)
    first = np.searchsorted(middles, closes, side="left")
    last = np.searchsorted(middles, opens, side="left")
    counted = np.zeros(len(closes), np.int64)
    for gap in np.flatnonzero(last > first):
        numbers = np.unique((middles[first[gap] : last[gap]] - closes[gap]) // step)
        ended = closes[gap] + (numbers + 1) * step <= opens[gap] + _CLOCK_CHANGE
        counted[gap] = ended.sum()
    return counted


def _traded_until(sessions: Periods, at: TimeArray) -> NDArray[np.timedelta64]:
    """Time that the market was open from the first session up to each moment (N,)."""
    whole = np.append(np.timedelta64(0, "ns"), np.cumsum(sessions.closes - sessions.opens))
    begun = np.searchsorted(sessions.opens, at, side="right")
    ended = np.append(np.datetime64("1678-01-01", "ns"), sessions.closes)[begun]
    traded: NDArray[np.timedelta64] = whole[begun] - (np.maximum(ended, at) - at)
    return traded


@lru_cache(maxsize=64)
def _count_bars_per_year(calendar: SessionCalendar, timeframe: Timeframe) -> float:
    """Mean over some real years, holidays and short days included.

    Raises:
        BarsError: when the calendar reaches neither range of years.
    """
    for year, count in _SAMPLED_YEARS:
        start, end = (pd.Timestamp(f"{edge}-01-01", tz="UTC") for edge in (year, year + count))
        try:
            return len(calendar.expected_opens(start, end, timeframe)) / count
        except BarsError:
            if (year, count) == _SAMPLED_YEARS[-1]:
                raise
    raise AssertionError("a range of years returns or raises")
