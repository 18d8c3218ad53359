"""The market of each service, as it was set by the training that began the service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from mlops.data.calendar import Calendar
from mlops.data.file_options import BarsChoice
from mlops.data.load import resolve_choice
from mlops.data.market import Market
from mlops.errors import DataError
from mlops.registry.bar_files import identify_file, keep_file, read_kept_bars
from mlops.registry.registration import CommitHook
from mlops.service import Service
from mlops.settings import FileClock
from mlops.store import ModelVersion, Store, Why, get_route, get_version
from mlops.store.engine import Connection
from mlops.store.markets import (
    BarFile,
    MarketRow,
    get_market,
    list_markets,
    set_market,
)

log = logging.getLogger(__name__)


def read_market(store: Store, service: Service) -> Market:
    """The market of a service: what was set for it, else its venue's own."""
    row = get_market(store, service.key)
    return _market_of(service, row)


def choose_bars(
    store: Store, service: Service, asked: BarsChoice, *, clock: FileClock
) -> BarsChoice:
    """The bars of a training: those asked for, else those that the service has.

    What is left out of the choice, or equals its default, is that of the service where the file is
    the same: callers such as a form send every default.

    Args:
        clock: The clock of a file for which none is chosen.

    Raises:
        SourceError: when the path of the file names nobody's home or a variable that is not set.
    """
    resolved = resolve_choice(asked.choice, service, clock)
    row = get_market(store, service.key)
    if row is None or row.file is None or asked.bars_file == "":
        return resolved
    known = BarsChoice.read(row.choice)
    if resolved.bars_file not in (None, known.bars_file):
        return resolved
    chosen = asked.choice.model_dump(exclude_defaults=True, exclude={"bars_file"})
    return known.model_copy(update=chosen)


def note_calendar(asked: BarsChoice, calendar: Calendar) -> BarsChoice:
    """The choice with the calendar that was recognised, so that all processes use the same."""
    choice = asked.choice
    if choice.bars_file is None:
        return choice
    return choice.model_copy(update={"calendar": calendar.name})


def keep_chosen_file(store: Store, service: Service, choice: BarsChoice, cache_root: Path) -> bool:
    """Keep the bars of the file that feeds a service; False where they are kept, or there is none.

    Raises:
        DataError: when the file cannot be read, or its bars break the contract or do not go on
            from those that are kept.
    """
    from_file = Market.of(service, choice).from_file
    return from_file and keep_file(store, service, choice, cache_root=cache_root)


def note_market(service: Service, choice: BarsChoice) -> dict[str, Any] | None:
    """The market of a service as its versions note it; None where its venue's own counts."""
    if not Market.of(service, choice).from_file:
        return None
    noted = choice.model_dump(mode="json", exclude_defaults=True)
    return {"choice": noted, "file": identify_file(service, choice)}


def set_market_of(service: Service, choice: BarsChoice, why: Why) -> CommitHook:
    """Sets the market of a service in the transaction that begins it.

    From then on the market follows the champion, see `mlops.store.markets.follow_champion`.
    """

    def set_it(connection: Connection, version: ModelVersion) -> None:
        noted = note_market(service, choice)
        if noted is not None:
            set_market(connection, service.key, **noted, why=why)

    return set_it


def refresh_files(store: Store, *, cache_root: Path) -> None:
    """Read the files of all services again that are here and have changed.

    A file that cannot be read leaves the bars that were read before, and a line in the log.
    """
    for row, _ in list_markets(store):
        choice = BarsChoice.read(row.choice)
        try:
            keep_chosen_file(store, Service.parse(row.service), choice, cache_root)
        except DataError as error:
            log.warning(
                "service=%s its file is not read again: %s",
                row.service, error, extra={"service": row.service},
            )  # fmt: skip


def adopt_noted_file(store: Store, service: Service, *, cache_root: Path) -> bool:
    """Set the market of a service that an earlier release began on a file.

    Its champion's notes name the file. Returns False where they do not, or the file is not here.

    Raises:
        StoreError: when the store is away.
        DataError: when the file cannot be read.
    """
    route = get_route(store, service.key)
    if route is None or get_market(store, service.key) is not None:
        return False
    version = get_version(store, route.champion)
    noted = BarsChoice.read(version.notes.get("config") or {})
    choice = resolve_choice(noted, service, FileClock.WALL)
    if choice.bars_file is None or not Path(choice.bars_file).exists():
        return False
    keep_chosen_file(store, service, choice, cache_root)
    why = Why(datetime.now(UTC), reason="its champion was trained on this file")
    with store.write() as connection:
        set_market_of(service, choice, why)(connection, version)
    return True


def _market_of(service: Service, row: MarketRow | None) -> Market:
    return Market.of(service, None if row is None else BarsChoice.read(row.choice))


class MarketBook:
    """The markets of all services and the bars of their files; thread-safe.

    It is read from the store at its first use and by `refresh`. In between it does not ask, so
    that forecasts go on while the store is away.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._rows: Mapping[str, tuple[MarketRow, BarFile | None]] | None = None

    def refresh(self) -> None:
        """Read the markets again.

        Raises:
            StoreError: when the store is away; what was read before is kept.
        """
        self._rows = {row.service: (row, file) for row, file in list_markets(self.store)}

    def of(self, service: Service) -> Market:
        """The market of a service."""
        row, _ = self._find(service)
        return _market_of(service, row)

    def bars_digest(self, service: Service) -> str | None:
        """Changes with the kept bars of a service's file; None where none are kept."""
        _, file = self._find(service)
        return None if file is None or not file.bars else file.digest

    def read_bars(self, service: Service, newest: int | None) -> pd.DataFrame:
        """The kept bars of a service's file: at least so many of the newest, or all.

        Raises:
            StoreError: when the store is away.
        """
        _, file = self._find(service)
        assert file is not None, f"{service} has no file of bars"
        return read_kept_bars(self.store, file.id, newest)

    def _find(self, service: Service) -> tuple[MarketRow | None, BarFile | None]:
        with self._lock:
            if self._rows is None:
                self.refresh()
            rows = self._rows or {}
        return rows.get(service.key, (None, None))
