"""Walks through a venue's history, request by request.

Two kinds of venues answer a request for bars from an open on: with the next bars, wherever they
are, or with the bars of a window that begins there. The second kind answers with nothing before a
coin was listed and wherever nobody traded. So an empty answer never ends a walk, only its end does.
All times are opens in milliseconds since 1970.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pandas as pd

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
MANY_WINDOWS = 10
"""With more empty windows to come, the venue's day bars are asked for where the next bar is."""

PROGRESS_S = 5.0
"""Seconds between two log lines on a walk."""

Row = list[float]


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows that a request brought, oldest first, and the open before which all were asked for.

    Rows that the venue stamps with a future open are among them, last.
    """

    rows: list[Row]
    asked_to: int


@dataclass(slots=True)
class Progress:
    """Logs every few seconds how far a walk has come."""

    _told_s: float = field(default_factory=time.monotonic)
    _has_bars: bool = False

    def tell(self, walk: Walk, at: int, *, has_bars: bool) -> None:
        """Log the open that a walk has come to, unless it did so shortly before."""
        self._has_bars |= has_bars
        if time.monotonic() - self._told_s < PROGRESS_S:
            return
        self._told_s = time.monotonic()
        first, now_at, last = (format_open(stamp) for stamp in (walk.since, at, walk.bound))
        nothing = "" if self._has_bars else ", no bar yet"
        log.info("asking for %s: %s of %s..%s%s", walk.what, now_at, first, last, nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One walk over the opens of ``[since, bound)``.

    Args:
        what: Names the bars in log lines.
        ask: Sends one request for bars from an open on.
        find_day: The first open at or after one that has a day bar, as far as it can tell;
            not called where ``window`` leaves few requests.
        bound: Opens from here on are not asked for, or their bars are not closed.
        latest: Opens after this lie in the future.
        step: The length of a bar.
        window: So much is covered by an answer without bars.
    """

    what: str
    ask: Callable[[int], list[Row]]
    find_day: Callable[[int], int]
    since: int
    bound: int
    latest: int
    step: int
    window: int
    _progress: Progress = field(default_factory=Progress)

    def answers(self) -> Iterator[Answer]:
        """The answers in the order of time; each one moves on by a bar at least."""
        since = self.since
        looks_for_days = True
        while since < self.bound:
            rows = sorted((r for r in self.ask(since) if r[0] >= since), key=lambda row: row[0])
            future = [row for row in rows if row[0] > self.latest]
            near = self._until_hole(rows[: len(rows) - len(future)])
            bars = [row for row in near if row[0] < self.bound]
            reached_end = len(bars) < len(near)
            if bars:
                since = int(bars[-1][0]) + self.step
            else:
                since = self.bound if reached_end else since + self.window
                if looks_for_days and self.bound - since > MANY_WINDOWS * self.window:
                    day = self.find_day(since)
                    looks_for_days = day > since
                    since = max(day, since)
            yield Answer([*bars, *future], min(since, self.bound))
            if reached_end or since >= self.bound:
                return
            self._progress.tell(self, since, has_bars=bool(bars))

    def _until_hole(self, rows: list[Row]) -> list[Row]:
        """The rows before a hole of more than a window; they are all where there is none.

        A row with a wrong stamp may lie behind it. The next request begins in the hole, and
        brings what is really there.
        """
        for before, (row, after) in enumerate(pairwise(rows), start=1):
            if after[0] - row[0] > self.window:
                return rows[:before]
        return rows


def find_first_day(
    ask: Callable[[int], list[Row]], *, since: int, until: int, window: int
) -> int | None:
    """The first open at or after ``since`` that lies in a day with a bar; ``until`` without one.

    Args:
        ask: Sends one request for day bars from an open on.
        until: Days from here on are not asked for.
        window: So much is covered by an answer without day bars.

    Returns:
        None where the answers are no bars of UTC days.
    """
    day = since // DAY_MS * DAY_MS
    while day < until:
        stamps = [int(row[0]) for row in ask(day) if row[0] >= day]
        if any(stamp % DAY_MS for stamp in stamps):
            return None
        if stamps:
            return max(since, min(*stamps, until))
        day += window
    return max(since, until)


def format_open(stamp: int) -> str:
    """An open as a day and a time in UTC."""
    return f"{pd.Timestamp(stamp, unit='ms', tz='UTC'):%Y-%m-%d %H:%M}"
