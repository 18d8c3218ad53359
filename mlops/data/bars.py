"""The bars contract: the form of a frame of bars, and how raw rows are validated into it.

A frame of bars has a UTC `DatetimeIndex` named ``open_time``, strictly ascending, and the
float64 columns of `COLUMNS`. Each bar is complete: it closed at ``open_time + timeframe.step``,
which is when it is known and when a forecast from it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray
from mlops.data.bar_columns import COLUMNS, to_table
from mlops.data.bar_spacing import refuse_coarser_bars
from mlops.data.calendar import Calendar
from mlops.data.calendar_match import refuse_outside
from mlops.data.cleaning import clean_bars
from mlops.data.coarse_rows import refuse_coarse_rows
from mlops.data.quality import Hole, find_holes, flag_oddities
from mlops.errors import BarsError
from mlops.service import Timeframe

__all__ = [
    "COLUMNS",
    "Bars",
    "Hole",
    "Provenance",
    "QualityReport",
    "content_hash",
    "validate_bars",
]

MIN_BARS = 2


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Counts and oddities of one validation; ``bars`` is the clean frame.

    ``rows_in`` counts all rows that were read, those outside the period asked for included.
    ``dropped`` counts rows of that period by reason: ``not_closed``; of an exchange ``invalid``; or
    another row of their stamp was kept and they are ``duplicate`` (the same values), ``re_read``
    (an earlier snapshot of the bar) or ``conflicting`` (neither). ``dropped_opens`` has their opens
    where they are known, ``first_dropped`` the first of each reason. ``rebuilt`` counts bars by
    what was changed of them (``shifted`` from closes to opens, ``revised`` by the venue).
    ``completeness`` is the share of tradable bars that are present, 0 to 1.
    """

    rows_in: int
    rows_out: int
    dropped: Mapping[str, int]
    reordered: bool
    holes: tuple[Hole, ...]
    completeness: float
    flat_bars: int
    suspected_splits: tuple[pd.Timestamp, ...]
    bad_prints: tuple[pd.Timestamp, ...]
    warnings: tuple[str, ...]
    bars: pd.DataFrame = field(repr=False, compare=False)
    first_dropped: Mapping[str, pd.Timestamp] = field(default_factory=dict)
    rebuilt: Mapping[str, int] = field(default_factory=dict)
    dropped_opens: Mapping[str, pd.DatetimeIndex] = field(
        default_factory=dict, repr=False, compare=False
    )


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of bars, which every dataset that trains a model carries.

    ``fetched_at`` is the time (UTC) at which the bars were known; ``label`` is the text shown
    to people.
    """

    source: str
    venue: str
    symbol: str
    timeframe: str
    fetched_at: datetime
    label: str


@dataclass(frozen=True, slots=True)
class Bars:
    """One symbol's bars with their provenance and the report on their quality.

    Args:
        calendar: When the market trades; it decides which gaps are holes.
    """

    frame: pd.DataFrame = field(repr=False, compare=False)
    symbol: str
    venue: str
    timeframe: Timeframe
    calendar: Calendar
    provenance: Provenance
    quality: QualityReport

    @property
    def content_hash(self) -> str:
        """The data watermark; a hash of gigabytes takes seconds, so it is computed when asked."""
        return content_hash(self.frame)

    @property
    def close_times(self) -> pd.DatetimeIndex:
        """Closes of the bars (UTC), at which each bar is known."""
        return pd.DatetimeIndex(self.frame.index) + self.timeframe.step


def validate_bars(
    raw: pd.DataFrame,
    *,
    timeframe: Timeframe,
    calendar: Calendar,
    now: datetime,
    stamps: Literal["open", "close"] = "open",
    timezone: str | None = None,
    dayfirst: bool | None = None,
    time_column: str | None = None,
    time_format: str | None = None,
    min_bars: int = MIN_BARS,
) -> QualityReport:
    """Clean raw rows into bars and report on them, or refuse them.

    Rows are sorted. Of rows with equal or nearly equal stamps the one with the most volume is
    kept, because a later snapshot of a bar never has less (ties: the widest, then the last); rows
    that are no re-reads of one bar are refused (`mlops.data.repeated_stamps` has the rules and
    what may pass). So are bars coarser than the timeframe. Prices are never changed.

    Args:
        now: An aware time; bars that are not closed by then are dropped.
        stamps: Whether the time column holds opens or closes.
        timezone: The zone of stamps that name none.
        dayfirst: Whether 03/04 is the third of April; needed where a date can be read both ways.
        time_column: The column that holds the time. By default a column with a usual name
            (`open_time`, `timestamp`, `date`, ...), else the index. Two columns that hold date and
            time of day are joined when both are named, as in ``Date+Time``.
        time_format: The form of the time as in strptime, such as ``%d.%m.%Y %H:%M``, or the unit of
            Unix time: ``s``, ``ms``, ``us`` or ``ns``, which is needed before 2009.
        calendar: When the market trades; bars outside its sessions are refused if they are
            more than a few (`mlops.data.calendar_match`).
        min_bars: The least number of bars to accept.

    Raises:
        BarsError: when the rows break the contract; it names the column and the rows (counted
            from 0 in ``raw``).
    """
    raw = to_table(raw)
    cleaned = clean_bars(
        raw,
        timeframe=timeframe,
        now=_require_utc(now),
        stamps=stamps,
        timezone=timezone,
        dayfirst=dayfirst,
        time_column=time_column,
        time_format=time_format,
    )
    if len(cleaned.frame) < min_bars:
        raise BarsError(
            f"{len(cleaned.frame)} complete bar(s) of {len(raw):,} row(s), at least {min_bars} "
            "are needed; load a longer period"
        )
    refuse_coarse_rows(cleaned.frame, timeframe)
    refuse_coarser_bars(pd.DatetimeIndex(cleaned.frame.index), timeframe, calendar)
    refuse_outside(
        pd.DatetimeIndex(cleaned.frame.index),
        timeframe,
        calendar,
        are_rows=holds_rows_of_file(cleaned.dropped, reordered=cleaned.reordered),
    )
    flags = flag_oddities(cleaned.frame, timeframe, calendar)
    return QualityReport(
        rows_in=len(raw),
        rows_out=len(cleaned.frame),
        dropped=cleaned.dropped,
        reordered=cleaned.reordered,
        holes=flags.holes,
        completeness=flags.completeness,
        flat_bars=flags.flat_bars,
        suspected_splits=flags.suspected_splits,
        bad_prints=flags.bad_prints,
        warnings=(),
        bars=cleaned.frame,
        first_dropped={reason: opens[0] for reason, opens in cleaned.dropped_opens.items()},
        dropped_opens=cleaned.dropped_opens,
        rebuilt={"shifted": len(cleaned.frame)} if stamps == "close" else {},
    )


def judge_by_calendar(
    report: QualityReport, timeframe: Timeframe, calendar: Calendar
) -> QualityReport:
    """The report of the same bars with the holes of another calendar."""
    opened = pd.DatetimeIndex(report.bars.index)
    holes, completeness = find_holes(opened, timeframe, calendar)
    return replace(report, holes=holes, completeness=completeness)


def holds_rows_of_file(dropped: Mapping[str, int], *, reordered: bool) -> bool:
    """Whether positions of clean bars are rows of the raw table, as far as there are bars."""
    return not reordered and set(dropped) <= {"not_closed"}


def _require_utc(now: datetime) -> pd.Timestamp:
    stamp = pd.Timestamp(now)
    if stamp.tzinfo is None:
        raise BarsError(f"now={now!r} has no zone; pass an aware time such as datetime.now(UTC)")
    return stamp.tz_convert("UTC")


def content_hash(frame: pd.DataFrame) -> str:
    """Data watermark: SHA-256 (hex) over stamps and values.

    Equal bars give equal hashes, whatever the unit of the index or the dtype of the columns.
    """
    opened = pd.DatetimeIndex(frame.index).tz_convert("UTC").as_unit("ns")
    values: FloatArray = frame[list(COLUMNS)].to_numpy(dtype="<f8") + 0.0
    digest = hashlib.sha256(f"bars/1 {len(frame)}\n".encode())
    digest.update(np.ascontiguousarray(opened.asi8, dtype="<i8").data)
    digest.update(np.ascontiguousarray(values).reshape(-1).data)
    return digest.hexdigest()
