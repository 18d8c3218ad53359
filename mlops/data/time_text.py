"""Times written as text: one grammar of dates, clocks and zones, or the form that a caller names.

A zone or the order of day and month that the text leaves out is an argument, never a guess.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, IntArray
from mlops.data.bad_rows import bad_rows_error
from mlops.errors import BarsError

_GRAMMAR = (
    r"^(?:(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"|(?P<first>\d{1,2})[-/.](?P<second>\d{1,2})[-/.](?P<late_year>\d{4}))"
    r"(?:[Tt ]\s*(?P<hour>\d{1,2})"
    r"(?::(?P<minute>\d{2})(?::(?P<sec>\d{2})(?:[.,](?P<frac>\d{1,9}))?)?)?"
    r"(?:[ -]?(?P<half>[AaPp][Mm]))?)?"
    r"\s*(?P<zone>[Zz]|[+-]\d{2}(?::?\d{2})?|(?:UTC|GMT|utc|gmt)(?:[+-]\d{1,2}(?::?\d{2})?)?)?"
    # Java and JavaScript write the name of the zone after its offset.
    r"(?:\[[\w/+-]+\])?$"
)
# The basic form of ISO 8601, 20240301T130000: the separators of the grammar are put in.
_BASIC = r"^\d{8}(?:[Tt\s]\s*\d{2}(?:\d{2}(?:\d{2})?)?|\d{4}|\d{6})?(?!\d|:)"
_INSERTIONS = (
    (r"^(\d{4})(\d{2})(\d{2})[Tt\s]*", r"\1-\2-\3 "),
    (r"^(\S{10} \d{2})(\d{2})(\d{2})?(?!\d)", r"\1:\2:\3"),
    (r":(?!\d)", ""),
)
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_BLANKS = re.compile("[\u00a0\u2007\u2009\u202f]")
_FIRST_YEAR, _LAST_YEAR = 1800, 2200
_ZONES = "a zone is Z, UTC, GMT or an offset such as +01:00"
_LONGEST_SHOWN = 60


def read_text(texts: pd.Series, column: str, dayfirst: bool | None) -> pd.DatetimeIndex:
    """Read dates by the grammar: ISO 8601, 31.1.2024 or 1/31/2024, with a clock of 24 or 12 hours.

    Returns:
        Times in UTC, or without a zone where the text names none.

    Raises:
        BarsError: for text that is no date, or whose day and month may be exchanged.
    """
    quick = _read_one_form(texts, dayfirst)
    if quick is not None:
        return quick
    tidy = _tidy(texts)
    parts = tidy.str.extract(_GRAMMAR)
    short = parts["first"].notna().to_numpy()
    if short.any() and dayfirst is None:
        raise bad_rows_error(
            f"{texts.iloc[int(np.argmax(short))]!r} may be day-first or month-first",
            column,
            np.flatnonzero(short),
            "say which with dayfirst=True or dayfirst=False",
        )
    zoned = parts["zone"].notna().to_numpy(dtype=bool)
    offsets = _parse_offsets(parts)
    wall = _build_times(parts, dayfirst)
    unread = np.flatnonzero(wall.isna() | (zoned & np.asarray(offsets.isna())))
    if len(unread):
        raise _unread_error(texts, column, unread)
    if not zoned.any():
        return wall
    refuse_some_without_zone(zoned, column)
    return (wall - offsets).tz_localize("UTC")


def read_format(texts: pd.Series, column: str, time_format: str) -> pd.DatetimeIndex:
    """Read text in the form that a caller names as for `datetime.strptime`.

    Returns:
        Times in UTC, or without a zone where the form has none.

    Raises:
        BarsError: when the form is none, has no year, or does not match a row.
    """
    if not re.search(r"%[YyGcx]", time_format):
        raise BarsError(
            f"time_format={time_format!r} names no year; write it as in strptime, such as "
            "'%d.%m.%Y %H:%M', or name the unit of Unix time: 's', 'ms', 'us' or 'ns'"
        )
    has_zone = bool(re.search(r"%[zZ]", time_format.replace("%%", "")))
    try:
        read = pd.to_datetime(texts, format=time_format, errors="coerce", utc=has_zone)
    except (ValueError, re.error) as error:
        raise BarsError(f"time_format={time_format!r} is no form of strptime: {error}") from error
    times = pd.DatetimeIndex(read)
    unread = np.flatnonzero(times.isna())
    if len(unread):
        text = str(texts.iloc[unread[0]])
        raise bad_rows_error(
            f"{_cut(text)!r} does not match time_format={time_format!r}",
            column,
            unread,
            f"pass its form{_example_of(text, time_format)}, or correct these rows",
        )
    return times


def read_iso(texts: pd.Series) -> pd.DatetimeIndex | None:
    """Let Arrow read a column that has one plain form of ISO 8601; None where it has not.

    That is a hundred times as fast as the grammar, which reads the same times and more.
    """
    import pyarrow as pa

    written = pa.array(texts, from_pandas=True)
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            # A column that does not fit fails slowly, as each of its rows does.
            written[:1].cast(kind)
            return pd.DatetimeIndex(written.cast(kind).to_pandas())
        except pa.ArrowInvalid:
            continue
    return None


def refuse_some_without_zone(zoned: BoolArray, column: str) -> None:
    """Refuse stamps (n,) of which some name their zone and some do not."""
    if not zoned.all():
        raise bad_rows_error(
            "no zone where other rows have one",
            column,
            np.flatnonzero(~zoned),
            "give every stamp its zone, or none and the timezone argument",
        )


def suggest_formats(text: str) -> list[str]:
    """The forms of one time as in strptime: two where day and month may be exchanged, or none."""
    form = _BLANKS.sub(" ", text.strip()).replace("%", "%%")
    for pattern, directive in _DIRECTIVES:
        form = re.sub(pattern, directive, form, count=1)
    if "%p" in form:
        form = form.replace("%H", "%I")
    if not (re.search("%[Yy]", form) and re.search("%[mbB]", form)):
        return []
    exchanged = re.sub("%d(.?)%m", r"%m\1%d", form)
    return [one for one in dict.fromkeys((form, exchanged)) if _fits(text.strip(), one)]


def _fits(text: str, form: str) -> bool:
    try:
        return bool(pd.notna(pd.to_datetime(text, format=form, errors="coerce", utc="%z" in form)))
    except (ValueError, re.error):
        return False


_MONTH = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_WEEKDAY = "(?i:mon|tue|wed|thu|fri|sat|sun)"
# Each replaces the first match that the ones before it have left; (?<!%) spares directives.
_DIRECTIVES = (
    (rf"\b{_WEEKDAY}[a-z]*day\b", "%A"),
    (rf"\b{_WEEKDAY}\b", "%a"),
    (rf"\b{_MONTH}\b", "%b"),
    (rf"\b{_MONTH}[a-z]+\b", "%B"),
    (r"\d{1,2}:\d{2}:\d{2}\.\d{1,9}", "%H:%M:%S.%f"),
    (r"\d{1,2}:\d{2}:\d{2}", "%H:%M:%S"),
    (r"\d{1,2}:\d{2}(?!\d)", "%H:%M"),
    (r"(?i)(?<=[\d\sMSf])(?:am|pm)\b", "%p"),
    (r"(?<=\dT)\d{6}(?!\d)", "%H%M%S"),
    (r"[+-]\d{2}:?\d{2}$|(?<=[\dMS])Z$", "%z"),
    (r"^\d{4}(?:19|20)\d{2}\b", "%d%m%Y"),
    (r"(?<=%d%m%Y )\d{4}\b", "%H%M"),
    (r"\b\d{4}\b", "%Y"),
    (r"^\d{1,2}([-/.])\d{1,2}\1\d{2}\b", r"%d\1%m\1%y"),
    (r"\b\d{1,2}([-/.])\d{1,2}(?=\1%Y)", r"%d\1%m"),
    (r"(?<=%Y)([-/.])\d{1,2}\1\d{1,2}(?!\d)", r"\1%m\1%d"),
    (r"(?<=%Y)([-/.])\d{1,2}(?![-/.]?\d)", r"\1%m"),
    (r"(?<![%\d])\d{1,2}(?=\D|$)", "%d"),
    (r"(?<=%b[-/ ])\d{2}\b", "%y"),
)


def _read_one_form(texts: pd.Series, dayfirst: bool | None) -> pd.DatetimeIndex | None:
    """Let pandas read a column that has the form of its first row and no zone, as many do.

    That is thirty times as fast as the grammar, which reads the same times and more.
    """
    found = re.fullmatch(_GRAMMAR, texts.iloc[0])
    if found is None or found["zone"] or (found["first"] and dayfirst is None):
        return None
    mark = re.sub(r"\d", "", found[0])[0]
    day, month = ("%d", "%m") if dayfirst else ("%m", "%d")
    date = (day, month, "%Y") if found["first"] else ("%Y", "%m", "%d")
    form = mark.join(date)
    if found["hour"]:
        clock = "%I" if found["half"] else "%H"
        form += f"{found[0][found.start('hour') - 1]}{clock}"
    form += ":%M" * bool(found["minute"]) + ":%S" * bool(found["sec"])
    form += f"{found[0][found.end('sec')]}%f" if found["frac"] else ""
    if found["half"]:
        before = found[0][found.start("half") - 1]
        form += f"{'' if before.isdigit() else before}%p"
    # strptime has minutes of 62 seconds.
    if found["sec"] and texts.str.contains(":6[01]").any():
        return None
    try:
        read = pd.DatetimeIndex(pd.to_datetime(texts, format=form))
    except ValueError:
        return None
    # pandas takes NaT and other words for no time.
    return None if read.hasnans else read


def _tidy(texts: pd.Series) -> pd.Series:
    """Text without the space around it, with plain blanks and dashes and the extended form.

    Two places for space in the grammar would cost the square of its length.
    """
    tidy = texts.str.strip()
    if not tidy.map(str.isascii).all():
        tidy = tidy.str.replace(_DASHES, "-", regex=True).str.replace(_BLANKS, " ", regex=True)
    basic = tidy.str.contains(_BASIC).to_numpy(dtype=bool)
    if basic.any():
        extended = tidy[basic]
        for pattern, replacement in _INSERTIONS:
            extended = extended.str.replace(pattern, replacement, regex=True)
        tidy = tidy.mask(basic, extended.str.strip())
    return tidy


def _build_times(parts: pd.DataFrame, dayfirst: bool | None) -> pd.DatetimeIndex:
    """Times of the parts of the grammar; NaT where they name none."""
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
    # to_datetime lets an hour of 25 or a minute of 61 roll over into the next one, and raises for
    # a year that nanoseconds do not reach.
    sane = (
        fields["year"].between(_FIRST_YEAR, _LAST_YEAR)
        & (fields["hour"] < 24)
        & (fields["minute"] < 60)
        & (fields["second"] < 60)
    )
    return pd.DatetimeIndex(pd.to_datetime(fields.where(sane), errors="coerce"))


def _parse_hours(parts: pd.DataFrame) -> pd.Series:
    """Hours of a 24-hour clock; NaN for an hour that a 12-hour clock does not have."""
    hour = parts["hour"].fillna("0").astype("float64")
    half = parts["half"].str.lower()
    twelve = half.notna()
    converted = hour % 12 + 12 * (half == "pm")
    return hour.where(~twelve, converted.where((hour >= 1) & (hour <= 12)))


def _parse_offsets(parts: pd.DataFrame) -> pd.TimedeltaIndex:
    """Offsets from UTC; NaT where none is written, or one that no zone has."""
    zones = parts["zone"]
    digits = zones.str.extract(r"(?P<sign>[+-])(?P<hours>\d{1,2}):?(?P<minutes>\d{2})?$")
    numbers = digits[["hours", "minutes"]].fillna("0").astype("float64")
    minutes = numbers["hours"] * 60 + numbers["minutes"]
    # After a date alone, -05 may as well be its end as an offset.
    unclear = parts["hour"].isna() & zones.str.fullmatch(r"[+-]\d{2}").fillna(value=False)
    known = zones.notna() & (minutes < 16 * 60) & (numbers["minutes"] < 60) & ~unclear
    signed = minutes.where(digits["sign"] != "-", -minutes)
    return pd.to_timedelta(signed.where(known).to_numpy(), unit="min")


def _unread_error(texts: pd.Series, column: str, unread: IntArray) -> BarsError:
    text = str(texts.iloc[unread[0]])
    if re.match(_GRAMMAR, text.strip()):
        return bad_rows_error(
            f"{text.strip()!r} is no date of {_FIRST_YEAR} to {_LAST_YEAR}",
            column,
            unread,
            f"correct or remove these rows; {_ZONES}",
        )
    return bad_rows_error(
        f"{_cut(text)!r} is no date",
        column,
        unread,
        "write ISO 8601 such as 2024-01-31 13:00, or Unix time, or pass its form"
        f"{_example_of(text)}; {_ZONES}",
    )


def _example_of(text: str, refused: str | None = None) -> str:
    """The argument that names the form of a text; without an example where none is known to fit."""
    known = suggest_formats(text) if len(text) <= _LONGEST_SHOWN else []
    forms = [f"time_format={form!r}" for form in known if form != refused]
    return f", such as {' or '.join(forms)}" if forms else " with time_format=, as in strptime"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
