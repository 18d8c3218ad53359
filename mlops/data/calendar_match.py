"""Whether bars fit a calendar, and which calendar fits bars that came without one.

A calendar fits when no more than a few bars lie outside its sessions (`MOST_OUTSIDE` bars or the
share `OUTSIDE_SHARE`) and no more than `RECURRING_SHARE` of the bars it expects lie in hours that
are missing week after week: those are closed sessions and no holes. Of the calendars that fit,
the one with the fewest bars outside and missing is chosen, if its lead over every other is more
than chance; calendars that differ in no bar of the file count as one. Of bars of a day and more
it may miss `MOST_DAYS_MISSING` only: an exchange that is not tried fits its neighbour's days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, IntArray, TimeArray, naive_utc_times
from mlops.data.bar_rules import rows_after_gaps
from mlops.data.calendar import Calendar, load_calendar
from mlops.data.exchange_sessions import EXTENDED_HOURS, ExchangeCalendar
from mlops.data.sessions import AUCTION, DAY_MINUTES, MONDAY
from mlops.errors import BarsError
from mlops.service import Timeframe

MOST_OUTSIDE = 5
OUTSIDE_SHARE = 0.001
OUTSIDE_WEIGHT = 2
"""A bar outside counts as so many missing ones: bars get lost more easily than they appear."""

RECURRING_SHARE = 0.025
MOST_MISSING = 0.5
"""Share of the expected bars that may be missing from a file whose calendar is recognised."""

MOST_DAYS_MISSING = 0.015
"""The same for bars of a day, which have no hours to tell one exchange from another: a calendar
with more sessions missing is likely that of a neighbour with fewer holidays."""

CANDIDATES: Mapping[str, tuple[str, str, str] | None] = {
    "24/7": None,
    "FX": None,
    "24/5": None,
    "XNYS": ("America/New_York", "09:30", "16:00"),
    EXTENDED_HOURS: ("America/New_York", "04:00", "20:00"),
    "CMES": None,
    "XTSE": ("America/Toronto", "09:30", "16:00"),
    "XLON": ("Europe/London", "08:00", "16:30"),
    "XETR": ("Europe/Berlin", "09:00", "17:30"),
    "XPAR": ("Europe/Paris", "09:00", "17:30"),
    "XSWX": ("Europe/Zurich", "09:00", "17:30"),
    "XTKS": ("Asia/Tokyo", "09:00", "15:30"),
    "XHKG": ("Asia/Hong_Kong", "09:30", "16:00"),
    "XSHG": ("Asia/Shanghai", "09:30", "15:00"),
    "XASX": ("Australia/Sydney", "10:00", "16:00"),
    "XBOM": ("Asia/Kolkata", "09:15", "15:30"),
}
"""Calendars that are tried, in the order in which equal ones are preferred.

With each its widest hours by its own clock: sessions of decades take seconds to read, and are not
read where most bars lie outside these hours.
"""

_OTHER_CALENDAR = (
    "pass another calendar=, such as '24/7', or "
    f"{EXTENDED_HOURS!r} for stocks before and after the session"
)
_NAMED = 3
_SAMPLED_BARS = 2_000
_FOREIGN_SHARE = 0.05
_LEAST_HOLES = 3
_SELDOM = 0.5
_TYPICAL = 0.9
_MOST_CELLS = 1_000_000
_HOUR_MINUTES = 60
_AUCTION_MINUTES = AUCTION.total_seconds() / _HOUR_MINUTES
_WEEKS_TO_TELL = 4


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How bars lie in a calendar.

    Args:
        outside: Whether the market is closed while each bar lasts (N,).
        missing: Bars that are missing in each gap between bars, by the calendar.
        recurring: Share of the expected bars that lie in hours missing week after week.
    """

    calendar: Calendar
    outside: BoolArray
    missing: IntArray
    recurring: float

    @property
    def misfits(self) -> int:
        return int(OUTSIDE_WEIGHT * self.outside.sum() + self.missing.sum())

    @property
    def missing_share(self) -> float:
        count = int(self.missing.sum())
        return count / max(count + len(self.outside), 1)

    @property
    def has_strangers(self) -> bool:
        """Whether more than a few bars lie outside the sessions."""
        return int(self.outside.sum()) > _allowed_outside(len(self.outside))

    @property
    def looks_closed(self) -> bool:
        """Whether hours that the calendar calls open look like closed ones."""
        return self.recurring > RECURRING_SHARE

    @property
    def holds(self) -> bool:
        return not self.has_strangers and not self.looks_closed

    def agrees_with(self, other: Fit) -> bool:
        """Whether both calendars judge every bar and every gap alike."""
        return np.array_equal(self.outside, other.outside) and np.array_equal(
            self.missing, other.missing
        )

    def leads(self, other: Fit) -> bool:
        """Whether this calendar fits better than another by more than bars missing by chance.

        Only bars count that the two calendars judge differently.
        """
        own = int(np.maximum(self.missing - other.missing, 0).sum())
        of_other = int(np.maximum(other.missing - self.missing, 0).sum())
        own += OUTSIDE_WEIGHT * int((self.outside & ~other.outside).sum())
        of_other += OUTSIDE_WEIGHT * int((other.outside & ~self.outside).sum())
        return of_other - own >= 2 + 2 * math.sqrt(own)

    def __str__(self) -> str:
        return (
            f"{self.calendar.name} ({int(self.outside.sum()):,} bars outside, "
            f"{self.missing_share:.1%} missing)"
        )


