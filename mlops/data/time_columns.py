"""The column of a table that holds the time of its bars, and the opens of the bars by it."""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np
import pandas as pd

from mlops.data import bar_rules
from mlops.data.bad_rows import bad_rows_error
from mlops.data.bar_columns import tidy_name
from mlops.data.split_times import join_day_and_clock, refuse_split_time
from mlops.data.timestamps import UNITS, parse_stamps
from mlops.errors import BarsError
from mlops.service import Timeframe

UNIX_COLUMNS = ("unix", "timestamp", "unix_timestamp", "epoch")
DATE_COLUMNS = (
    *("open_time", "open time", "opentime", "close_time", "close time", "closetime"),
    *("date", "time", "datetime"),
)
OPEN_INDEX = "open_time"
TIME_COLUMN = "time_column"
"""Key of a frame's ``attrs``: the column of the file that its index of opens was read from."""
_ZERO = pd.Timedelta(0)
_USUAL_NAMES = "open_time, timestamp, date or time"


class TimeArguments(TypedDict, total=False):
    """How the time of bars is written; `mlops.data.bars.validate_bars` explains each."""

    stamps: Literal["open", "close"]
    timezone: str | None
    dayfirst: bool | None
    time_column: str | None
    time_format: str | None


def parse_time_column(
    table: pd.DataFrame,
    *,
    timeframe: Timeframe,
    now: pd.Timestamp,
    stamps: Literal["open", "close"],
    timezone: str | None,
    dayfirst: bool | None,
    time_column: str | None,
    time_format: str | None = None,
) -> tuple[pd.DatetimeIndex, str]:
    """UTC opens in row order, on whole minutes, and the name of the column they came from."""
    columns = _find_time_columns(table, time_column, time_format)
    parsed = [
        parse_stamps(values, now=now, timezone=timezone, dayfirst=dayfirst, time_format=form)
        for values, form in zip(columns, _share_format(columns, time_format), strict=True)
    ]
    _refuse_disagreement(columns, parsed, timeframe)
    column = str(columns[0].name)
    if stamps == "open":
        _refuse_other_end(column, stamps)
    minutes = _round_to_minutes(parsed[0], column, timeframe, stamps)
    if stamps == "close" and not _are_mostly_last_moments(parsed[0], minutes):
        _refuse_other_end(column, stamps)
    return minutes - timeframe.step if stamps == "close" else minutes, column


def _find_time_columns(
    table: pd.DataFrame, wanted: str | None, time_format: str | None
) -> list[pd.Series]:
    """The time column, and a second one that must agree with it."""
    if wanted is not None:
        return [_find_wanted(table, wanted, time_format)]
    if isinstance(table.index.dtype, pd.DatetimeTZDtype) and table.index.name == OPEN_INDEX:
        return [pd.Series(table.index, name=OPEN_INDEX)]
    unix = [name for name in UNIX_COLUMNS if name in table.columns][:1]
    dates = [name for name in DATE_COLUMNS if name in table.columns][:1]
    if unix or dates:
        if not unix and _holds_opens(table.index):
            # A date beside an index of times is a helper, made of it.
            return [pd.Series(table.index, name=table.index.name or "index")]
        if not unix:
            refuse_split_time(table, dates[0])
        return [_take_once(table, name) for name in unix + dates]
    from_index = _find_in_index(table.index, None)
    if from_index is None:
        raise BarsError(
            f"no time column; got {', '.join(map(str, table.columns))}; name it {_USUAL_NAMES}, "
            "or pass time_column",
            column="open_time",
        )
    return [from_index]


def _holds_opens(index: pd.Index) -> bool:
    """Whether an index holds times that name their zone, and all of them different."""
    return isinstance(index.dtype, pd.DatetimeTZDtype) and index.is_unique


def _find_wanted(table: pd.DataFrame, wanted: str, time_format: str | None) -> pd.Series:
    """The column, the level of the index or the two columns that the caller names."""
    name = tidy_name(wanted)
    if name in table.columns:
        return _take_once(table, name)
    from_index = _find_in_index(table.index, name)
    if from_index is not None:
        return from_index
    first, plus, second = (tidy_name(part) for part in wanted.partition("+"))
    if plus and first in table.columns and second in table.columns:
        day, clock = _take_once(table, first), _take_once(table, second)
        return join_day_and_clock(day, clock, as_written=time_format is not None)
    missing = next((part for part in (first, second) if part not in table.columns), wanted)
    raise BarsError(
        f"time column {missing if plus else wanted!r} is missing; got "
        f"{', '.join(map(str, table.columns))}; pass time_column with one of these, or two such as "
        "'Date+Time'",
        column=wanted,
    )


def _take_once(table: pd.DataFrame, name: str) -> pd.Series:
    count = int((table.columns == name).sum())
    if count > 1:
        raise BarsError(f"column {name!r} occurs {count} times; keep one", column=name)
    return pd.Series(table[name])


