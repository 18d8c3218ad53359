"""Fetches new bars of the live services: one process per venue and bars folder polls the venue.

That process holds the lease ``feed:{venue}:{folder}``, and every replica that has the folder reads.
A machine with a bars folder of its own has an id of its own, so it fills its own disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops.background import Repeated
from mlops.data.bars_folder import describe_full_disk, identify_folder
from mlops.data.load import LOCAL_VENUES, load_bars
from mlops.data.market_clock import wall_clock
from mlops.data.sources.exchange import ExchangeSource
from mlops.data.sources.venue_clock import describe_skew
from mlops.errors import DataError, StoreError
from mlops.logs import RepeatedLines
from mlops.service import Service
from mlops.store import Store
from mlops.store.leases import acquire_lease

log = logging.getLogger(__name__)

LEASE_S = 30.0
POLL_S = 5.0
HISTORY_BARS = 4000
"""Bars fetched of a market that is new to the cache."""

SETTLE = timedelta(seconds=1)
"""A venue may still change a bar so long after its close."""


class MarketFeed:
    """Polls the venues of the live services while this process holds their leases.

    Args:
        holder: Name of this process in the leases.
        bars_root: Folder of the bar cache.
        services: Returns the keys of the live services.
        exchange_base_url: Address of the exchange instead of its own, for tests.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        *,
        bars_root: Path,
        services: Callable[[], Iterable[str]],
        exchange_base_url: str | None = None,
    ) -> None:
        self.store = store
        self.holder = holder
        self.bars_root = bars_root
        self.services = services
        self.exchange_base_url = exchange_base_url
        self._fetched_until: dict[tuple[str, str, str], datetime] = {}
        self._troubles: dict[str, str] = {}
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
        remote = [service for service in services if service.venue not in LOCAL_VENUES]
        fetched = 0
        for venue in sorted({service.venue for service in remote}):
            # A machine with a bars folder of its own fills that itself.
            name = f"feed:{venue}:{identify_folder(self.bars_root)}"
            if acquire_lease(self.store, name, self.holder, seconds=LEASE_S):
                markets = [service for service in remote if service.venue == venue]
                fetched += sum(self._fetch(service, wall) for service in markets)
        return fetched

    def trouble(self, service: Service) -> str:
        """Why no new bars of a service come; empty where nothing is wrong here."""
        trouble = self._waits_for or self._troubles.get(service.key, "")
        return trouble or describe_full_disk(self.bars_root)

    def _fetch(self, service: Service, wall: Callable[[], datetime]) -> bool:
        market = (service.venue, service.symbol, service.timeframe.name)
        step = service.timeframe.step
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        source = ExchangeSource(service.venue, self.exchange_base_url, clock=wall)
        try:
            asked = wall()
            now = source.now(service.symbol, service.timeframe)
            skew_s = round((now - asked).total_seconds())
            closed = epoch + (now - SETTLE - epoch) // step * step
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
