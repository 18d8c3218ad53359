"""`load_bars`: validated bars with provenance, by service or by venue, symbol and timeframe."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.data.bars import Bars
from mlops.data.cache import BarCache
from mlops.data.calendar import Calendar
from mlops.data.file_options import BarsChoice
from mlops.data.sources.base import BarSource
from mlops.errors import SourceError
from mlops.service import Service, Timeframe
from mlops.settings import FileClock, expand_user_path

LOCAL_VENUES = ("sample", "file", "simulator")


def open_source(venue: str, **options: Any) -> BarSource:
    """The source of a venue's bars.

    Args:
        venue: ``sample``, ``file``, ``simulator``, or the id of an exchange in ccxt.
        options: Arguments of the source: a path for files, a seed for the simulator,
            ``base_url`` for an exchange.

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
    calendar: Calendar | str | None = None,
) -> Bars:
    """Load the bars of a service, or of a venue, symbol and timeframe.

    Args:
        service: Names venue, symbol and timeframe, instead of the three arguments.
        cache_root: The folder in which bars of exchanges are stored.
        start: The open of the first bar.
        end: The first open that is left out.
        now: Bars closed by then are loaded; an earlier time than the default, the wall clock,
            gives the bars that were known then.
        source: Replaces the venue's own source.
        exchange_base_url: Another address of the exchange's REST interface.
        calendar: A calendar or its name, such as ``XNYS``, instead of the symbol's own; that of a
            file is recognised from its bars where the symbol's own does not fit.

    Raises:
        SourceError: when the source cannot be read.
        BarsError: when its bars break the contract.

    >>> from datetime import UTC, datetime
    >>> bars = load_bars(
    ...     venue="sample", symbol="BTC/USD", timeframe="1h", cache_root="unused",
    ...     start=datetime(2018, 1, 1, tzinfo=UTC), end=datetime(2018, 1, 2, tzinfo=UTC),
    ... )
    >>> len(bars.frame), bars.provenance.label
    (24, 'BTC/USD sample, 2017-2019')
    """
    if service is not None:
        venue, symbol, timeframe = service.venue, service.symbol, service.timeframe
    if symbol is None or timeframe is None or (venue is None and source is None):
        raise SourceError("load_bars needs a service, or a venue, a symbol and a timeframe")
    if source is None:
        is_remote = exchange_base_url is not None and venue not in LOCAL_VENUES
        source = open_source(str(venue), **({"base_url": exchange_base_url} if is_remote else {}))
    return BarCache(cache_root).load(
        source,
        symbol,
        Timeframe.of(timeframe) if isinstance(timeframe, str) else timeframe,
        start=start,
        end=end,
        now=now or datetime.now(UTC),
        calendar=calendar,
    )


def resolve_choice(choice: BarsChoice, service: Service, clock: FileClock) -> BarsChoice:
    """The choice as every other process can read it: a whole path, and a clock for the file.

    A service of an exchange that is trained on a file keeps the exchange's own bars, unless the
    choice names a ``file_clock``.

    Args:
        clock: The clock of a file for which the choice names none.

    Raises:
        SourceError: when the path begins with the home directory of nobody, or names a variable
            that is not set.
    """
    if not choice.bars_file:
        return choice.model_copy(update={"bars_file": None, "file_clock": None})
    try:
        path = Path(os.path.abspath(expand_user_path(choice.bars_file)))
    except ValueError as error:
        raise SourceError(f"bars_file={choice.bars_file!r}: {error}") from error
    keeps_venue = choice.file_clock is None and _is_exchange(service.venue)
    chosen_clock = None if keeps_venue else choice.file_clock or clock
    return choice.model_copy(update={"bars_file": str(path), "file_clock": chosen_clock})


def _is_exchange(venue: str) -> bool:
    from mlops.data.sources.exchange import is_exchange

    return venue not in LOCAL_VENUES and is_exchange(venue)
