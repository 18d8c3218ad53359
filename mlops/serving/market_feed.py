"""Keeps the bars on disk new: one process per venue polls it, every replica reads what it wrote."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops.data.load import LOCAL_VENUES, load_bars
from mlops.errors import DataError, StoreError
from mlops.service import Service
from mlops.store import Store, acquire_lease

log = logging.getLogger(__name__)

LEASE_S = 30.0
POLL_S = 5.0
HISTORY_BARS = 4000
"""Bars fetched of a market that nobody has read before."""

SETTLE = timedelta(seconds=1)
"""After its close a venue may still be finishing a bar."""


class MarketFeed:
    """Polls the exchanges of the services that are live, for as long as it holds their leases."""

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
        self._closed: dict[tuple[str, str, str], datetime] = {}

    def run(self, stop: threading.Event) -> None:
        """Poll until told to stop."""
        while not stop.wait(POLL_S):
            try:
                self.poll(datetime.now(UTC))
            except StoreError as error:
                log.warning("the feed waits for the store: %s", error)
            except Exception:
                # What an exchange's client raises is without end; the next round asks again.
                log.exception("a round of the feed failed")

    def poll(self, now: datetime) -> int:
        """Fetch the bars that have closed since the last time; returns how many markets had one.

        Raises:
            StoreError: when the store is away, for then nobody knows who may poll.
        """
        services = [Service.parse(key) for key in self.services()]
        remote = [one for one in services if one.venue not in LOCAL_VENUES]
        fetched = 0
        for venue in sorted({one.venue for one in remote}):
            held = acquire_lease(self.store, f"feed:{venue}", self.holder, seconds=LEASE_S)
            if held is not None:
                fetched += sum(self._fetch(one, now) for one in remote if one.venue == venue)
        return fetched

    def _fetch(self, service: Service, now: datetime) -> bool:
        market = (service.venue, service.symbol, service.timeframe.name)
        step = service.timeframe.step
        closed = _last_close(now - SETTLE, step)
        if self._closed.get(market) == closed:
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
        self._closed[market] = closed
        return True


def _last_close(now: datetime, step: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (now - epoch) // step * step
