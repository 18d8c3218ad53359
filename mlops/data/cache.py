"""The bar cache: validated bars of any source, with pages of a remote source stored on disk.

Local sources (samples, files, the simulator) are read each time, so that an old copy never
hides a changed file. From a remote source the cache fetches only intervals that are not stored
yet, plus the last stored bar: where the venue has revised that bar, the new values replace the
old ones and are counted. An invalid candle of an exchange is left out as a hole and counted; a
file that holds one is refused, because its owner can correct it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mlops.data.bar_request import BarRequest
from mlops.data.bars import (
    Bars,
    Provenance,
    QualityReport,
    holds_rows_of_file,
    judge_by_calendar,
    validate_bars,
)
from mlops.data.bars_folder import describe_os_error
from mlops.data.calendar import Calendar, calendar_for, load_calendar
from mlops.data.calendar_match import recognise_calendar
from mlops.data.file_options import FileOptions
from mlops.data.gap_fetch import GapFetch
from mlops.data.segments import Head, Interval, Series
from mlops.data.sources.base import BarSource, PagedSource, label_of
from mlops.errors import BarsError, SourceError
from mlops.service import Timeframe
from mlops.symbols import folder_name

LOCK_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class BarCache:
    """Bars stored under one folder; any number of processes may use it at once."""

    root: Path | str
    lock_timeout_s: float = LOCK_TIMEOUT_S

    def load(
        self,
        source: BarSource,
        symbol: str,
        timeframe: Timeframe,
        *,
        now: datetime,
        start: datetime | None = None,
        end: datetime | None = None,
        calendar: Calendar | str | None = None,
    ) -> Bars:
        """Bars opened in ``[start, end)`` and closed by ``now``, with provenance.

        Args:
            start: The first open. By default the first stored bar, or the source's own default
                start where no bar is stored.
            calendar: A calendar or its name. By default the calendar of the source's venue and
                the symbol; that of a local source's bars is recognised where this one does not fit.

        Raises:
            SourceError: when the source cannot be read, or its bars cannot be stored; pages that
                arrived before are kept.
            BarsError: when its bars break the contract. An exchange's invalid candles are left
                out instead; a page that is not made of bars is refused and not kept.
        """
        request = BarRequest(symbol=symbol, timeframe=timeframe, now=now, start=start, end=end)
        asked = load_calendar(calendar) if isinstance(calendar, str) else calendar
        if not isinstance(source, PagedSource):
            report, recognised = _validate_local_bars(source, request, asked)
            # A local history is known when its last bar closed: the same on every machine.
            last_close = report.bars.index[-1].to_pydatetime() + timeframe.step
            return _build_bars(source, request, report, recognised, last_close)
        series = self.series(source.venue, symbol, timeframe)
        self._fetch_gaps(series, source, request)
        chosen = asked or calendar_for(source.venue, request.symbol)
        return _read_stored_bars(series, source, request, chosen)

    def series(self, venue: str, symbol: str, timeframe: Timeframe) -> Series:
        """The stored bars of one market, for a reader that must not use the network."""
        return Series(Path(self.root) / "bars" / venue / folder_name(symbol) / timeframe.name)

    def _fetch_gaps(self, series: Series, source: PagedSource, request: BarRequest) -> None:
        if not _find_gaps(series.head(), source, request):
            return
        source.check(request.symbol, request.timeframe)
        try:
            with series.lock(self.lock_timeout_s):
                for gap in _find_gaps(series.head(), source, request):
                    GapFetch(series, source, request, gap).run()
        except OSError as error:
            raise SourceError(
                f"bars of {request.symbol} on {source.venue} cannot be stored in {series.folder}: "
                f"{describe_os_error(error)}; what was stored before is kept, and the next call "
                "resumes there"
            ) from error


def _find_gaps(head: Head, source: PagedSource, request: BarRequest) -> tuple[Interval, ...]:
    start = request.start
    if start is None and head.coverage:
        start = head.coverage[0][0]
    if start is None:
        start = source.default_start(request.timeframe, request.bound.to_pydatetime())
    return head.gaps(pd.Timestamp(start), request.bound)


def _validate_local_bars(
    source: BarSource, request: BarRequest, asked: Calendar | None
) -> tuple[QualityReport, Calendar]:
    """Validate the whole source, so that row numbers are the file's, then cut to the request."""
    raw = source.fetch(request.symbol, request.timeframe)
    report = validate_bars(
        raw, timeframe=request.timeframe, calendar=load_calendar("24/7"), now=datetime.now(UTC)
    )
    options = getattr(source, "options", None)
    if isinstance(options, FileOptions) and options.stamps == "close":
        report = replace(report, rebuilt={"shifted": report.rows_out})
    report, calendar = _judge_by_own_calendar(report, source, request, asked)
    requested = request.cut(report.bars)
    if len(requested) == len(report.bars):
        return report, calendar
    cut = _validate(requested, request, calendar)
    read = ("rows_in", "reordered", "rebuilt", "warnings")
    cut = replace(cut, **{name: getattr(report, name) for name in read})
    return _count_dropped(cut, report.dropped_opens, request), calendar


