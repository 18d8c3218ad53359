"""Market time of a replica: the wall clock, or a replay of the embedded sample.

The replay is a function of the wall clock alone, so that all replicas agree, after a restart
too: it repeats the last `REPLAY_DAYS` days of the sample at one bar in `REPLAY_BAR_S` seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

REPLAY_DAYS = 30
REPLAY_BAR_S = 60.0
"""Wall-clock seconds for an hour of the sample."""

SAMPLE_VENUE = "sample"
"""The venue of the embedded samples, whose time is replayed."""

_HOUR = timedelta(hours=1)


Clock = Callable[[str, datetime], datetime]
"""Gives the market time for a venue and for the close of the last bar that it will ever have."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


def market_clock(venue: str, last_close: datetime) -> datetime:
    """`market_now` by this machine's wall clock."""
    return market_now(venue, last_close, wall_clock)


def market_now(venue: str, last_close: datetime, wall: Callable[[], datetime]) -> datetime:
    """Market time of a venue: bars closed by then are known.

    Args:
        last_close: The close of the venue's last bar, at which a replay ends.
        wall: Gives the time of the wall clock (UTC).
    """
    now = wall()
    if venue != SAMPLE_VENUE:
        # Only complete bars are stored, so a last bar that is yet to close, by this machine's
        # clock, says that this clock is behind.
        return max(now, last_close)
    span = timedelta(days=REPLAY_DAYS)
    elapsed = timedelta(
        seconds=now.timestamp() * _HOUR.total_seconds() / REPLAY_BAR_S % (span.total_seconds())
    )
    return last_close - span + elapsed


def market_speed(venue: str) -> float:
    """Market seconds for each second of the wall clock."""
    return _HOUR.total_seconds() / REPLAY_BAR_S if venue == SAMPLE_VENUE else 1.0
