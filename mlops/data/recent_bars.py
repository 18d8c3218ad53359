"""The newest complete bars of a service: from the cache that a feed fills, a file or the sample."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pandas as pd

from mlops.data.cache import BarCache
from mlops.data.load import LOCAL_VENUES, load_bars
from mlops.data.market import SAMPLE_VENUE, Market
from mlops.data.market_clock import Clock, market_clock, wall_clock
from mlops.data.quality import NewestBar
from mlops.data.segments import Series
from mlops.service import Service
from mlops.settings import FileClock

KEEP_BARS = 4000
"""Most bars that are returned: a long warm-up, and before it the bars that are replayed."""

HELD_BARS = 2 * KEEP_BARS
"""Newest bars of a market that are kept in memory."""

_CLOCK_NOTES = {
    FileClock.WALL: "",
    FileClock.END: "; market time stands at its last bar",
    FileClock.REPLAY: "; its last bars are replayed",
}


class Markets(Protocol):
    """Knows the market of each service, and keeps the bars of files."""

    def of(self, service: Service) -> Market:
        """The market of a service."""
        ...

    def bars_digest(self, service: Service) -> str | None:
        """Changes with the kept bars of a service's file; None where none are kept."""
        ...

    def read_bars(self, service: Service, newest: int | None) -> pd.DataFrame:
        """The kept bars of a service's file: at least so many of the newest, or all."""
        ...


class VenueMarkets:
    """The markets of services that have their venue's own bars."""

    def of(self, service: Service) -> Market:
        return Market.of(service)

    def bars_digest(self, service: Service) -> str | None:
        return None

    def read_bars(self, service: Service, newest: int | None) -> pd.DataFrame:
        raise NotImplementedError(f"{service} has no file of bars")


@dataclass(frozen=True, slots=True)
class KnownBars:
    """Bars that are complete at the market time ``now``, oldest first.

    ``last_close`` is the close of the last bar that there is, at which a replay begins again; None
    where no later bar is known than those of ``frame``.
    """

    frame: pd.DataFrame
    now: datetime
    label: str
    market: Market
    last_close: datetime | None = None


class RecentBars:
    """Bars of each market by service, thread-safe; they are read again only once they changed.

    Args:
        root: The folder of the bar cache.
        markets: The markets of the services; by default their venues' own.
        clock: Gives the market time up to which bars are known.
        held_bars: Newest bars of a market that are kept in memory; None, for a clock that
            starts in the past, keeps all.
    """

    def __init__(
        self,
        root: Path,
        markets: Markets | None = None,
        clock: Clock = market_clock,
        *,
        held_bars: int | None = HELD_BARS,
    ) -> None:
        self.root = root
        self.markets = markets or VenueMarkets()
        self.clock = clock
        self.held_bars = held_bars
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, pd.DataFrame, str]] = {}

    def load(self, service: Service) -> KnownBars | None:
        """The bars known now; None where this installation keeps no bars of the market."""
        market = self.markets.of(service)
        with self._lock:
            history = self._read_if_changed(service, market)
        if history is None:
            return None
        frame, label = history
        last_close = frame.index[-1] + service.timeframe.step
        now = self.clock(market, frame.index[0], last_close)
        known = int(frame.index.searchsorted(pd.Timestamp(now) - service.timeframe.step, "right"))
        if not known:
            return None
        newest = frame.iloc[max(0, known - KEEP_BARS) : known]
        return KnownBars(newest, now, label, market, last_close.to_pydatetime())

    def describe_missing(self, service: Service) -> str:
        """Why `load` returned None for a service, and what to do."""
        market = self.markets.of(service)
        if market.from_file:
            return (
                f"no bars of {service.symbol} from {market.choice.bars_file} are in the store; "
                "train the service on a machine that has the file"
            )
        if service.venue in LOCAL_VENUES:
            return (
                f"no bars of {service.symbol} come from the venue {service.venue}; train the "
                "service with bars_file="
            )
        return (
            f"no bars of {service.symbol} on {service.venue} are in {self.root} yet; one replica "
            "of each bars folder fetches them, see its log"
        )

    def describe_stale(self, service: Service) -> str:
        """What a file needs whose last bar is too old; empty where the bars come from a feed."""
        market = self.markets.of(service)
        if not (market.from_file and market.is_live):
            return ""
        return (
            f"{market.choice.bars_file} has brought no later bar; append new bars to it, or train "
            "with file_clock='replay' or 'end' (FILE_CLOCK) where no more will come"
        )

    def find_newest(self, service: Service) -> NewestBar | None:
        """The newest bar that a feed stored; None where no later bar is due, as in a replay."""
        market = self.markets.of(service)
        if not market.is_live or (service.venue in LOCAL_VENUES and not market.from_file):
            return None
        recent = self.load(service)
        if recent is None:
            return NewestBar(None, wall_clock(), market.calendar)
        closed = recent.frame.index[-1].to_pydatetime() + service.timeframe.step
        return NewestBar(closed, recent.now, market.calendar)

    def _read_if_changed(self, service: Service, market: Market) -> tuple[pd.DataFrame, str] | None:
        state = self._read_state(service, market)
        held = self._held.get(service.key)
        if held is None or held[0] != state:
            history = self._read_history(service, market)
            if history is None:
                return None
            held = self._held[service.key] = (state, *history)
        return held[1], held[2]

    def _read_state(self, service: Service, market: Market) -> str:
        """Changes with the bars of a service."""
        if market.from_file:
            return self.markets.bars_digest(service) or ""
        if service.venue == SAMPLE_VENUE:
            return SAMPLE_VENUE
        head = self._series(service).folder / "head.json"
        return str(head.stat().st_mtime_ns) if head.exists() else ""

    def _series(self, service: Service) -> Series:
        return BarCache(self.root).series(service.venue, service.symbol, service.timeframe)

    def _read_history(self, service: Service, market: Market) -> tuple[pd.DataFrame, str] | None:
        if market.from_file:
            if self.markets.bars_digest(service) is None:
                return None
            frame = self.markets.read_bars(service, self.held_bars)
            name = Path(str(market.choice.bars_file)).name
            return frame, f"{service.symbol} from {name}{_CLOCK_NOTES[market.clock]}"
        if service.venue == SAMPLE_VENUE:
            bars = load_bars(service, cache_root=self.root)
            return bars.frame, bars.provenance.label
        _, frame = self._series(service).read()
        held = frame if self.held_bars is None else frame.iloc[-self.held_bars :]
        return None if frame.empty else (held, f"{service.symbol} on {service.venue}")
