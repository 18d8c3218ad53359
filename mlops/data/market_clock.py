"""Market time for a replica: the wall clock, or for the embedded sample a labelled replay.

The replay is a function of the wall clock alone, so that all replicas and every restart agree:
the last days of the sample go by, one bar in `REPLAY_BAR_S` seconds, again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mlops.data.sources.samples import SAMPLE_VENUE

REPLAY_DAYS = 30
REPLAY_BAR_S = 60.0
"""Wall seconds in which an hour of the sample goes by."""

_HOUR = timedelta(hours=1)


Clock = Callable[[str, datetime], datetime]
"""Market time by the venue and by the close of the last bar that anybody will see of it."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


def market_clock(venue: str, last_close: datetime) -> datetime:
    """Market time in earnest; see `market_now`."""
    return market_now(venue, last_close, wall_clock)


def market_now(venue: str, last_close: datetime, wall: Callable[[], datetime]) -> datetime:
    """The time at which bars of a venue are looked at; ``last_close`` is that of its last bar."""
    now = wall()
    if venue != SAMPLE_VENUE:
        return now
    span = timedelta(days=REPLAY_DAYS)
    gone = timedelta(
        seconds=now.timestamp() * _HOUR.total_seconds() / REPLAY_BAR_S % (span.total_seconds())
    )
    return last_close - span + gone


def market_speed(venue: str) -> float:
    """Market seconds that go by in a second of the wall clock."""
    return _HOUR.total_seconds() / REPLAY_BAR_S if venue == SAMPLE_VENUE else 1.0
