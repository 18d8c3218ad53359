"""Fetches new bars of the live services: one process per venue polls it, every replica reads.

The process that polls a venue holds the lease ``feed:{venue}``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops.background import Repeated
from mlops.data.load import LOCAL_VENUES, load_bars
from mlops.errors import DataError
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

    def loop(self) -> Repeated:
        """The loop that polls every `POLL_S` seconds."""
        return Repeated("feed", POLL_S, lambda: self.poll(datetime.now(UTC)), at_once=False)

    def poll(self, now: datetime) -> int:
        """Fetch the bars that have closed since the last poll.

        Returns:
            The number of markets that had a new bar.

        Raises:
            StoreError: when the store is away: without it no lease can be had.
        """
        services = [Service.parse(key) for key in self.services()]
        remote = [service for service in services if service.venue not in LOCAL_VENUES]
        fetched = 0
        for venue in sorted({service.venue for service in remote}):
            if acquire_lease(self.store, f"feed:{venue}", self.holder, seconds=LEASE_S) is not None:
                markets = [service for service in remote if service.venue == venue]
                fetched += sum(self._fetch(service, now) for service in markets)
        return fetched

    def _fetch(self, service: Service, now: datetime) -> bool:
        market = (service.venue, service.symbol, service.timeframe.name)
        step = service.timeframe.step
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        closed = epoch + (now - SETTLE - epoch) // step * step
        if self._fetched_until.get(market) == closed:
            return False
        try:
            load_bars(
                service,
                cache_root=self.bars_root,
                start=closed - HISTORY_BARS * step,
                now=now,
                exchange_base_url=self.exchange_base_url,
            )
        except DataError as error:
            log.warning("service=%s no new bars: %s", service, error, extra={"service": service})
            return False
        self._fetched_until[market] = closed
        return True
