"""Bars from any source, validated; what a remote source sent is kept on disk as it comes.

Local sources (samples, files, the simulator) are read each time, so a changed file is never
hidden by an old copy. A remote source is asked only for what is not stored yet, plus the last
stored bar: where the venue has revised it, the new values replace the old and are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from mlops.data.bars import Bars, Provenance, QualityReport, content_hash, validate_bars
from mlops.data.calendar import Calendar, calendar_for
from mlops.data.cleaning import Cleaned, clean_bars
from mlops.data.segments import Head, Interval, Series
from mlops.data.sources.base import BarSource, PagedSource, cut_to_period, label_of
from mlops.errors import BarsError
from mlops.service import Timeframe

LOCK_TIMEOUT_S = 600.0
# Exchanges count in milliseconds: by anything shorter, the bar closed at ``now`` would be lost.
_TICK = pd.Timedelta(1, "ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRequest:
    """What is asked for: bars opened in ``[start, end)`` and closed by ``now``."""

    symbol: str
    timeframe: Timeframe
    now: datetime
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("now", "start", "end"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise BarsError(f"{name}={moment} has no zone; pass an aware time, such as UTC")

    @property
    def bound(self) -> pd.Timestamp:
        """Bars opened before this are asked for and complete."""
        closed = pd.Timestamp(self.now) - self.timeframe.step + _TICK
        return closed if self.end is None else min(pd.Timestamp(self.end), closed)

    def cut(self, frame: pd.DataFrame) -> pd.DataFrame:
        return cut_to_period(frame, self.start, self.bound)


@dataclass(frozen=True, slots=True)
class BarCache:
    """The store of bars under one folder; any number of processes may use it at once."""

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
        calendar: Calendar | None = None,
    ) -> Bars:
        """Bars opened in ``[start, end)`` and closed by ``now``, with provenance.

        Without a start, all that is stored, or the source's default where nothing is.

        Raises:
            SourceError: when the source cannot be read; what it sent until then is kept.
            BarsError: when its bars break the contract; nothing of the offending page is kept.
        """
        request = BarRequest(symbol=symbol, timeframe=timeframe, now=now, start=start, end=end)
        hours = calendar or calendar_for(source.venue, symbol)
        if not isinstance(source, PagedSource):
            report = _local_report(source, request, hours)
            known = _last_close(report, timeframe)
            return _bars(source, request, report, known)
        series = self.series(source.venue, symbol, timeframe)
        self._fill(series, source, request)
        return _stored(series, source, request, hours)

    def series(self, venue: str, symbol: str, timeframe: Timeframe) -> Series:
        """The stored bars of one market, for a reader that must not touch the network."""
        name = quote(symbol.lower().replace("/", "-"), safe="-")
        return Series(Path(self.root) / "bars" / venue / name / timeframe.name)

    def _fill(self, series: Series, source: PagedSource, request: BarRequest) -> None:
        if not _gaps(series.head(), source, request):
            return
        source.check(request.symbol, request.timeframe)
        with series.lock(self.lock_timeout_s):
            for gap in _gaps(series.head(), source, request):
                _fetch_gap(series, source, request, gap)


def _gaps(head: Head, source: PagedSource, request: BarRequest) -> tuple[Interval, ...]:
    start = request.start
    if start is None and head.coverage:
        start = head.coverage[0][0]
    if start is None:
        start = source.default_start(request.timeframe, request.bound.to_pydatetime())
    return head.gaps(pd.Timestamp(start), request.bound)


def _fetch_gap(series: Series, source: PagedSource, request: BarRequest, gap: Interval) -> None:
    """Fetch one gap, storing each page as it comes."""
    step = request.timeframe.step
    begin, end = gap
    # The last stored bar is read again: it may have been revised, or sent part-formed by a
    # venue whose clock runs behind ours.
    touches = any(high == begin for _, high in series.head().coverage)
    since = begin - step if touches else begin
    pages = source.pages(
        request.symbol, request.timeframe, start=since.to_pydatetime(), end=end.to_pydatetime()
    )
    for raw in pages:
        cleaned = _clean_page(raw, source, request)
        if cleaned.frame.empty:
            continue
        head = series.head().covering(begin, max(cleaned.frame.index[-1] + step, begin))
        counted = Counter(head.dropped) + Counter(cleaned.dropped)
        now = pd.Timestamp(request.now)
        series.append(cleaned.frame, replace(head, dropped=dict(counted), fetched_at=now))
    head = series.head()
    if any(low == end for low, _ in head.coverage):
        series.commit(head.covering(begin, end))


def _clean_page(raw: pd.DataFrame, source: BarSource, request: BarRequest) -> Cleaned:
    try:
        return clean_bars(raw, timeframe=request.timeframe, now=pd.Timestamp(request.now))
    except BarsError as error:
        raise BarsError(
            f"{request.symbol} on {source.venue}, page from {raw.index.min()}: {error}",
            column=error.column,
            rows=error.rows,
        ) from error


def _local_report(source: BarSource, request: BarRequest, calendar: Calendar) -> QualityReport:
    """Validate all there is, so that row numbers are the file's, then cut."""
    raw = source.fetch(request.symbol, request.timeframe)
    report = validate_bars(
        raw, timeframe=request.timeframe, calendar=calendar, now=datetime.now(UTC)
    )
    kept = request.cut(report.bars)
    if len(kept) == len(report.bars):
        return report
    cut = _validate(kept, request, calendar)
    return replace(cut, dropped=report.dropped, warnings=report.warnings)


def _validate(frame: pd.DataFrame, request: BarRequest, calendar: Calendar) -> QualityReport:
    if frame.empty:
        begin = request.start or "the beginning"
        raise BarsError(
            f"no {request.timeframe} bars of {request.symbol} from {begin} to {request.bound}; "
            "ask for another period"
        )
    return validate_bars(frame, timeframe=request.timeframe, calendar=calendar, now=request.now)


def _stored(series: Series, source: BarSource, request: BarRequest, calendar: Calendar) -> Bars:
    head, frame = series.read()
    report = _validate(request.cut(frame), request, calendar)
    notes = list(report.warnings)
    if head.revised:
        notes.append(f"{head.revised:,} bar(s) were revised by {source.venue} after they were read")
    first = report.bars.index[0]
    if request.start is not None and first >= request.start + request.timeframe.step:
        notes.append(f"bars were asked for from {request.start} but begin at {first}")
    report = replace(report, dropped=dict(head.dropped), warnings=tuple(notes))
    known = head.fetched_at.to_pydatetime() if head.fetched_at is not None else request.now
    return _bars(source, request, report, known)


def _last_close(report: QualityReport, timeframe: Timeframe) -> datetime:
    """A local history is known when its last bar closed: the same on every machine."""
    last: datetime = (pd.DatetimeIndex(report.bars.index)[-1] + timeframe.step).to_pydatetime()
    return last


def _bars(source: BarSource, request: BarRequest, report: QualityReport, known: datetime) -> Bars:
    return Bars(
        frame=report.bars,
        symbol=request.symbol,
        venue=source.venue,
        timeframe=request.timeframe,
        provenance=Provenance(
            source=type(source).__name__,
            venue=source.venue,
            symbol=request.symbol,
            timeframe=request.timeframe.name,
            fetched_at=known,
            content_hash=content_hash(report.bars),
            label=label_of(source, request.symbol),
        ),
        quality=report,
    )
