"""The newest complete bars of a service: from the cache that a feed fills, a file or the sample."""

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
from mlops.data.segments import Series
from mlops.errors import DataError
from mlops.service import Service

KEEP_BARS = 4000
"""Most bars that are returned: a long warm-up, and before it the bars that are replayed."""


@dataclass(frozen=True, slots=True)
class KnownBars:
    """Bars that are complete at the market time ``now``, oldest first."""

    frame: pd.DataFrame
    now: datetime
    label: str


class RecentBars:
    """Bars of each market by service, thread-safe; files are read again only once they changed."""

    def __init__(self, root: Path, clock: Clock = market_clock) -> None:
        self.root = root
        self.clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[int | None, pd.DataFrame, str]] = {}

    def load(self, service: Service, notes: Mapping[str, object]) -> KnownBars | None:
        """The bars known now; None where this installation keeps no bars of the market.

        Args:
            notes: The notes of the version that forecasts; a model trained on a file gets the
                bars of that file.
        """
        with self._lock:
            history = self._read_if_changed(service, notes)
        if history is None:
            return None
        frame, label = history
        now = self.clock(service.venue, frame.index[-1] + service.timeframe.step)
        known = int(frame.index.searchsorted(pd.Timestamp(now) - service.timeframe.step, "right"))
        if not known:
            return None
        return KnownBars(frame.iloc[max(0, known - KEEP_BARS) : known], now, label)

    def describe_missing(self, service: Service, notes: Mapping[str, object]) -> str:
        """Why `load` returned None for a service, and what to do."""
        path = _noted_bars_file(notes)
        if path is not None and not Path(path).exists():
            return (
                f"the bars of this service are read from {path}, which is not on this machine; "
                "copy the file to the same path"
            )
        return (
            f"no bars of {service.symbol} on {service.venue} are in {self.root} yet; one replica "
            "of each bars folder fetches them, see its log"
        )

    def find_newest(self, service: Service, notes: Mapping[str, object]) -> NewestBar | None:
        """The newest bar that a feed stored; None for local bars, which have no feed."""
        if service.venue in LOCAL_VENUES:
            return None
        recent = self.load(service, notes)
        if recent is None:
            return NewestBar(None, wall_clock())
        closed = recent.frame.index[-1].to_pydatetime() + service.timeframe.step
        return NewestBar(closed, recent.now)

    def _read_if_changed(
        self, service: Service, notes: Mapping[str, object]
    ) -> tuple[pd.DataFrame, str] | None:
        key = f"{service.venue} {service.symbol} {service.timeframe}"
        modified = self._read_modification_time(service)
        held = self._held.get(key)
        if held is None or held[0] != modified:
            history = self._read_history(service, notes)
            if history is None:
                return None
            held = self._held[key] = (modified, *history)
        return held[1], held[2]

    def _read_modification_time(self, service: Service) -> int | None:
        """When the stored bars last changed (ns); None for local bars, which are read once."""
        if service.venue in LOCAL_VENUES:
            return None
        head = self._series(service).folder / "head.json"
        return head.stat().st_mtime_ns if head.exists() else None

    def _series(self, service: Service) -> Series:
        return BarCache(self.root).series(service.venue, service.symbol, service.timeframe)

    def _read_history(
        self, service: Service, notes: Mapping[str, object]
    ) -> tuple[pd.DataFrame, str] | None:
        path = _bars_file(notes)
        has_source = service.venue == "sample" or path is not None
        if service.venue not in LOCAL_VENUES or not has_source:
            _, frame = self._series(service).read()
            label = f"{service.symbol} on {service.venue}"
            return None if frame.empty else (frame.iloc[-2 * KEEP_BARS :], label)
        source = None if path is None else open_source("file", path=path)
        try:
            bars = load_bars(service, cache_root=self.root, source=source)
        except DataError:
            return None
        return bars.frame, bars.provenance.label


def _bars_file(notes: Mapping[str, object]) -> str | None:
    path = _noted_bars_file(notes)
    return path if path is not None and Path(path).exists() else None


def _noted_bars_file(notes: Mapping[str, object]) -> str | None:
    """The file that a version was trained on; None where its bars come from elsewhere."""
    config = notes.get("config")
    path = config.get("bars_file") if isinstance(config, Mapping) else None
    return path if isinstance(path, str) else None
