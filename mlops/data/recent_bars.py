"""The newest complete bars of a service, as the feed (or a file, or the sample) left them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from mlops.data.cache import BarCache
from mlops.data.load import LOCAL_VENUES, load_bars, open_source
from mlops.data.market_clock import Clock, market_clock, wall_clock
from mlops.data.quality import NewestBar
from mlops.errors import DataError
from mlops.service import Service

KEEP_BARS = 4000
"""Bars that are handed out at most: a long warm-up and the replayed ones before it."""


@dataclass(frozen=True, slots=True)
class KnownBars:
    """Complete bars, oldest first, and the market time they were looked at."""

    frame: pd.DataFrame
    now: datetime
    label: str


class RecentBars:
    """Thread-safe; reads a market's files again only when they have changed."""

    def __init__(self, root: Path, clock: Clock = market_clock) -> None:
        self.root = root
        self.clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[object, pd.DataFrame, str]] = {}

    def of(self, service: Service, notes: Mapping[str, object]) -> KnownBars | None:
        """The bars known now, None where nobody keeps bars of this market.

        ``notes`` are those of the version they are for: a model trained on a file is shown
        that file again.
        """
        with self._lock:
            found = self._whole(service, notes)
        if found is None:
            return None
        frame, label = found
        now = self.clock(service.venue, frame.index[-1] + service.timeframe.step)
        known = int(frame.index.searchsorted(pd.Timestamp(now) - service.timeframe.step, "right"))
        if not known:
            return None
        return KnownBars(frame.iloc[max(0, known - KEEP_BARS) : known], now, label)

    def newest(self, service: Service, notes: Mapping[str, object]) -> NewestBar | None:
        """How new the bars are that a feed keeps; None for bars of files, which nothing feeds."""
        if service.venue in LOCAL_VENUES:
            return None
        recent = self.of(service, notes)
        if recent is None:
            return NewestBar(None, wall_clock())
        closed = recent.frame.index[-1].to_pydatetime() + service.timeframe.step
        return NewestBar(closed, recent.now)

    def _whole(
        self, service: Service, notes: Mapping[str, object]
    ) -> tuple[pd.DataFrame, str] | None:
        key = f"{service.venue} {service.symbol} {service.timeframe}"
        mark = self._mark(service)
        held = self._held.get(key)
        if held is None or held[0] != mark:
            read = self._read(service, notes)
            if read is None:
                return None
            held = self._held[key] = (mark, *read)
        return held[1], held[2]

    def _mark(self, service: Service) -> object:
        """What changes when the bars on disk do."""
        if service.venue in LOCAL_VENUES:
            return None
        head = self._series(service) / "head.json"
        return head.stat().st_mtime_ns if head.exists() else None

    def _series(self, service: Service) -> Path:
        cache = BarCache(self.root)
        return cache.series(service.venue, service.symbol, service.timeframe).folder

    def _read(
        self, service: Service, notes: Mapping[str, object]
    ) -> tuple[pd.DataFrame, str] | None:
        if service.venue not in LOCAL_VENUES or not _has_own_source(service, notes):
            cache = BarCache(self.root)
            _, frame = cache.series(service.venue, service.symbol, service.timeframe).read()
            label = f"{service.symbol} on {service.venue}"
            return None if frame.empty else (frame.iloc[-2 * KEEP_BARS :], label)
        path = _bars_file(notes)
        source = None if path is None else open_source("file", path=path)
        try:
            bars = load_bars(service, cache_root=self.root, source=source)
        except DataError:
            return None
        return bars.frame, bars.provenance.label


def _has_own_source(service: Service, notes: Mapping[str, object]) -> bool:
    return service.venue == "sample" or _bars_file(notes) is not None


def _bars_file(notes: Mapping[str, object]) -> str | None:
    config = notes.get("config")
    found = config.get("bars_file") if isinstance(config, Mapping) else None
    return found if isinstance(found, str) and Path(found).exists() else None
