"""The stamps of bars: each form of time is parsed explicitly, or refused with its rows.

Numbers are Unix time; their magnitude gives the unit, row by row. Text follows one grammar
(`mlops.data.time_text`). A zone that a stamp leaves out is an argument, never a guess.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data.bad_rows import bad_rows_error
from mlops.data.plain_dtypes import to_plain
from mlops.data.time_text import read_format, read_iso, read_text, refuse_some_without_zone
from mlops.errors import BarsError

__all__ = ["EARLIEST", "EARLIEST_UNIX", "UNITS", "bad_rows_error", "parse_stamps"]

EARLIEST = pd.Timestamp("1800-01-01", tz="UTC")
"""No market has older bars; nanoseconds begin in 1677."""

EARLIEST_UNIX = pd.Timestamp("2009-01-01", tz="UTC")
"""From then on Unix times in s, ms, us and ns have disjoint ranges, which fixes the unit."""

UNITS = ("s", "ms", "us", "ns")
"""The units of Unix time."""

_UTC_NS = pd.DatetimeTZDtype("ns", "UTC")
_TOMORROW = pd.Timedelta(days=1)
_NS_PER_UNIT = dict(zip(UNITS, (10**9, 10**6, 10**3, 1), strict=True))
_NUMBER = r"\s*[+-]?\d+(?:\.\d+)?(?:[eE][+]?\d+)?\s*"
# Digits of dates without separators, such as 20240131, 202401311300 and 20240131130000. No Unix
# time since 2009 is such a number, in any unit.
_DATE_DIGITS = (10**0, 10**4, 10**6)
_LEAST_DATE, _LAST_DATE = 18000101, 22001231


def parse_stamps(
    values: pd.Series,
    *,
    now: pd.Timestamp,
    timezone: str | None,
    dayfirst: bool | None = None,
    time_format: str | None = None,
) -> pd.DatetimeIndex:
    """UTC stamps (ns) in the order of the rows.

    In an hour that a clock change repeats, the first of two equal stamps is summer time and the
    second is not.

    Args:
        values: Time objects, numbers or text, of any dtype that holds them.
        now: The latest sensible time, less a day.
        timezone: The zone of naive stamps; Unix time is UTC by definition.
        dayfirst: Whether 03/04 is the third of April; needed where a date can be read both ways.
        time_format: The form of text as in strptime, or the unit of Unix time: s, ms, us or ns.

    Raises:
        BarsError: for a stamp that is missing, unreadable, ambiguous, or outside 1800 to tomorrow
            (Unix time whose unit is not named: outside 2009 to tomorrow).
    """
    column = str(values.name)
    if values.dtype == _UTC_NS and time_format is None and _are_within(values, now):
        return pd.DatetimeIndex(values.array, copy=False)
    values = values.reset_index(drop=True)
    empty = values.isna().to_numpy()
    if empty.any():
        remedy = "remove or complete these rows"
        raise bad_rows_error("no time", column, np.flatnonzero(empty), remedy)
    values = _recognise_objects(to_plain(values), column)
    if values.dtype.kind == "M":
        _refuse_time_format(values, column, time_format)
        stamps = pd.DatetimeIndex(values)
    elif time_format in _NS_PER_UNIT:
        stamps = _from_unit(values, column, time_format)
    elif values.dtype.kind in "iuf" and time_format is None:
        stamps = _from_numbers(values, column, now)
    else:
        stamps = _from_text(values, column, now, dayfirst, time_format)
    stamps = _localise(stamps, column, timezone) if stamps.tz is None else stamps.tz_convert("UTC")
    _refuse_out_of_range(stamps, column, now)
    return stamps.as_unit("ns")


def _are_within(values: pd.Series, now: pd.Timestamp) -> bool:
    """Whether UTC stamps (ns) are all there and in range: of a missing one the number is least."""
    numbers = values.array.asi8
    return bool(
        len(numbers)
        and numbers.min() >= EARLIEST.value
        and numbers.max() <= (now + _TOMORROW).value
    )


def _recognise_objects(values: pd.Series, column: str) -> pd.Series:
    """Python's and numpy's times as datetime64, in UTC where their zones differ."""
    if values.dtype != object:
        return values
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind not in ("datetime", "datetime64", "date"):
        return values
    zoned = np.array([getattr(value, "tzinfo", None) is not None for value in values])
    if zoned.any():
        refuse_some_without_zone(zoned, column)
    return pd.to_datetime(values, utc=bool(zoned.any()))


def _refuse_time_format(values: pd.Series, column: str, time_format: str | None) -> None:
    """Refuse a form of text for time objects: whoever names it expects another reading."""
    if time_format is not None:
        raise BarsError(
            f"column {column!r} holds times ({values.dtype}) and no text; leave out time_format",
            column=column,
        )


def _refuse_out_of_range(stamps: pd.DatetimeIndex, column: str, now: pd.Timestamp) -> None:
    latest = now + _TOMORROW
    if not len(stamps) or (stamps.min() >= EARLIEST and stamps.max() <= latest):
        return
    outside = np.flatnonzero((stamps < EARLIEST) | (stamps > latest))
    raise bad_rows_error(
        f"time {stamps[outside[0]]:%Y-%m-%d %H:%M} is outside {EARLIEST.year} to tomorrow",
        column,
        outside,
        "check the unit and the form of the time",
    )


def _from_numbers(values: pd.Series, column: str, now: pd.Timestamp) -> pd.DatetimeIndex:
    """Unix time, or dates written as one number, which name no zone."""
    numbers = values.to_numpy(dtype="float64")
    if _are_date_digits(numbers):
        return read_text(values.astype("int64").astype(str), column, dayfirst=None)
    return _from_unix(values, numbers, column, now)


def _are_date_digits(numbers: FloatArray) -> bool:
    if not len(numbers):
        return False
    low, high = numbers.min(), numbers.max()
    return any(
        _LEAST_DATE * tail <= low and high < (_LAST_DATE + 1) * tail for tail in _DATE_DIGITS
    )


def _from_unix(
    values: pd.Series, numbers: FloatArray, column: str, now: pd.Timestamp
) -> pd.DatetimeIndex:
    """Unix time whose unit follows from its magnitude."""
    low, high = EARLIEST_UNIX.value, (now + _TOMORROW).value
    least, most = numbers.min(initial=np.inf), numbers.max(initial=-np.inf)
    for factor in _NS_PER_UNIT.values():
        if least >= low / factor and most <= high / factor:
            exact = _scale_to_ns(values.to_numpy(), factor).view("datetime64[ns]")
            return pd.DatetimeIndex(exact, tz="UTC", copy=False)
    stamps = np.zeros(len(numbers), np.int64)
    known = np.zeros(len(numbers), bool)
    for factor in _NS_PER_UNIT.values():
        fits = (numbers >= low / factor) & (numbers <= high / factor)
        if fits.any():
            stamps[fits] = _scale_to_ns(values.to_numpy()[fits], factor)
            known |= fits
    if not known.all():
        bad = np.flatnonzero(~known)
        raise bad_rows_error(
            f"{values.iloc[bad[0]]} is no Unix time between 2009 and tomorrow in s, ms, us or ns",
            column,
            bad,
            "check the unit of the time; older times need it named, such as time_format='s'",
        )
    return pd.DatetimeIndex(stamps.view("datetime64[ns]"), tz="UTC")


def _from_unit(values: pd.Series, column: str, unit: str) -> pd.DatetimeIndex:
    """Unix time in the unit that the caller names."""
    factor = _NS_PER_UNIT[unit]
    numbers = pd.to_numeric(values if values.dtype.kind in "iuf" else values.astype(str), "coerce")
    reach = pd.Timestamp.max.value / factor
    outside = np.flatnonzero(~(numbers.abs() < reach).to_numpy())
    if len(outside):
        raise bad_rows_error(
            f"{values.iloc[outside[0]]!s} is no Unix time in {unit}",
            column,
            outside,
            "check time_format",
        )
    stamps = _scale_to_ns(numbers.to_numpy(), factor)
    return pd.DatetimeIndex(stamps.view("datetime64[ns]"), tz="UTC")


def _scale_to_ns(chosen: IntArray | FloatArray, factor: int) -> IntArray:
    """Scale to ns, exactly for whole numbers: a float beyond 2**53 would lose nanoseconds."""
    if chosen.dtype.kind in "iu":
        exact: IntArray = chosen.astype(np.int64) * factor
        return exact
    if factor == 1:
        # A float of so many nanoseconds is off by up to 128, which must not end the minute before.
        rounded: IntArray = np.rint(chosen / 1000).astype(np.int64) * 1000
        return rounded
    integers = chosen.astype(np.int64)
    if (integers == chosen).all():
        return integers * factor
    whole = np.floor(chosen)
    part = np.rint((chosen - whole) * factor)
    stamps: IntArray = whole.astype(np.int64) * factor + part.astype(np.int64)
    return stamps


def _from_text(
    values: pd.Series,
    column: str,
    now: pd.Timestamp,
    dayfirst: bool | None,
    time_format: str | None,
) -> pd.DatetimeIndex:
    if values.dtype.kind == "f" and (values % 1 == 0).all():
        values = values.astype("int64")  # 20240131.0 is the date 20240131
    texts = values.astype(str)
    if time_format is not None:
        return read_format(texts, column, time_format)
    plain = read_iso(texts)
    if plain is not None:
        return plain
    numbers = _to_numbers(texts, column)
    if numbers is not None:
        return _from_numbers(numbers, column, now)
    return read_text(texts, column, dayfirst)


def _to_numbers(texts: pd.Series, column: str) -> pd.Series | None:
    """The numbers that a column of text holds; None where it holds none."""
    numeric = texts.str.fullmatch(_NUMBER).to_numpy(dtype=bool)
    if numeric.all():
        stripped = texts.str.strip()
        # Whole numbers stay integers, because 19 digits do not fit a float.
        whole = stripped.str.fullmatch(r"[+-]?\d{1,18}|1\d{18}").all()
        return stripped.astype("int64" if whole else "float64")
    if numeric.any():
        raise bad_rows_error(
            "numbers and dates mixed", column, np.flatnonzero(numeric), "write one kind of time"
        )
    return None


def _localise(wall: pd.DatetimeIndex, column: str, timezone: str | None) -> pd.DatetimeIndex:
    if timezone is None:
        raise BarsError(
            f"column {column!r}: the stamps name no zone; pass timezone='UTC' or the zone "
            "they were written in, such as 'Europe/Berlin'",
            column=column,
        )
    _refuse_unknown_zone(timezone)
    clear = wall.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    if not clear.hasnans:
        return clear.tz_convert("UTC")
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
    _refuse_unpaired_ambiguous(wall, np.asarray(clear.isna()), column, timezone)
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
    wall: pd.DatetimeIndex, ambiguous: BoolArray, column: str, timezone: str
) -> None:
    """Refuse stamps of a repeated hour that occur once, or three times: they are ambiguous."""
    counts = wall[ambiguous].value_counts()
    unclear = np.flatnonzero(ambiguous & ~wall.isin(counts.index[counts == 2]))
    if len(unclear):
        raise bad_rows_error(
            f"{wall[unclear[0]]} happened twice in {timezone} (clocks went back)",
            column,
            unclear,
            "write the stamps in UTC",
        )
