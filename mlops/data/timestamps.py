"""The time column of bars: each format is parsed explicitly, or refused with its rows.

Numbers are Unix time; their magnitude gives the unit, row by row. Text follows one grammar. A
zone or the order of day and month that the text leaves out is an argument, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, IntArray
from mlops.errors import BarsError

EARLIEST = pd.Timestamp("2009-01-01", tz="UTC")
SHOWN_ROWS = 5
_TOMORROW = pd.Timedelta(days=1)
_NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NUMBER = r"\s*[+-]?\d+(?:\.\d+)?(?:[eE][+]?\d+)?\s*"
_GRAMMAR = (
    r"^(?:(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"|(?P<first>\d{1,2})[-/.](?P<second>\d{1,2})[-/.](?P<late_year>\d{4}))"
    r"(?:[T ]\s*(?P<hour>\d{1,2})"
    r"(?::(?P<minute>\d{2})(?::(?P<sec>\d{2})(?:[.,](?P<frac>\d{1,9}))?)?)?"
    r"(?:[ -]?(?P<half>[AaPp][Mm]))?)?"
    r"\s*(?P<zone>Z|UTC|[+-]\d{2}:?\d{2})?$"
)


def bad_rows_error(what: str, column: str, bad: Sequence[int] | IntArray, remedy: str) -> BarsError:
    """The `BarsError` that names the first bad rows (counted from 0) and how many there are."""
    rows = tuple(int(row) for row in bad[:SHOWN_ROWS])
    more = f" and {len(bad) - len(rows):,} more" if len(bad) > len(rows) else ""
    listed = ", ".join(str(row) for row in rows)
    place = f"row{'s' if len(bad) > 1 else ''} {listed}{more} (counted from 0)"
    return BarsError(f"column {column!r}: {what} in {place}; {remedy}", column=column, rows=rows)


def parse_stamps(
    values: pd.Series, *, now: pd.Timestamp, timezone: str | None, dayfirst: bool | None = None
) -> pd.DatetimeIndex:
    """UTC stamps (ns) in the order of the rows.

    In an hour that a clock change repeats, the first of two equal stamps is summer time and the
    second is not.

    Args:
        now: The latest sensible time, less a day.
        timezone: The zone of naive stamps; Unix time is UTC by definition.
        dayfirst: Whether 03/04 is the third of April; needed where a date can be read both ways.

    Raises:
        BarsError: for a stamp that is missing, unreadable, ambiguous, or outside 2009 to tomorrow.
    """
    column = str(values.name)
    values = values.reset_index(drop=True)
    empty = values.isna().to_numpy()
    if empty.any():
        remedy = "remove or complete these rows"
        raise bad_rows_error("no time", column, np.flatnonzero(empty), remedy)
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        stamps = pd.DatetimeIndex(values).tz_convert("UTC")
    elif values.dtype.kind == "M":
        stamps = _localise(pd.DatetimeIndex(values), column, timezone)
    elif values.dtype.kind in "iuf":
        stamps = _from_unix(values, column, now)
    else:
        stamps = _from_text(values.astype(str), column, now, timezone, dayfirst)
    stamps = stamps.as_unit("ns")
    _refuse_out_of_range(stamps, column, now)
    return stamps


def _refuse_out_of_range(stamps: pd.DatetimeIndex, column: str, now: pd.Timestamp) -> None:
    outside = np.flatnonzero((stamps < EARLIEST) | (stamps > now + _TOMORROW))
    if len(outside):
        raise bad_rows_error(
            f"time {stamps[outside[0]]:%Y-%m-%d %H:%M} is outside 2009 to tomorrow",
            column,
            outside,
            "check the unit and the format of the time",
        )


def _from_unix(values: pd.Series, column: str, now: pd.Timestamp) -> pd.DatetimeIndex:
    """Unix time; 2009 to tomorrow fixes the unit, as s, ms, us and ns have disjoint ranges."""
    numbers = values.to_numpy(dtype="float64")
    low, high = EARLIEST.value, (now + _TOMORROW).value
    stamps = np.zeros(len(numbers), np.int64)
    known = np.zeros(len(numbers), bool)
    for factor in _NS_PER_UNIT.values():
        fits = (numbers >= low / factor) & (numbers <= high / factor)
        stamps[fits] = _scale_to_ns(values, fits, factor)
        known |= fits
    if not known.all():
        bad = np.flatnonzero(~known)
        raise bad_rows_error(
            f"{values.iloc[bad[0]]} is no Unix time between 2009 and tomorrow in s, ms, us or ns",
            column,
            bad,
            "check the unit of the time",
        )
    return pd.DatetimeIndex(stamps.view("datetime64[ns]"), tz="UTC")


def _scale_to_ns(values: pd.Series, fits: BoolArray, factor: int) -> IntArray:
    """Scale to ns, exactly for whole numbers: a float beyond 2**53 would lose nanoseconds."""
    chosen = values.to_numpy()[fits]
    if chosen.dtype.kind in "iu":
        exact: IntArray = chosen.astype(np.int64) * factor
        return exact
    whole = np.floor(chosen)
    part = np.rint((chosen - whole) * factor)
    stamps: IntArray = whole.astype(np.int64) * factor + part.astype(np.int64)
    return stamps


def _from_text(
    values: pd.Series, column: str, now: pd.Timestamp, timezone: str | None, dayfirst: bool | None
) -> pd.DatetimeIndex:
    numeric = values.str.fullmatch(_NUMBER).to_numpy(dtype=bool)
    if numeric.all():
        stripped = values.str.strip()
        # Whole numbers stay integers, because 19 digits do not fit a float.
        whole = stripped.str.fullmatch(r"[+-]?\d{1,18}|1\d{18}").all()
        return _from_unix(stripped.astype("int64" if whole else "float64"), column, now)
    if numeric.any():
        raise bad_rows_error(
            "numbers and dates mixed", column, np.flatnonzero(numeric), "write one kind of time"
        )
    # Without the space around it; two places for it would cost the square of its length.
    parts = values.str.strip().str.extract(_GRAMMAR)
    wall = _parse_dates(values, parts, column, dayfirst)
    zoned = parts["zone"].notna().to_numpy()
    if not zoned.any():
        return _localise(wall, column, timezone)
    if not zoned.all():
        raise bad_rows_error(
            "no zone where other rows have one",
            column,
            np.flatnonzero(~zoned),
            "give every stamp its zone, or none and the timezone argument",
        )
    return (wall - _parse_offsets(parts["zone"])).tz_localize("UTC")


def _parse_dates(
    values: pd.Series, parts: pd.DataFrame, column: str, dayfirst: bool | None
) -> pd.DatetimeIndex:
    short = parts["first"].notna().to_numpy()
    if short.any() and dayfirst is None:
        raise bad_rows_error(
            f"{values.iloc[int(np.argmax(short))]!r} may be day-first or month-first",
            column,
            np.flatnonzero(short),
            "say which with dayfirst=True or dayfirst=False",
        )
    day, month = ("first", "second") if dayfirst else ("second", "first")
    fields = pd.DataFrame(
        {
            "year": parts["year"].fillna(parts["late_year"]),
            "month": parts["month"].fillna(parts[month]),
            "day": parts["day"].fillna(parts[day]),
            "hour": _parse_hours(parts),
            "minute": parts["minute"].fillna("0"),
            "second": parts["sec"].fillna("0"),
            "ns": parts["frac"].fillna("0").str.ljust(9, "0"),
        }
    ).astype("float64")
    # to_datetime lets an hour of 25 or a minute of 61 roll over into the next one.
    sane = (fields["hour"] < 24) & (fields["minute"] < 60) & (fields["second"] < 60)
    wall = pd.DatetimeIndex(pd.to_datetime(fields.where(sane), errors="coerce"))
    unread = np.flatnonzero(wall.isna())
    if len(unread):
        raise bad_rows_error(
            f"{values.iloc[unread[0]]!r} is no date",
            column,
            unread,
            "write ISO 8601 such as 2024-01-31 13:00, or Unix time",
        )
    return wall


def _parse_hours(parts: pd.DataFrame) -> pd.Series:
    """Hours of a 24-hour clock; NaN for an hour that a 12-hour clock does not have."""
    hour = parts["hour"].fillna("0").astype("float64")
    half = parts["half"].str.lower()
    twelve = half.notna()
    converted = hour % 12 + 12 * (half == "pm")
    return hour.where(~twelve, converted.where((hour >= 1) & (hour <= 12)))


def _parse_offsets(zones: pd.Series) -> pd.TimedeltaIndex:
    digits = zones.replace({"Z": "+0000", "UTC": "+0000"}).str.replace(":", "", regex=False)
    sign = np.where(digits.str[0] == "-", -1, 1)
    minutes = digits.str[1:3].astype(int) * 60 + digits.str[3:5].astype(int)
    return pd.to_timedelta(sign * minutes.to_numpy(), unit="min")


def _localise(wall: pd.DatetimeIndex, column: str, timezone: str | None) -> pd.DatetimeIndex:
    if timezone is None:
        raise BarsError(
            f"column {column!r}: the stamps name no zone; pass timezone='UTC' or the zone "
            "they were written in, such as 'Europe/Berlin'",
            column=column,
        )
    _refuse_unknown_zone(timezone)
    # Rows that repeat an earlier wall time, in the direction of time.
    newest_first = len(wall) > 1 and wall[0] > wall[-1]
    repeated: BoolArray = wall.duplicated(keep="last" if newest_first else "first")
    stamps = wall.tz_localize(timezone, ambiguous=~repeated, nonexistent="NaT")
    skipped = np.flatnonzero(stamps.isna())
    if len(skipped):
        raise bad_rows_error(
            f"{wall[skipped[0]]} does not exist in {timezone} (clocks went forward)",
            column,
            skipped,
            "check the timezone",
        )
    _refuse_unpaired_ambiguous(wall, repeated, column, timezone)
    return stamps.tz_convert("UTC")


def _refuse_unknown_zone(timezone: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise BarsError(
            f"timezone {timezone!r} is not known; write an IANA name such as 'Europe/Berlin'"
        ) from error


def _refuse_unpaired_ambiguous(
    wall: pd.DatetimeIndex, repeated: BoolArray, column: str, timezone: str
) -> None:
    """Refuse stamps of a repeated hour that occur once, or three times: they are ambiguous."""
    ambiguous = wall.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT").isna()
    if not ambiguous.any():
        return
    counts = wall[ambiguous].value_counts()
    unclear = np.flatnonzero(ambiguous & ~wall.isin(counts.index[counts == 2]))
    if len(unclear):
        raise bad_rows_error(
            f"{wall[unclear[0]]} happened twice in {timezone} (clocks went back)",
            column,
            unclear,
            "write the stamps in UTC",
        )
