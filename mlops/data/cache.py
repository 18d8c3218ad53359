"""Bars from any source, validated; what a remote source sent is kept on disk as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mlops.data.bars import Bars, Provenance, QualityReport, content_hash, validate_bars
from mlops.data.calendar import Calendar, calendar_for
from mlops.data.sources.base import BarSource, label_of, within
from mlops.errors import BarsError
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True)
class BarCache:
    """The store of bars under one folder."""

    root: Path | str

    def load(
        self,
        source: BarSource,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        now: datetime,
        calendar: Calendar | None = None,
    ) -> Bars:
        """Bars opened in ``[start, end)`` and closed by ``now``, with provenance."""
        hours = calendar or calendar_for(source.venue, symbol)
        raw = source.fetch(symbol, timeframe)
        report = validate_bars(raw, timeframe=timeframe, calendar=hours, now=datetime.now(UTC))
        return _bars(source, symbol, timeframe, _restrict(report, timeframe, hours, start, end, now))


def _restrict(
    report: QualityReport,
    timeframe: Timeframe,
    calendar: Calendar,
    start: datetime | None,
    end: datetime | None,
    now: datetime,
) -> QualityReport:
    kept = within(report.bars, start, end)
    kept = kept[pd.DatetimeIndex(kept.index) + timeframe.step <= now]
    if len(kept) == len(report.bars):
        return report
    return validate_bars(kept, timeframe=timeframe, calendar=calendar, now=now)


def _bars(
    source: BarSource, symbol: str, timeframe: Timeframe, report: QualityReport
) -> Bars:
    if report.bars.empty:
        raise BarsError("no bars")
    last_close = pd.DatetimeIndex(report.bars.index)[-1] + timeframe.step
    return Bars(
        frame=report.bars,
        symbol=symbol,
        venue=source.venue,
        timeframe=timeframe,
        provenance=Provenance(
            source=type(source).__name__,
            venue=source.venue,
            symbol=symbol,
            timeframe=timeframe.name,
            fetched_at=last_close.to_pydatetime(),
            content_hash=content_hash(report.bars),
            label=label_of(source, symbol),
        ),
        quality=report,
    )
