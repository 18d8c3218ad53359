"""The open times of a request's bars: read, rounded to whole minutes, and searched for gaps.

Times in one plain form (Unix time of one unit, or ISO 8601 in UTC) are read by numpy. All others
are parsed by `mlops.data.timestamps`, as training does, which is slower and names what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray, RowArray, TimeArray
from mlops.data.bar_rules import are_last_moments, round_to_minutes
from mlops.data.calendar import AlwaysOpen, Calendar, clock_change
from mlops.data.timestamps import EARLIEST, EARLIEST_UNIX, parse_stamps
from mlops.errors import BarsError, RequestRefused
from mlops.service import Timeframe

_LATEST = pd.Timestamp("2200-01-01", tz="UTC")
_UNITS_NS = (10**9, 10**6, 10**3, 1)
_MINUTE_NS = 60 * 10**9
_FEW_GAPS = 8
# Bars of a market that trades an hour a day are 24 times as far apart as they are long.
_SPAN_FACTOR, _YEAR_NS = 40, 366 * 24 * 60 * _MINUTE_NS
INVALID = "INVALID_PARAMETER_VALUE"
LONGEST_TEXT = 64
"""Characters of a time as text; the expressions that read it take longer than linear time."""

_LONGEST_SHOWN = 40
_ISO_UTC = re.compile(
    # The years that numpy counts in nanoseconds without wrapping, less those before any bar.
    r"(?:(?:20[1-9]|21\d)\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|\+00:00)\n)+",
    re.ASCII,
)
_HOW = "write ISO 8601 with its zone, such as 2024-01-31T13:00:00Z, or Unix time since 2009"


def parse_open_times(cells: Sequence[object], place: str = "") -> IntArray:
    """Parse the times (n,) of a request's rows.

    Args:
        cells: All numbers, or all text.
        place: Begins the message of a refusal, such as ``window 0, ``.

    Returns:
        Epoch nanoseconds, UTC.

    Raises:
        RequestRefused: naming the first row that holds no time.
    """
    kinds = set(map(type, cells))
    if kinds == {str}:
        return _parse_text(cells, place)  # type: ignore[arg-type]
    for row, cell in enumerate(cells):
        if isinstance(cell, bool) or not isinstance(cell, int | float):
            raise _no_time_refusal(place, row, cell)
    try:
        if kinds == {int}:
            return from_epoch(np.array(cells, np.int64), place)
        return from_epoch(np.array(cells, np.float64), place)
    except OverflowError:
        row = max(range(len(cells)), key=lambda at: abs(cells[at]))  # type: ignore[arg-type]
        raise _no_time_refusal(place, row, cells[row]) from None


def from_epoch(numbers: IntArray | FloatArray, place: str = "") -> IntArray:
    """Convert Unix time (n,) to epoch nanoseconds.

    The unit (s, ms, us or ns) is recognized by the magnitude of the numbers.

    Raises:
        RequestRefused: naming the first row outside 2009 to 2200.
    """
    if not numbers.size:
        return np.zeros(0, np.int64)
    low, high = numbers.min().item(), numbers.max().item()
    for factor in _UNITS_NS:
        if EARLIEST_UNIX.value <= low * factor and high * factor <= _LATEST.value:
            break
    else:
        return _parse_as_training(pd.Series(numbers), place)
    whole: IntArray = np.floor(numbers).astype(np.int64)
    if numbers.dtype.kind == "i":
        return whole * factor
    if factor == 1:
        # A float of so many nanoseconds is off by up to 128, which must not end the minute before.
        microseconds: IntArray = np.rint(numbers / 1000).astype(np.int64)
        return microseconds * 1000
    # Whole and fractional part apart: a float times 1e9 would be wrong by nanoseconds.
    part: IntArray = np.rint((numbers - whole) * factor).astype(np.int64)
    return whole * factor + part


def on_minutes(opens: IntArray, timeframe: Timeframe, place: str) -> IntArray:
    """Round times (n,) to whole minutes, on which the bars of every market open.

    Raises:
        RequestRefused: naming the first row that is not near a whole minute, or that ends the bar
            before it.
    """
    minutes, too_far = round_to_minutes(opens, timeframe)
    if too_far.any():
        row = int(np.argmax(too_far))
        raise _refusal(place, row, f"{utc_text(opens[row])} is not on a whole minute")
    last = are_last_moments(opens, minutes)
    if last.any():
        row = int(np.argmax(last))
        what = f"{_exact_text(opens[row])} is the last moment of a bar; send the time of its open"
        raise _refusal(place, row, what)
    return minutes


def find_gaps(opens: IntArray, timeframe: Timeframe, calendar: Calendar, place: str) -> BoolArray:
    """Find the bars before which bars are missing, by the calendar of the market.

    Returns:
        (n,): True where at least one bar is missing before this one; False for the first bar.

    Raises:
        RequestRefused: naming the first row that is less than one bar after the row before it, or
            off the step of the bars; long bars may be off by a clock change.
    """
    step = timeframe.minutes * _MINUTE_NS
    apart = np.diff(opens)
    holes = np.zeros(len(opens), bool)
    if (apart == step).all():
        return holes
    change = clock_change(timeframe).astype("timedelta64[ns]").astype(np.int64)
    off = apart < step - change
    # On Lord Howe Island the clock changes by half an hour.
    off |= (apart < step) & ~np.isin(step - apart, (change, change // 2))
    if isinstance(calendar, AlwaysOpen):
        # Sessions may begin at another phase after a change to summer time; this market has none.
        beside = np.abs((apart + step // 2) % step - step // 2)
        off |= ~np.isin(beside, (0, change, change // 2))
    if off.any():
        raise _step_refusal(opens, int(np.argmax(off)) + 1, timeframe, place)
    _refuse_long_span(opens, step, place)
    rows = np.flatnonzero(apart != step) + 1
    try:
        holes[rows] = _are_gaps(opens, rows, timeframe, calendar)
    except ValueError as error:
        what = f"the calendar {calendar.name} does not reach the time of these bars"
        raise RequestRefused(400, INVALID, f"{place}{what}") from error
    return holes


def _refuse_long_span(opens: IntArray, step: int, place: str) -> None:
    """Refuse two times that are decades apart: a calendar for decades would take seconds."""
    span, bars = int(opens[-1] - opens[0]), len(opens)
    if span > _SPAN_FACTOR * bars * step + _YEAR_NS:
        row = int(np.argmax(np.diff(opens))) + 1
        here, before = utc_text(opens[row]), utc_text(opens[row - 1])
        raise _refusal(place, row, f"{here} is too long after row {row - 1}, {before}")


def _are_gaps(
    opens: IntArray, rows: RowArray, timeframe: Timeframe, calendar: Calendar
) -> BoolArray:
    """Whether the market was open in the gap before each of ``rows``."""
    step = timeframe.minutes * _MINUTE_NS
    if len(rows) <= _FEW_GAPS:
        gaps = [(int(opens[row - 1] + step), int(opens[row])) for row in rows]
        # Every calendar is hashable, which a protocol cannot say.
        counts = [_count_missing(calendar, timeframe, *gap) for gap in gaps]  # type: ignore[arg-type]
        return np.array(counts) > 0
    ends: TimeArray = (opens[rows - 1] + step).view("datetime64[ns]")
    opened: TimeArray = opens[rows].view("datetime64[ns]")
    return calendar.missing_between(ends, opened, timeframe) > 0


def utc_text(open_ns: np.int64 | int) -> str:
    """A time in ISO 8601, to the second."""
    return f"{pd.Timestamp(int(open_ns), tz='UTC'):%Y-%m-%dT%H:%M:%SZ}"


def _exact_text(stamp: np.int64) -> str:
    """A time in ISO 8601 with as many decimals as it has."""
    return f"{pd.Timestamp(int(stamp)).isoformat()}Z"


@lru_cache(maxsize=4096)
def _count_missing(calendar: Calendar, timeframe: Timeframe, end_ns: int, open_ns: int) -> int:
    """Bars missing in one gap; cached, because every request of a week has the same weekend."""
    end: TimeArray = np.array([end_ns], "datetime64[ns]")
    opened: TimeArray = np.array([open_ns], "datetime64[ns]")
    return int(calendar.missing_between(end, opened, timeframe)[0])


def _parse_text(cells: Sequence[str], place: str) -> IntArray:
    lengths = list(map(len, cells))
    if max(lengths) > LONGEST_TEXT:
        row = next(row for row, length in enumerate(lengths) if length > LONGEST_TEXT)
        raise _no_time_refusal(place, row, cells[row])
    joined = "\n".join(cells) + "\n"
    if _ISO_UTC.fullmatch(joined):
        plain = joined.replace("Z\n", "\n").replace("+00:00\n", "\n").replace(" ", "T")
        try:
            stamps = np.array(plain.split("\n")[:-1], dtype="datetime64[ns]")
        except ValueError:
            pass  # such as a thirteenth month, which is named below
        else:
            return from_epoch(stamps.view(np.int64), place)
    return _parse_as_training(pd.Series(list(cells), dtype=object), place)


def _parse_as_training(cells: pd.Series, place: str) -> IntArray:
    """Parse as training does, which reads more forms and says which row holds no time."""
    try:
        stamps = parse_stamps(cells.rename("open_time"), now=_LATEST, timezone=None)
    except BarsError as error:
        row = error.rows[0] if error.rows else 0
        raise _no_time_refusal(place, row, cells.iloc[row]) from None
    except (ValueError, OverflowError):
        raise _no_time_refusal(place, 0, cells.iloc[0]) from None
    return np.asarray(stamps.asi8)


def _no_time_refusal(place: str, row: int, cell: object) -> RequestRefused:
    got = "null" if cell is None else ascii(_cut_cell(cell))
    got = got if len(got) <= _LONGEST_SHOWN else got[:_LONGEST_SHOWN] + "..."
    return _refusal(place, row, f"{got} is no time from {EARLIEST.year} to 2200; {_HOW}")


def _cut_cell(cell: object) -> object:
    """As much of a cell as a message shows; it may be a list of lists, or text of megabytes."""
    if isinstance(cell, str):
        return cell[: LONGEST_TEXT * 2]
    if isinstance(cell, list):
        return [inner if isinstance(inner, int | float) else ... for inner in cell[:LONGEST_TEXT]]
    return {} if isinstance(cell, dict) else cell


def _step_refusal(opens: IntArray, row: int, timeframe: Timeframe, place: str) -> RequestRefused:
    here, before = utc_text(opens[row]), utc_text(opens[row - 1])
    if opens[row] == opens[row - 1]:
        what = f"{here} is the time of row {row - 1} too; send each bar once"
    elif opens[row] < opens[row - 1]:
        what = f"{here} is before row {row - 1}, {before}; send bars oldest first"
    else:
        what = f"{here} is off the step of {timeframe} bars from row {row - 1}, {before}"
    return _refusal(place, row, what)


def _refusal(place: str, row: int, what: str) -> RequestRefused:
    return RequestRefused(400, INVALID, f"{place}row {row}, column 'open_time': {what}")
