"""The column of a table that holds the time of its bars, and the opens of the bars by it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from mlops.data import bar_rules
from mlops.data.timestamps import bad_rows_error, parse_stamps
from mlops.errors import BarsError
from mlops.service import Timeframe

UNIX_COLUMNS = ("unix", "timestamp", "unix_timestamp", "epoch")
DATE_COLUMNS = ("open_time", "close_time", "date", "time", "datetime", "open time", "close time")
CLOSE_COLUMNS = ("close_time", "close time")
OPEN_INDEX = "open_time"
TIME_COLUMN = "time_column"
"""Key of a frame's ``attrs``: the column of the file that its index of opens was read from."""


def parse_time_column(
    table: pd.DataFrame,
    *,
    timeframe: Timeframe,
    now: pd.Timestamp,
    stamps: Literal["open", "close"],
    timezone: str | None,
    dayfirst: bool | None,
    time_column: str | None,
) -> tuple[pd.DatetimeIndex, str]:
    """UTC opens in row order, on whole minutes, and the name of the column they came from."""
    columns = _find_time_columns(table, time_column)
    parsed = [
        parse_stamps(values, now=now, timezone=timezone, dayfirst=dayfirst) for values in columns
    ]
    _refuse_disagreement(columns, parsed)
    column = str(columns[0].name)
    if stamps == "open" and column in CLOSE_COLUMNS:
        raise BarsError(
            f"column {column!r} holds closes but stamps='open'; pass stamps='close', for a shift "
            "of one bar is look-ahead",
            column=column,
        )
    opens = parsed[0] - timeframe.step if stamps == "close" else parsed[0]
    return _round_to_minutes(opens, column, timeframe), column


def _find_time_columns(table: pd.DataFrame, wanted: str | None) -> list[pd.Series]:
    """The time column, and a second one that must agree with it."""
    if wanted is not None:
        if wanted.strip().lower() not in table.columns:
            raise BarsError(
                f"time column {wanted!r} is missing; got {', '.join(table.columns)}", column=wanted
            )
        return [table[wanted.strip().lower()]]
    if isinstance(table.index.dtype, pd.DatetimeTZDtype) and table.index.name == OPEN_INDEX:
        return [pd.Series(table.index, name=OPEN_INDEX)]
    unix = [name for name in UNIX_COLUMNS if name in table.columns][:1]
    dates = [name for name in DATE_COLUMNS if name in table.columns][:1]
    if unix or dates:
        return [table[name] for name in unix + dates]
    if isinstance(table.index, pd.DatetimeIndex):
        return [pd.Series(table.index, name=table.index.name or "index")]
    raise BarsError(
        "no time column; name it open_time, timestamp, date or time, or pass time_column",
        column="open_time",
    )


def _refuse_disagreement(columns: list[pd.Series], parsed: list[pd.DatetimeIndex]) -> None:
    if len(parsed) < 2:
        return
    apart = np.abs((parsed[0] - parsed[1]) / pd.Timedelta(seconds=1))
    rows = np.flatnonzero(apart > 1)
    if len(rows):
        first, second = str(columns[0].name), str(columns[1].name)
        raise bad_rows_error(
            f"{parsed[0][rows[0]]} disagrees with column {second!r}, {parsed[1][rows[0]]},",
            first,
            rows,
            f"say which to trust with time_column={first!r}",
        )


def _round_to_minutes(
    opens: pd.DatetimeIndex, column: str, timeframe: Timeframe
) -> pd.DatetimeIndex:
    """Round opens to whole minutes, on which bars of every market open: 59.999 s to the next."""
    minutes, too_far = bar_rules.round_to_minutes(np.asarray(opens.asi8), timeframe)
    off = np.flatnonzero(too_far)
    if len(off):
        raise bad_rows_error(
            f"{opens[off[0]]} is not on a whole minute",
            column,
            off,
            "bars open on whole minutes; check the time column and the timeframe",
        )
    return pd.DatetimeIndex(minutes.view("datetime64[ns]"), tz="UTC")