def recognise_calendar(
    opens: pd.DatetimeIndex,
    timeframe: Timeframe,
    *,
    asked: Calendar | None,
    default: Calendar,
    are_rows: bool = True,
) -> Calendar:
    """The calendar by which bars trade.

    Args:
        opens: Opens of all bars of a file, ascending.
        asked: What the caller chose; it is kept, or refused where another one fits and this one
            does not. A ``default`` that is an exchange's own counts as chosen.
        default: The calendar of venue and symbol; it is kept where it fits.
        are_rows: Whether positions in ``opens`` are rows of the file, as errors name them.

    Raises:
        BarsError: when the calendar asked for is wrong, or no calendar or more than one fits.
    """
    stamps = naive_utc_times(opens)
    stated = asked or (default if isinstance(default, ExchangeCalendar) else None)
    own = measure_fit(stated or default, stamps, timeframe)
    if own.holds:
        return own.calendar
    fits = _measure_candidates(stamps, timeframe, own)
    best = _choose_best(fits, timeframe)
    if stated is not None:
        _refuse_stated(own, best, opens, are_rows=are_rows)
        return stated
    if best is None:
        raise _no_choice_error(own, fits)
    return best.calendar


def refuse_outside(
    opens: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar, *, are_rows: bool = True
) -> None:
    """Refuse bars of which more than a few lie outside the sessions of a calendar.

    `recognise_calendar` explains the arguments.

    Raises:
        BarsError: naming the calendar, the number of bars and the first of them.
    """
    outside = calendar.find_outside(naive_utc_times(opens), timeframe)
    if int(outside.sum()) > _allowed_outside(len(opens)):
        raise _outside_error(opens, outside, calendar, _OTHER_CALENDAR, are_rows=are_rows)


def measure_fit(calendar: Calendar, stamps: TimeArray, timeframe: Timeframe) -> Fit:
    """Compare bars, by their opens (N,) in ascending order, with a calendar.

    Raises:
        BarsError: when the calendar does not reach the time of the bars.
    """
    step = np.timedelta64(timeframe.step)
    rows = rows_after_gaps(stamps, step)
    closes, opens = stamps[rows - 1] + step, stamps[rows]
    missing = calendar.missing_between(closes, opens, timeframe)
    share = missing.sum() / (missing.sum() + len(stamps)) if len(stamps) else 0.0
    recurring = 0.0
    if share > RECURRING_SHARE and timeframe.minutes <= DAY_MINUTES:
        held = missing > 0
        recurring = _measure_recurring(calendar, stamps, closes[held], opens[held], timeframe)
    return Fit(calendar, calendar.find_outside(stamps, timeframe), missing, recurring)


def _allowed_outside(bars: int) -> int:
    return max(MOST_OUTSIDE, int(OUTSIDE_SHARE * bars))


