"""Market time: the wall clock, the end of a file, or a replay of the last bars there are.

The replay is a function of the wall clock alone, so that all replicas agree, after a restart
too: it repeats the last `REPLAY_BARS` bars at one bar in `REPLAY_BAR_S` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mlops.data.market import Market
from mlops.settings import FileClock

REPLAY_BARS = 720
"""Bars of a market that never closes; 30 days of hours."""

REPLAY_BAR_S = 60.0
"""Wall-clock seconds for one bar of a replay."""

Clock = Callable[[Market, datetime], datetime]
"""Gives the market time for a market and for the close of the last bar that is there."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


def market_clock(market: Market, last_close: datetime) -> datetime:
    """`market_now` by this machine's wall clock."""
    return market_now(market, last_close, wall_clock())


def market_now(market: Market, last_close: datetime, wall: datetime) -> datetime:
    """Market time of a service: bars closed by then are known.

    Args:
        last_close: The close of the last bar that is there, at which a replay ends.
        wall: The time of the wall clock (UTC).
    """
    if market.clock is FileClock.END:
        return last_close
    if market.clock is FileClock.WALL:
        # Only complete bars are stored, so a last bar that is yet to close, by this machine's
        # clock, says that this clock is behind.
        return max(wall, last_close)
    span_s = (REPLAY_BARS * market.timeframe.step).total_seconds()
    elapsed_s = wall.timestamp() * market_speed(market) % span_s
    return last_close - timedelta(seconds=span_s - elapsed_s)


def market_speed(market: Market) -> float:
    """Market seconds for each second of the wall clock; 0 where market time stands still."""
    if market.clock is FileClock.REPLAY:
        return market.timeframe.step.total_seconds() / REPLAY_BAR_S
    return 1.0 if market.clock is FileClock.WALL else 0.0


def wall_seconds(market: Market, span: timedelta) -> float:
    """Seconds of the wall clock for a span of market time; infinite where that stands still."""
    speed = market_speed(market)
    return span.total_seconds() / speed if speed else math.inf