def _find_in_index(index: pd.Index, wanted: str | None) -> pd.Series | None:
    """The level of the index that holds times, or that has a name.

    Raises:
        BarsError: when another level has several values, such as symbols.
    """
    levels = [
        pd.Series(index.get_level_values(number), name=name or "index")
        for number, name in enumerate(index.names)
    ]
    for number, level in enumerate(levels):
        if _is_time_level(level) if wanted is None else tidy_name(level.name) == wanted:
            _refuse_several_values(levels[:number] + levels[number + 1 :])
            return level
    return None


def _is_time_level(level: pd.Series) -> bool:
    """Whether a level holds times: numbers only by its name, text by its first digit."""
    if level.dtype.kind == "M" or tidy_name(level.name) in UNIX_COLUMNS + DATE_COLUMNS:
        return True
    return level.dtype.kind not in "iufbm" and str(level.iloc[0])[:1].isdigit()


def _refuse_several_values(levels: list[pd.Series]) -> None:
    for level in levels:
        found = level.unique()
        if len(found) > 1:
            raise BarsError(
                f"the index has {len(found)} values of {level.name!r}: "
                f"{', '.join(map(str, found[:5]))}; pass the bars of one of them"
            )


def _share_format(columns: list[pd.Series], time_format: str | None) -> list[str | None]:
    """The form of each column: of two, a unit is for the Unix time and any other for the date."""
    if time_format is None or len(columns) == 1:
        return [time_format] * len(columns)
    return [time_format, None] if time_format in UNITS else [None, time_format]


def _refuse_disagreement(
    columns: list[pd.Series], parsed: list[pd.DatetimeIndex], timeframe: Timeframe
) -> None:
    if len(parsed) < 2:
        return
    apart = parsed[0] - parsed[1]
    rows = np.flatnonzero(np.abs(apart / pd.Timedelta(seconds=1)) > 1)
    if len(rows):
        first, second = str(columns[0].name), str(columns[1].name)
        raise bad_rows_error(
            f"{parsed[0][rows[0]]} disagrees with column {second!r}, {parsed[1][rows[0]]},",
            first,
            rows,
            _tell_which_to_trust((first, second), apart, timeframe),
        )


def _tell_which_to_trust(
    names: tuple[str, str], apart: pd.TimedeltaIndex, timeframe: Timeframe
) -> str:
    """The arguments that choose one of two columns, and which of them holds closes if one does.

    Args:
        apart: By how much the first column is later than the second.
    """
    later = apart if apart[0] > _ZERO else -apart
    if (np.abs((later - timeframe.step) / pd.Timedelta(seconds=1)) <= 1).all():
        closes, opens = names if apart[0] > _ZERO else names[::-1]
        return (
            f"{closes!r} is one bar later and holds the closes if {opens!r} holds the opens; pass "
            f"time_column={opens!r}, or time_column={closes!r} with stamps='close'"
        )
    return (
        f"pass time_column={names[0]!r} or time_column={names[1]!r}, whichever holds the opens; "
        "with stamps='close' if it holds the closes"
    )


def _refuse_other_end(column: str, stamps: Literal["open", "close"]) -> None:
    """Refuse a column whose name says that it holds the other end of the bars."""
    named = next((end for end in ("open", "close") if end in column), stamps)
    if named != stamps:
        raise BarsError(
            f"column {column!r} holds {named}s but stamps={stamps!r}; pass stamps={named!r}, for "
            "a shift of one bar is look-ahead",
            column=column,
        )


def _round_to_minutes(
    times: pd.DatetimeIndex, column: str, timeframe: Timeframe, stamps: Literal["open", "close"]
) -> pd.DatetimeIndex:
    """Round opens or closes to whole minutes, on which bars of every market open and close."""
    given = np.asarray(times.asi8)
    minutes, too_far = bar_rules.round_to_minutes(given, timeframe)
    if minutes is given:
        return times
    off = np.flatnonzero(too_far)
    if len(off):
        raise bad_rows_error(
            f"{times[off[0]]} is not on a whole minute",
            column,
            off,
            "bars open on whole minutes; check the time column and the timeframe",
        )
    rounded = pd.DatetimeIndex(minutes.view("datetime64[ns]"), tz="UTC")
    last = np.flatnonzero(bar_rules.are_last_moments(given, minutes))
    if stamps == "open" and len(last):
        raise bad_rows_error(
            f"{times[last[0]]} is the last moment of a bar and not its open",
            column,
            last,
            "pass stamps='close'"
            if _are_mostly_last_moments(times, rounded)
            else "the other rows are stamped at whole minutes, so correct these at the source; "
            "pass stamps='close' only if all rows are stamped at their close",
        )
    return rounded


def _are_mostly_last_moments(times: pd.DatetimeIndex, minutes: pd.DatetimeIndex) -> bool:
    return bool(np.mean(bar_rules.are_last_moments(times.asi8, minutes.asi8)) > 0.5)