def _measure_recurring(
    calendar: Calendar,
    stamps: TimeArray,
    closes: TimeArray,
    opens: TimeArray,
    timeframe: Timeframe,
) -> float:
    """Share of the expected bars in hours of the week that are seldom there.

    An hour is seldom there if it is missing in at least three weeks and has at most half the
    bars of a usual hour. Of less than four weeks, hours of the day are compared.
    """
    step = np.timedelta64(timeframe.step)
    cells, weight = _list_missing(closes, opens, step)
    cells = cells[calendar.missing_between(cells, cells + step, timeframe) > 0]
    weeks = (stamps[-1] - stamps[0]) / np.timedelta64(7, "D")
    period = 7 * DAY_MINUTES if weeks >= _WEEKS_TO_TELL else DAY_MINUTES
    minutes = max(timeframe.minutes, _HOUR_MINUTES)
    slots = -(-period // minutes)
    numbers, rounds = _place(cells, period, minutes)
    there = np.bincount(_place(stamps, period, minutes)[0], minlength=slots)
    lost = weight * np.bincount(numbers, minlength=slots)
    repeats = np.bincount(np.unique(rounds * slots + numbers) % slots, minlength=slots)
    expected = there + lost
    presence = np.divide(there, expected, out=np.ones(slots), where=expected > 0)
    usual = np.quantile(presence[expected > 0], _TYPICAL)
    seldom = (presence <= _SELDOM * usual) & (repeats >= _LEAST_HOLES)
    return float(lost[seldom].sum() / max(expected.sum(), 1))


def _list_missing(
    closes: TimeArray, opens: TimeArray, step: np.timedelta64
) -> tuple[TimeArray, int]:
    """Opens of the bars that fill the gaps, thinned evenly, and how many each stands for."""
    counts: IntArray = ((opens - closes) // step).astype(np.int64)
    weight = int(counts.sum() // _MOST_CELLS) + 1
    ends = np.cumsum(counts)
    numbers = np.arange(0, ends[-1] if len(ends) else 0, weight)
    gap = np.searchsorted(ends, numbers, side="right")
    within = numbers - (ends - counts)[gap]
    return closes[gap] + within * step, weight


def _place(stamps: TimeArray, period: int, minutes: int) -> tuple[IntArray, IntArray]:
    """The slot of each time within its week or day, and the number of that week or day."""
    elapsed = (stamps - MONDAY) // np.timedelta64(1, "m")
    return elapsed % period // minutes, elapsed // period


def _measure_candidates(stamps: TimeArray, timeframe: Timeframe, own: Fit) -> list[Fit]:
    fits = []
    sampled = stamps[:: len(stamps) // _SAMPLED_BARS + 1]
    for name, hours in CANDIDATES.items():
        if name == own.calendar.name or (hours and not _keep_hours(sampled, timeframe, *hours)):
            continue
        try:
            fits.append(measure_fit(load_calendar(name), stamps, timeframe))
        except BarsError:
            continue  # its years do not reach the bars
    return sorted(fits, key=lambda fit: fit.misfits)


def _keep_hours(
    stamps: TimeArray, timeframe: Timeframe, zone: str, opened: str, closed: str
) -> bool:
    """Whether nearly all bars overlap these hours of a day; bars of half a day and more do."""
    if 2 * timeframe.minutes >= DAY_MINUTES:
        return True
    local = pd.DatetimeIndex(stamps, tz="UTC").tz_convert(zone)
    minutes = np.asarray(local.hour * _HOUR_MINUTES + local.minute)
    begin, end = (int(text[:2]) * _HOUR_MINUTES + int(text[3:]) for text in (opened, closed))
    inside = (minutes + timeframe.minutes > begin) & (minutes < end + _AUCTION_MINUTES)
    return float(inside.mean()) >= 1.0 - _FOREIGN_SHARE


def _choose_best(fits: Sequence[Fit], timeframe: Timeframe) -> Fit | None:
    """The calendar that fits, if no other that differs from it fits nearly as well."""
    holding = [fit for fit in fits if fit.holds and fit.missing_share <= MOST_MISSING]
    if not holding:
        return None
    # Sorting kept the order of CANDIDATES among equals.
    best = holding[0]
    if timeframe.minutes >= DAY_MINUTES and best.missing_share > MOST_DAYS_MISSING:
        return None
    rivals = [fit for fit in holding[1:] if not fit.agrees_with(best)]
    return best if all(best.leads(fit) for fit in rivals) else None


def _refuse_stated(own: Fit, best: Fit | None, opens: pd.DatetimeIndex, *, are_rows: bool) -> None:
    """Refuse a calendar that was asked for, where bars lie outside or another one fits."""
    if own.has_strangers:
        remedy = f"pass calendar={best.calendar.name!r}" if best else _OTHER_CALENDAR
        raise _outside_error(opens, own.outside, own.calendar, remedy, are_rows=are_rows)
    if best is not None:
        raise BarsError(f"{_describe_closed(own)}; pass calendar={best.calendar.name!r}")


def _describe_closed(own: Fit) -> str:
    holes = int((own.missing > 0).sum())
    return f"the calendar {own.calendar.name} leaves {holes:,} holes that look like closed sessions"


def _outside_error(
    opens: pd.DatetimeIndex,
    outside: BoolArray,
    calendar: Calendar,
    remedy: str,
    *,
    are_rows: bool,
) -> BarsError:
    rows = np.flatnonzero(outside)
    moment = f"{opens[rows[0]]:%Y-%m-%d %H:%M}"
    first = f"at row {rows[0]} ({moment})" if are_rows else f"at {moment}"
    return BarsError(
        f"{len(rows):,} bars lie outside the sessions of {calendar.name}, the first {first}; "
        f"{remedy}",
        column="open_time",
        rows=tuple(rows[:MOST_OUTSIDE].tolist()) if are_rows else (),
    )


def _no_choice_error(own: Fit, fits: Sequence[Fit]) -> BarsError:
    what = (
        f"{int(own.outside.sum()):,} bars lie outside the sessions of {own.calendar.name}"
        if own.has_strangers
        else _describe_closed(own)
    )
    # The calendar of venue and symbol may be right though some hours are thin; it is named first.
    is_own_likely = not own.has_strangers and not any(fit.holds for fit in fits)
    offered = own.calendar.name if is_own_likely else "XNYS"
    named = ", ".join(map(str, [own, *fits[: _NAMED - 1]]))
    return BarsError(
        f"{what}, and the times of the bars do not tell one calendar; nearest are {named}; pass "
        f"calendar=, such as calendar={offered!r}"
    )
