"""The protocols that sources of bars implement."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

import pandas as pd

from mlops.service import Timeframe

MOST_AHEAD = timedelta(days=1)
"""A bar may open so long after the time at which its fetch began, or by a clock that is ahead; one
that opens later is stamped wrong."""


class BarSource(Protocol):
    """A source of bars: an exchange, a file, the samples or the simulator."""

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
        """Raw bars opened in ``[start, end)``; the caller validates them.

        Raises:
            SourceError: when the source cannot be read or has no such bars.
        """
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Raw bars, possibly none, and the open before which the venue was asked for all bars."""

    frame: pd.DataFrame
    asked_to: pd.Timestamp


@runtime_checkable
class PagedSource(Protocol):
    """A remote source that is read in pages; the bar cache stores each page as it arrives."""

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
        """The start of history where the caller names none."""
        ...

    def now(self, symbol: str, timeframe: Timeframe) -> datetime:
        """The venue's time (UTC), which decides which bars are complete."""
        ...

    def check(self, symbol: str, timeframe: Timeframe) -> None:
        """Raise `SourceError` where the venue has no such symbol or timeframe."""
        ...

    def pages(
        self, symbol: str, timeframe: Timeframe, *, start: datetime, end: datetime
    ) -> Iterator[Page]:
        """Pages, oldest first, of bars that opened at ``start`` or later and closed by ``end``.

        A page may hold rows that are no bars, such as rows with a future open.
        """
        ...


@runtime_checkable
class LabelledSource(Protocol):
    """A source that labels its bars."""

    def label(self, symbol: str) -> str:
        """The text shown beside results that were made from these bars."""
        ...


def label_of(source: BarSource, symbol: str) -> str:
    """The source's own label, else symbol and venue."""
    return (
        source.label(symbol)
        if isinstance(source, LabelledSource)
        else f"{symbol} on {source.venue}"
    )


def cut_to_period(raw: pd.DataFrame, start: datetime | None, end: datetime | None) -> pd.DataFrame:
    """Rows of a UTC-indexed frame in ``[start, end)``."""
    for bound, is_inside in ((start, operator.ge), (end, operator.lt)):
        if bound is not None and not (inside := is_inside(raw.index, bound)).all():
            raw = raw[inside]
    return raw
