"""The rules by which raw rows become clean bars: columns, times, prices and duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data import bar_rules
from mlops.data.bar_columns import COLUMNS, require_columns
from mlops.data.bar_spacing import find_overlaps, name_of
from mlops.data.merge_rows import merge_rows
from mlops.data.numbers import REMEDY, parse_numbers
from mlops.data.parts import is_true_of_all
from mlops.data.row_labels import find_mixed_labels
from mlops.data.time_columns import TIME_COLUMN, parse_time_column
from mlops.data.timestamps import bad_rows_error
from mlops.errors import BarsError
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Clean bars, and of dropped rows by reason their count and, where bars exist, their opens."""

    frame: pd.DataFrame
    dropped: Mapping[str, int]
    reordered: bool
    dropped_opens: Mapping[str, pd.DatetimeIndex]


def clean_bars(
    raw: object,
    *,
    timeframe: Timeframe,
    now: pd.Timestamp,
    stamps: Literal["open", "close"] = "open",
    timezone: str | None = None,
    dayfirst: bool | None = None,
    time_column: str | None = None,
    time_format: str | None = None,
) -> Cleaned:
    """Clean raw rows into bars; `mlops.data.bars.validate_bars` explains the arguments."""
    if stamps not in ("open", "close"):
        raise BarsError(f"stamps={stamps!r} is neither 'open' nor 'close'")
    table = require_columns(raw)
    opened, column = parse_time_column(
        table,
        timeframe=timeframe,
        now=now,
        stamps=stamps,
        timezone=timezone,
        dayfirst=dayfirst,
        time_column=time_column,
        time_format=time_format,
    )
    if not any(find_mixed_labels(table)) and _need_no_cleaning(table, opened, timeframe, now):
        columns = {name: table[name].to_numpy() for name in COLUMNS}
        frame = pd.DataFrame(columns, index=opened.rename("open_time"), copy=False)
        return Cleaned(frame=frame, dropped={}, reordered=False, dropped_opens={})
    rows = np.flatnonzero(opened + timeframe.step <= now)
    numbers = _parse_bar_columns(table, rows)
    source = str(table.attrs.get(TIME_COLUMN, column))
    merged = merge_rows(table, np.asarray(opened.asi8), rows, numbers, source)
    kept = merged.kept
    _refuse_overlaps(opened, kept, column, timeframe)
    _refuse_jumps(kept, numbers)
    frame = pd.DataFrame(
        {name: numbers[name][kept] for name in COLUMNS}, index=opened[kept].rename("open_time")
    )
    not_closed = len(opened) - len(rows)
    return Cleaned(
        frame=frame,
        dropped={**merged.dropped, **({"not_closed": not_closed} if not_closed else {})},
        reordered=not bool(np.all(np.diff(opened.asi8) >= 0)),
        dropped_opens=merged.opens,
    )


def _need_no_cleaning(
    table: pd.DataFrame, opened: pd.DatetimeIndex, timeframe: Timeframe, now: pd.Timestamp
) -> bool:
    """Whether the rows are complete bars in order, each at least a step after the one before.

    The rules of bars are told apart by column and row only where this quick look fails.
    """
    columns = [table[name] for name in COLUMNS]
    if any(column.dtype != np.float64 for column in columns):
        return False
    stamps, step = np.asarray(opened.asi8), pd.Timedelta(timeframe.step).value
    return bool(
        opened[-1] + timeframe.step <= now
        and is_true_of_all(
            lambda part: bool((part[1:] - part[:-1] >= step).all()), stamps, overlap=1
        )
        # With the bar before it, because the price of a bar must be near that close.
        and is_true_of_all(
            bar_rules.columns_are_sound, *(column.to_numpy() for column in columns), overlap=1
        )
    )


def _parse_bar_columns(table: pd.DataFrame, rows: IntArray) -> dict[str, FloatArray]:
    """Each column as float64 over all rows; only ``rows``, the complete bars, are checked."""
    numbers = {name: parse_numbers(table[name], rows) for name in COLUMNS}
    for name, what, broken in bar_rules.find_broken_rules(numbers):
        _refuse_where(broken, rows, name, what)
    return numbers


def _refuse_jumps(kept: IntArray, numbers: Mapping[str, FloatArray]) -> None:
    """Refuse a jump from one bar to the next, once the bars are in the order of time."""
    high, low, close = (numbers[name][kept] for name in ("high", "low", "close"))
    far = kept[bar_rules.too_far(high, low, close)]
    if len(far):
        what = (
            f"a price more than {bar_rules.LARGEST_RATIO:g} times above or below the close before"
        )
        raise bad_rows_error(what, "close", far, REMEDY)


def _refuse_where(bad: BoolArray, rows: IntArray, column: str, what: str) -> None:
    offenders = rows[bad[rows]]
    if len(offenders):
        raise bad_rows_error(what, column, offenders, REMEDY)


def _refuse_overlaps(
    opened: pd.DatetimeIndex, kept: IntArray, column: str, timeframe: Timeframe
) -> None:
    stamps = np.asarray(opened.asi8[kept])
    overlapping = find_overlaps(stamps, timeframe)
    if len(overlapping):
        raise bad_rows_error(
            f"the bar overlaps its predecessor at timeframe {timeframe}",
            column,
            kept[overlapping],
            _explain_overlaps(stamps, overlapping),
        )


def _explain_overlaps(stamps: IntArray, overlapping: IntArray) -> str:
    """What to do about bars that overlap, by how far apart they are."""
    gaps = np.diff(stamps)
    if 2 * len(overlapping) > len(gaps):
        finer = name_of(int(np.median(gaps[overlapping - 1])))
        return f"the bars look like {finer} bars; ask for timeframe='{finer}'"
    return (
        "check the timeframe; the bars may be finer, or these rows of another timeframe (no clock "
        "change of any zone explains them)"
    )
