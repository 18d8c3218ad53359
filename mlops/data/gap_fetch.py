"""Fetches one gap of a series from its venue, and stores each page as it comes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from mlops.data.bar_request import BarRequest
from mlops.data.candles import Candles, describe_invalid, screen_candles
from mlops.data.cleaning import Cleaned, clean_bars
from mlops.data.segments import Head, Interval, Series
from mlops.data.sources.base import PagedSource
from mlops.errors import BarsError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class GapFetch:
    """The fetch of one gap; the caller holds the lock of the series.

    A stretch without bars counts as covered once a newer bar has come; the newest stretch is asked
    for again, for a venue may publish late. A fetch that was interrupted goes on where it was.
    """

    series: Series
    source: PagedSource
    request: BarRequest
    gap: Interval
    _doubted: list[Candles] = field(default_factory=list)

    def run(self) -> None:
        """Fetch the gap.

        Raises:
            SourceError: when the venue cannot be read; what arrived before is stored.
            BarsError: when pages do not hold bars; they are not stored.
        """
        begin, end = self.gap
        symbol, timeframe = self.request.symbol, self.request.timeframe
        start = self._find_start().to_pydatetime()
        for page in self.source.pages(symbol, timeframe, start=start, end=end.to_pydatetime()):
            if page.frame.empty:
                self._note_searched(page.asked_to)
            else:
                self._take(page.frame)
        if self._doubted:
            raise self._refuse_doubted()
        head = replace(self.series.head(), searched=None)
        if any(low == end for low, _ in head.coverage):
            head = head.covering(begin, end)
        if head != self.series.head():
            self.series.commit(head)

    def _find_start(self) -> pd.Timestamp:
        begin, end = self.gap
        head = self.series.head()
        if self._is_begun(head):
            # The venue may have revised the last stored bar, or sent it part-formed because its
            # clock runs behind ours.
            return begin - self.request.timeframe.step
        searched = head.searched
        if searched is not None and searched[0] <= begin < searched[1] < end:
            return searched[1]
        return begin

    def _is_begun(self, head: Head) -> bool:
        """Whether the bar before the gap is stored, or a first bar of the gap."""
        return any(low <= self.gap[0] <= high for low, high in head.coverage)

    def _note_searched(self, to: pd.Timestamp) -> None:
        """Note that no bar was found, so that an interrupted search goes on from here."""
        head = self.series.head()
        if not self._doubted and not self._is_begun(head):
            self.series.commit(replace(head, searched=(self.gap[0], to)))

    def _take(self, page: pd.DataFrame) -> None:
        """Store the bars of a page that holds bars, and of those before it that were doubted."""
        head = self.series.head()
        candles = screen_candles(
            page,
            timeframe=self.request.timeframe,
            now=pd.Timestamp(self.request.now),
            known_open=pd.Timestamp(head.segments[0].first) if head.segments else None,
        )
        self._doubted.append(candles)
        if candles.holds_bars:
            for doubted in self._doubted:
                self._store(doubted)
            self._doubted.clear()

    def _store(self, candles: Candles) -> None:
        begin, _ = self.gap
        head = self.series.head()
        # The last stored bar is kept where the venue sends a broken candle for it afterwards.
        new = {at: what for at, what in candles.invalid.items() if not head.knows(at)}
        self._tell_invalid(new)
        head = head.with_invalid(new, pd.DatetimeIndex(candles.sound.index))
        if candles.sound.empty:
            self.series.commit(head)
            return
        cleaned = self._clean(candles.sound)
        if cleaned.frame.empty:
            return
        self._tell_late_begin(cleaned.frame.index[0], head)
        head = head.counting(cleaned.dropped).counting({"duplicate": candles.repeated})
        covered_to = max(cleaned.frame.index[-1] + self.request.timeframe.step, begin)
        fetched_at = pd.Timestamp(self.request.now)
        self.series.append(
            cleaned.frame,
            replace(head.covering(begin, covered_to), fetched_at=fetched_at, searched=None),
        )

    def _clean(self, frame: pd.DataFrame) -> Cleaned:
        request = self.request
        try:
            return clean_bars(frame, timeframe=request.timeframe, now=pd.Timestamp(request.now))
        except BarsError as error:
            raise BarsError(
                f"{request.symbol} on {self.source.venue}, page from {frame.index.min()}: {error}",
                column=error.column,
                rows=error.rows,
            ) from error

    def _tell_invalid(self, invalid: Mapping[pd.Timestamp, str]) -> None:
        if invalid:
            request = self.request
            log.warning(
                "%s sent %d invalid %s candle(s) of %s, which are left out: %s",
                self.source.venue,
                len(invalid),
                request.timeframe,
                request.symbol,
                describe_invalid(invalid),
            )

    def _tell_late_begin(self, first: pd.Timestamp, head: Head) -> None:
        """Log once that the first bar of the gap is later than was asked for."""
        begin, request = self.gap[0], self.request
        if not self._is_begun(head) and first >= begin + request.timeframe.step:
            log.info(
                "%s has %s bars of %s from %s on; they were asked for from %s",
                self.source.venue,
                request.timeframe,
                request.symbol,
                first,
                begin,
            )

    def _refuse_doubted(self) -> BarsError:
        request = self.request
        invalid = {at: what for page in self._doubted for at, what in page.invalid.items()}
        count = len(invalid) + sum(len(page.sound) for page in self._doubted)
        return BarsError(
            f"{len(invalid):,} of the last {count:,} {request.timeframe} candles of "
            f"{request.symbol} on {self.source.venue} are invalid, so they are not taken for bars: "
            f"{describe_invalid(invalid)}; what was stored is kept. Ask for the bars before with "
            f"end= up to {min(invalid)}, or again once the venue sends bars"
        )
