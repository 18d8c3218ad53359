"""Sessions of exchanges by the package exchange_calendars: holidays, short days and breaks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import numpy as np
import pandas as pd

from mlops.data.sessions import Periods, SessionCalendar
from mlops.errors import BarsError

EXTENDED_HOURS = "XNYS-EXT"
"""Stocks of the United States with the hours before and after the session."""

_BEFORE_OPEN, _AFTER_CLOSE = timedelta(hours=5, minutes=30), timedelta(hours=4)
# The package lists sessions of 24 hours for these, whose last hour is a halt.
_HALTED = frozenset({"CMES", "us_futures"})
_HALTED_HOURS = np.timedelta64(23, "h")
_LEAST_YEAR, _LARGEST_YEAR = 1800, 2200


@dataclass(frozen=True)
class ExchangeCalendar(SessionCalendar):
    """A calendar of the exchange_calendars package, such as XNYS or 24/5.

    Past the last year for which the package knows an exchange's holidays, each weekday is a
    session.
    """

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        """The trading days, lunch breaks and daily halts included.

        Raises:
            BarsError: when ``start`` lies before the calendar begins.
        """
        return _read_schedule(self.name, start.year, end.year)[0].touching(start, end)

    def stretches(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        return _read_schedule(self.name, start.year, end.year)[1].touching(start, end)


@dataclass(frozen=True)
class ExtendedSessions(SessionCalendar):
    """The sessions of XNYS from 04:00 to 20:00 in New York; after short days to 17:00."""

    name: str = EXTENDED_HOURS

    def sessions(self, start: pd.Timestamp, end: pd.Timestamp) -> Periods:
        regular = _read_schedule("XNYS", start.year, end.year)[0]
        extended = Periods(
            regular.opens - np.timedelta64(_BEFORE_OPEN),
            regular.closes + np.timedelta64(_AFTER_CLOSE),
        )
        return extended.touching(start, end)


@lru_cache(maxsize=1)
def exchange_codes() -> frozenset[str]:
    """All codes of exchange_calendars."""
    import exchange_calendars

    return frozenset(exchange_calendars.get_calendar_names())


@lru_cache(maxsize=64)
def _read_schedule(name: str, first_year: int, last_year: int) -> tuple[Periods, Periods]:
    """Sessions and stretches of these years and a month around them."""
    import exchange_calendars

    code = exchange_calendars.resolve_alias(name)
    schedule = _load_schedule(code, first_year, last_year)
    opens, closes, break_starts, break_ends = (
        schedule[edge].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
        for edge in ("open", "close", "break_start", "break_end")
    )
    ends = np.minimum(closes, opens + _HALTED_HOURS) if code in _HALTED else closes
    has_break = ~np.isnat(break_starts)
    stretches = Periods(
        np.sort(np.concatenate([opens, break_ends[has_break]])),
        np.sort(np.concatenate([ends, break_starts[has_break]])),
    )
    return Periods(opens, closes), stretches.joined()


def _load_schedule(code: str, first_year: int, last_year: int) -> pd.DataFrame:
    """The schedule of these years and a month around them."""
    import exchange_calendars

    try:
        start, end = pd.Timestamp(first_year - 1, 12, 1), pd.Timestamp(last_year + 1, 1, 31)
        schedule: pd.DataFrame = exchange_calendars.get_calendar(
            code, start=start, end=end
        ).schedule
    except ValueError as error:
        if not _LEAST_YEAR <= first_year <= last_year <= _LARGEST_YEAR:
            raise BarsError(
                f"the calendar {code} does not reach the years {first_year} to {last_year}; check "
                "the times of the bars"
            ) from error
        return _load_within_bounds(code, start, end, first_year)
    return schedule


def _load_within_bounds(
    code: str, start: pd.Timestamp, end: pd.Timestamp, first_year: int
) -> pd.DataFrame:
    """The schedule of a calendar that knows some years only, continued past its last one.

    Raises:
        BarsError: when its first year is later than ``first_year``.
    """
    import exchange_calendars

    known = type(exchange_calendars.get_calendar(code))
    least, largest = known.bound_min() or start, known.bound_max() or end
    if first_year < least.year:
        raise BarsError(
            f"the calendar {code} begins on {least:%Y-%m-%d}, and bars of {first_year} were given; "
            "load a later period with start=, or pass another calendar=, such as '24/5'"
        )
    last_known = min(end, largest)
    begin = min(max(start, least), last_known - timedelta(days=60))
    schedule: pd.DataFrame = exchange_calendars.get_calendar(
        code, start=begin, end=last_known
    ).schedule
    last_day = schedule.index[-1].tz_localize("UTC")
    following = pd.bdate_range(last_day + timedelta(days=1), end.tz_localize("UTC"))
    ahead = {name: following + (moment - last_day) for name, moment in schedule.iloc[-1].items()}
    return pd.concat([schedule, pd.DataFrame(ahead)]) if len(following) else schedule
