"""One call from the name of a market to validated bars with their provenance."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.data.bars import Bars
from mlops.data.cache import BarCache
from mlops.data.calendar import Calendar
from mlops.data.sources.base import BarSource
from mlops.errors import SourceError
from mlops.service import Service, Timeframe

LOCAL_VENUES = ("sample", "file", "simulator")


def open_source(venue: str, **options: Any) -> BarSource:
    """The source behind a venue: ``sample``, ``file``, ``simulator``, or an exchange ccxt knows.

    ``options`` go to the source: a path for files, a seed for the simulator, ``base_url`` for
    an exchange.

    Raises:
        SourceError: when no source has that name.
    """
    if venue == "sample":
        from mlops.data.sources.samples import SampleSource

        return SampleSource(**options)
    if venue == "file":
        from mlops.data.sources.files import FileSource

        if "path" not in options:
            raise SourceError("bars from a file need load_bars(source=FileSource(path=...))")
        return FileSource(**options)
    if venue == "simulator":
        from mlops.data.simulator import SimulatorSource

        return SimulatorSource(**options)
    from mlops.data.sources.exchange import ExchangeSource

    return ExchangeSource(venue, **options)


def _venue_source(venue: str, exchange_base_url: str | None) -> BarSource:
    if venue in LOCAL_VENUES or exchange_base_url is None:
        return open_source(venue)
    return open_source(venue, base_url=exchange_base_url)


def load_bars(
    service: Service | None = None,
    *,
    cache_root: Path | str,
    venue: str | None = None,
    symbol: str | None = None,
    timeframe: Timeframe | str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    now: datetime | None = None,
    source: BarSource | None = None,
    exchange_base_url: str | None = None,
    calendar: Calendar | None = None,
) -> Bars:
    """Load the bars of a service, or of a venue, symbol and timeframe.

    Bars opened in ``[start, end)`` and closed by ``now`` (default: the wall clock); an earlier
    ``now`` gives what was known then. Exchanges go through the cache under ``cache_root``.
    ``source`` replaces the venue's own, ``calendar`` the symbol's own; ``exchange_base_url`` is
    another address of the exchange.

    Raises:
        SourceError: when the source cannot be read.
        BarsError: when its bars break the contract.
    """
    if service is not None:
        venue, symbol, timeframe = service.venue, service.symbol, service.timeframe
    if symbol is None or timeframe is None or (venue is None and source is None):
        raise SourceError("load_bars needs a service, or a venue, a symbol and a timeframe")
    frame = Timeframe(timeframe) if isinstance(timeframe, str) else timeframe
    return BarCache(cache_root).load(
        source or _venue_source(str(venue), exchange_base_url),
        symbol,
        frame,
        start=start,
        end=end,
        now=now or datetime.now(UTC),
        calendar=calendar,
    )