def _count_dropped(
    cut: QualityReport, opens: Mapping[str, pd.DatetimeIndex], request: BarRequest
) -> QualityReport:
    """The report with the rows dropped in the period asked for, so that its start leaves some out.

    Args:
        opens: Of all rows that were dropped, by reason.
    """
    inside = {
        why: pd.DatetimeIndex(request.cut(pd.DataFrame(index=times)).index)
        for why, times in opens.items()
    }
    inside = {why: times for why, times in inside.items() if len(times)}
    return replace(
        cut,
        dropped={why: len(times) for why, times in inside.items()},
        first_dropped={why: times[0] for why, times in inside.items()},
        dropped_opens=inside,
    )


def _judge_by_own_calendar(
    report: QualityReport, source: BarSource, request: BarRequest, asked: Calendar | None
) -> tuple[QualityReport, Calendar]:
    """The report by the calendar that was asked for or that the bars keep, and that calendar."""
    default = calendar_for(source.venue, request.symbol)
    calendar = recognise_calendar(
        pd.DatetimeIndex(report.bars.index),
        request.timeframe,
        asked=asked,
        default=default,
        are_rows=holds_rows_of_file(report.dropped, reordered=report.reordered),
    )
    report = judge_by_calendar(report, request.timeframe, calendar)
    if asked is None and calendar != default:
        note = (
            f"the bars trade by the calendar {calendar.name}, recognised from their times, and not "
            f"by {default.name}; calendar= chooses another"
        )
        report = replace(report, warnings=(*report.warnings, note))
    return report, calendar


def _validate(frame: pd.DataFrame, request: BarRequest, calendar: Calendar) -> QualityReport:
    if frame.empty:
        begin = request.start or "the beginning"
        raise BarsError(
            f"no {request.timeframe} bars of {request.symbol} from {begin} to {request.bound}; "
            "ask for another period"
        )
    return validate_bars(frame, timeframe=request.timeframe, calendar=calendar, now=request.now)


def _read_stored_bars(
    series: Series, source: BarSource, request: BarRequest, calendar: Calendar
) -> Bars:
    head, frame = series.read()
    report = _validate(request.cut(frame), request, calendar)
    report = _count_dropped(report, {"invalid": pd.DatetimeIndex(head.invalid, tz="UTC")}, request)
    report = replace(
        report,
        rows_in=len(frame) + sum(head.dropped.values()),
        dropped=_add_untimed(report.dropped, head, request),
        rebuilt={"revised": head.revised} if head.revised else {},
        warnings=_describe_late_begin(head, request, report.bars.index[0]),
    )
    fetched_at = head.fetched_at.to_pydatetime() if head.fetched_at is not None else request.now
    return _build_bars(source, request, report, calendar, fetched_at)


def _add_untimed(timed: Mapping[str, int], head: Head, request: BarRequest) -> dict[str, int]:
    """Counts of dropped rows with those whose opens are not stored.

    Args:
        timed: Invalid candles of the period, by their stored opens; older ones have none left and
            count where the period reaches back beyond the first of these.
    """
    counts = {**head.dropped, **timed}
    older = head.dropped.get("invalid", 0) - len(head.invalid)
    may_hold = request.start is None or not head.invalid or request.start < head.invalid[0]
    counts["invalid"] = timed.get("invalid", 0) + (older if may_hold else 0)
    return {reason: count for reason, count in counts.items() if count}


def _describe_late_begin(head: Head, request: BarRequest, first: pd.Timestamp) -> tuple[str, ...]:
    """That the history begins later than it was asked for; empty where it does not.

    Args:
        first: The open of the first bar.
    """
    asked = head.coverage[0][0] if request.start is None else request.start
    late = first >= asked + request.timeframe.step
    return (f"bars were asked for from {asked} but begin at {first}",) if late else ()


def _build_bars(
    source: BarSource,
    request: BarRequest,
    report: QualityReport,
    calendar: Calendar,
    fetched_at: datetime,
) -> Bars:
    return Bars(
        frame=report.bars,
        symbol=request.symbol,
        venue=source.venue,
        timeframe=request.timeframe,
        calendar=calendar,
        provenance=Provenance(
            source=type(source).__name__,
            venue=source.venue,
            symbol=request.symbol,
            timeframe=request.timeframe.name,
            fetched_at=fetched_at,
            label=label_of(source, request.symbol),
        ),
        quality=report,
    )
