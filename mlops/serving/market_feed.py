"""Fetches new bars of the live services: one process per venue and bars folder polls the venue.

That process holds the lease ``feed:{venue}:{folder}``, and every replica that has the folder reads.
A machine with a bars folder of its own has an id of its own, so it fills its own disk. A file is
read again by a process that sees it when it has changed; its bars go to the store.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mlops.background import Repeated
from mlops.data.bars_folder import describe_full_disk, identify_folder
from mlops.data.load import LOCAL_VENUES, load_bars
from mlops.data.market import Market
from mlops.data.market_clock import wall_clock
from mlops.data.sources.exchange import ExchangeSource
from mlops.data.sources.venue_clock import describe_skew
from mlops.errors import DataError, StoreError
from mlops.logs import RepeatedLines
from mlops.registry.bar_files import FileState, identify_file, keep_file
from mlops.registry.markets import MarketBook, adopt_noted_file
from mlops.service import Service
from mlops.store import Store
from mlops.store.leases import acquire_lease

log = logging.getLogger(__name__)

LEASE_S = 30.0
POLL_S = 5.0
HISTORY_BARS = 4000
"""Bars fetched of a market that is new to the cache."""

RETRY_S = 60.0
"""Seconds until a file that could not be read is tried again, though it has not changed."""

SETTLE = timedelta(seconds=1)
"""A venue may still change a bar so long after its close."""


@dataclass(frozen=True, slots=True)
class TriedFile:
    """A file as it was when its reading was tried; it is tried again at ``retry_at``."""

    state: FileState
    retry_at: float

    def is_done_with(self, state: FileState) -> bool:
        """Whether a file in this state need not be read."""
        return self.state == state and time.monotonic() < self.retry_at


class MarketFeed:
    """Polls the venues of the live services while this process holds their leases.

    Args:
        holder: Name of this process in the leases.
        markets: The markets of the services.
        bars_root: Folder of the bar cache.
        services: Returns the keys of the live services.
        exchange_base_url: Address of the exchange instead of its own, for tests.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        *,
        markets: MarketBook,
        bars_root: Path,
        services: Callable[[], Iterable[str]],
        exchange_base_url: str | None = None,
    ) -> None:
        self.store = store
        self.holder = holder
        self.markets = markets
        self.bars_root = bars_root
        self.services = services
        self.exchange_base_url = exchange_base_url
        self._fetched_until: dict[tuple[str, str, str], datetime] = {}
        self._troubles: dict[str, str] = {}
        self._tried: dict[Service, TriedFile] = {}
        self._adopt_at = 0.0
        self._waits_for = ""
        self._lines = RepeatedLines(log)

    def loop(self) -> Repeated:
        """The loop that polls every `POLL_S` seconds."""
        return Repeated("feed", POLL_S, self._poll_or_wait, at_once=False)

    def _poll_or_wait(self) -> None:
        """Poll; where the store or the disk is away, keep the reason for those who ask."""
        try:
            self.poll(wall_clock())
            self._waits_for = ""
        except (StoreError, OSError) as error:
            self._waits_for = f"the feed of {self.bars_root} waits: {error}"
            self._lines.write("feed", self._waits_for)

    def poll(self, now: datetime) -> int:
        """Fetch the bars that have closed since the last poll.

        Args:
            now: The time by this machine's clock; which bars are complete is the venue's to say.

        Returns:
            The number of markets that had a new bar.

        Raises:
            StoreError: when the store is away: without it no lease can be had.
            OSError: when the id of the bars folder cannot be read or written.
        """
        began_s = time.monotonic()

        def wall() -> datetime:
            return now + timedelta(seconds=time.monotonic() - began_s)

        services = [Service.parse(key) for key in self.services()]
        self._adopt_noted_files(services)
        markets = {service: self.markets.of(service) for service in services}
        fed = [service for service, market in markets.items() if market.from_file]
        remote = [one for one in services if one.venue not in LOCAL_VENUES and one not in fed]
        fetched = sum(self._read_file(service, markets[service]) for service in fed)
        for venue in sorted({service.venue for service in remote}):
            # A machine with a bars folder of its own fills that itself.
            name = f"feed:{venue}:{identify_folder(self.bars_root)}"
            if acquire_lease(self.store, name, self.holder, seconds=LEASE_S):
                served = [service for service in remote if service.venue == venue]
                fetched += sum(self._fetch(service, wall) for service in served)
        return fetched

    def trouble(self, service: Service) -> str:
        """Why no new bars of a service come; empty where nothing is wrong here."""
        trouble = self._waits_for or self._troubles.get(service.key, "")
        return trouble or describe_full_disk(self.bars_root)

    def _adopt_noted_files(self, services: Iterable[Service]) -> None:
        """Set the markets of services that an earlier release began on a file."""
        if time.monotonic() < self._adopt_at:
            return
        self._adopt_at = time.monotonic() + RETRY_S
        for service in services:
            try:
                if adopt_noted_file(self.store, service, cache_root=self.bars_root):
                    self.markets.refresh()
            except DataError as error:
                self._troubles[service.key] = f"no new bars come: {error}"

    def _read_file(self, service: Service, market: Market) -> bool:
        """Keep the bars of a file that this process sees and that has changed."""
        state, tried = FileState.of(str(market.choice.bars_file)), self._tried.get(service)
        # Another machine may have another copy of the file: each reads its own once.
        if state is None or (tried is not None and tried.is_done_with(state)):
            return False
        name = f"feed:{identify_file(service, market.choice)[:16]}"
        if not acquire_lease(self.store, name, self.holder, seconds=LEASE_S):
            return False
        try:
            changed = keep_file(self.store, service, market.choice, cache_root=self.bars_root)
        except DataError as error:
            # What was read before stays.
            self._tried[service] = TriedFile(state, time.monotonic() + RETRY_S)
            self._troubles[service.key] = f"no new bars come: {error}"
            self._lines.write(service.key, f"service={service} no new bars come: {error}")
            return False
        self._tried[service] = TriedFile(state, math.inf)
        self._troubles.pop(service.key, None)
        self._lines.end(service.key)
        if changed:
            self.markets.refresh()
        return changed

    def _fetch(self, service: Service, wall: Callable[[], datetime]) -> bool:
        market = (service.venue, service.symbol, service.timeframe.name)
        step = service.timeframe.step
        source = ExchangeSource(service.venue, self.exchange_base_url, clock=wall)
        try:
            asked = wall()
            now = source.now(service.symbol, service.timeframe)
            skew_s = round((now - asked).total_seconds())
            closed = service.timeframe.open_of(now - SETTLE)
            if self._fetched_until.get(market) == closed:
                return False
            load_bars(
                service,
                cache_root=self.bars_root,
                start=closed - HISTORY_BARS * step,
                now=now,
                source=source,
            )
        except DataError as error:
            self._troubles[service.key] = f"no new bars come: {error}"
            self._lines.write(service.key, f"service={service} no new bars come: {error}")
            return False
        self._troubles[service.key] = describe_skew(service.venue, skew_s)
        self._lines.end(service.key)
        self._fetched_until[market] = closed
        return True
