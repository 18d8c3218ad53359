"""Date and time of day in two columns, which are joined where the caller names both."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from mlops.data.bad_rows import bad_rows_error
from mlops.data.bar_columns import COLUMNS
from mlops.data.plain_dtypes import to_plain
from mlops.errors import BarsError

_SAMPLE_ROWS = 100
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s*[AaPp][Mm])?"
# Digits are a time of day only in a column of such a name.
_CLOCK_DIGITS = r"\d{1,6}"
_CLOCK_NAME = re.compile(r"(?:^|[\s_-]|open|close)(?:time|hour|hr|clock)$")
_DAY = r"[^:]*\d[^:]*"
_DAY_NAMES = ("date", "day")


def join_day_and_clock(days: pd.Series, clocks: pd.Series, *, as_written: bool) -> pd.Series:
    """Text of the dates in one column and the times of day in another, joined by a blank.

    Args:
        as_written: Put no colons into a clock of digits such as 133000, because the caller names
            the form of the text.

    Raises:
        BarsError: when a date is missing or has a time of day already, or a time of day is none.
    """
    for column in (days, clocks):
        empty = np.flatnonzero(column.isna())
        if len(empty):
            remedy = "remove or complete these rows"
            raise bad_rows_error("no value", str(column.name), empty, remedy)
    joined = _day_texts(days) + " " + _clock_texts(clocks, as_written=as_written)
    return joined.rename(f"{days.name}+{clocks.name}")


def refuse_split_time(table: pd.DataFrame, chosen: str) -> None:
    """Refuse the time column that was found by its name where a second one holds the rest.

    Raises:
        BarsError: naming both columns.
    """
    others = [name for name in table.columns if name not in COLUMNS]
    sample = table.iloc[:_SAMPLE_ROWS]
    clocks = [name for name in others if _is_clock(sample, name)]
    days = [name for name in others if name not in clocks and _is_day(sample, name)]
    if clocks and days and chosen in (clocks[0], days[0]):
        day, clock = days[0], clocks[0]
        raise BarsError(
            f"column {day!r} holds dates and column {clock!r} times of day; pass "
            f"time_column='{day}+{clock}' to join them, or time_column={day!r} for dates alone",
            column=day,
        )


def _is_clock(sample: pd.DataFrame, name: str) -> bool:
    values = _plain_sample(sample, name)
    if values is None:
        return False
    named = bool(_CLOCK_NAME.search(name))
    if values.dtype.kind in "iuf":
        return named and bool(((values >= 0) & (values < 24 * 10**4)).all())
    if values.dtype.kind in "Mm":
        return named and values.dtype.kind == "m"
    return _all_match(values, _CLOCK) or (named and _all_match(values, _CLOCK_DIGITS))


def _is_day(sample: pd.DataFrame, name: str) -> bool:
    values = _plain_sample(sample, name)
    if values is None or not any(word in name for word in _DAY_NAMES):
        return False
    if values.dtype.kind == "M":
        return bool((values == values.dt.normalize()).all())
    return values.dtype.kind not in "mb" and _all_match(values, _DAY)


def _plain_sample(sample: pd.DataFrame, name: str) -> pd.Series | None:
    """The values of a column that occurs once and is not empty."""
    values = sample[name]
    if not isinstance(values, pd.Series) or values.isna().all():
        return None
    return to_plain(values.dropna())


def _all_match(values: pd.Series, pattern: str) -> bool:
    return bool(values.astype(str).str.strip().str.fullmatch(pattern).all())


def _day_texts(days: pd.Series) -> pd.Series:
    days = to_plain(days)
    if days.dtype.kind == "M":
        timed = np.flatnonzero(days != days.dt.normalize())
        if len(timed):
            raise bad_rows_error(
                f"{days.iloc[timed[0]]} has a time of day already",
                str(days.name),
                timed,
                f"pass time_column={days.name!r}",
            )
        return pd.Series(days.dt.strftime("%Y-%m-%d"))
    if days.dtype.kind == "f" and (days % 1 == 0).all():
        days = days.astype("int64")
    return days.astype(str).str.strip()


def _clock_texts(clocks: pd.Series, *, as_written: bool) -> pd.Series:
    clocks = to_plain(clocks)
    if clocks.dtype.kind == "m":
        return pd.Series((pd.Timestamp(0) + clocks).dt.strftime("%H:%M:%S.%f"))
    if clocks.dtype.kind == "f" and (clocks % 1 == 0).all():
        clocks = clocks.astype("int64")
    texts = clocks.astype(str).str.strip()
    if not texts.str.fullmatch(r"\d{1,6}").all():
        return texts
    width = _count_digits(texts, is_text=clocks.dtype.kind not in "iu")
    digits = texts.str.zfill(width)
    if as_written:
        return digits
    text = digits.str[:2] + ":" + (digits.str[2:4] if width > 2 else "00")
    return text if width < 6 else text + ":" + digits.str[4:]


def _count_digits(texts: pd.Series, *, is_text: bool) -> int:
    """Whether digits are hours (2), hours and minutes (4) or also seconds (6).

    Numbers have lost their leading zeros, so that the largest one tells.
    """
    if is_text:
        longest = int(texts.str.len().max())
        return longest + longest % 2
    largest = int(texts.astype("int64").max())
    return 2 if largest < 24 else 4 if largest < 2400 else 6
