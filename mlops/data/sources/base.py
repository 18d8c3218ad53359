"""The protocols every source of bars keeps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol, runtime_checkable

import pandas as pd

from mlops.service import Timeframe


class BarSource(Protocol):
    """Somewhere bars come from."""

    @property
    def venue(self) -> str: ...

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        """Raw bars opened in ``[start, end)``; `mlops.data.bars.validate_bars` judges them.

        Raises:
            SourceError: when the source cannot be read or has no such bars.
        """
        ...


@runtime_checkable
class PagedSource(Protocol):
    """A remote source, read in pages that are worth keeping as they come; these are cached."""

    @property
    def venue(self) -> str: ...

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame: ...

    def default_start(self, timeframe: Timeframe, end: datetime) -> datetime:
        """Where history begins when the caller names no start."""
        ...

    def check(self, symbol: str, timeframe: Timeframe) -> None:
        """Raise `SourceError` where the venue has no such symbol or timeframe."""
        ...

    def pages(
        self, symbol: str, timeframe: Timeframe, *, start: datetime, end: datetime
    ) -> Iterator[pd.DataFrame]:
        """Raw bars, oldest first, that opened at ``start`` or later and closed by ``end``."""
        ...


@runtime_checkable
class LabelledSource(Protocol):
    """A source that says in words what its bars are."""

    def label(self, symbol: str) -> str: ...


def label_of(source: BarSource, symbol: str) -> str:
    """What people read beside results made from these bars."""
    return (
        source.label(symbol)
        if isinstance(source, LabelledSource)
        else f"{symbol} on {source.venue}"
    )


def cut_to_period(raw: pd.DataFrame, start: datetime | None, end: datetime | None) -> pd.DataFrame:
    """Rows of a UTC-indexed frame in ``[start, end)``."""
    if start is not None:
        raw = raw[raw.index >= start]
    if end is not None:
        raw = raw[raw.index < end]
    return raw
