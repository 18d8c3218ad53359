"""Market time: the wall clock, the end of a file, or a replay of the last bars there are.

The replay is a function of the wall clock alone, so that all replicas agree, after a restart
too: it repeats the last `REPLAY_BARS` bars at one bar in `REPLAY_BAR_S` seconds; of a shorter
file, its second half, so that there are bars before each to forecast from.
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

Clock = Callable[[Market, datetime, datetime], datetime]
"""Gives the market time of a market; see `market_clock` for its arguments."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


def market_clock(market: Market, first_open: datetime, last_close: datetime) -> datetime:
    """`market_now` by this machine's wall clock."""
    return market_now(market, first_open, last_close, wall_clock())


def market_now(
    market: Market, first_open: datetime, last_close: datetime, wall: datetime
) -> datetime:
    """Market time of a service: bars closed by then are known.

    Args:
        first_open: The open of the first bar that is there. Processes that hold different numbers
            of the newest bars agree if each holds twice `REPLAY_BARS` or all.
        last_close: The close of the last bar that is there, at which a replay ends.
        wall: The time of the wall clock (UTC).
    """
    if market.clock is FileClock.END:
        return last_close
    if market.clock is FileClock.WALL:
        # Only complete bars are stored, so a last bar that is yet to close, by this machine's
        # clock, says that this clock is behind.
        return max(wall, last_close)
    span_s = _replay_span(market, first_open, last_close).total_seconds()
    elapsed_s = wall.timestamp() * market_speed(market) % span_s
    return last_close - timedelta(seconds=span_s - elapsed_s)


def _replay_span(market: Market, first_open: datetime, last_close: datetime) -> timedelta:
    """Market time of one lap of a replay, in whole bars."""
    step = market.timeframe.step
    half = (last_close - first_open) // (2 * step)
    return min(REPLAY_BARS, max(1, half)) * step


def market_speed(market: Market) -> float:
    """Market seconds for each second of the wall clock; 0 where market time stands still."""
    if market.clock is FileClock.REPLAY:
        return market.timeframe.step.total_seconds() / REPLAY_BAR_S
    return 1.0 if market.clock is FileClock.WALL else 0.0


def wall_seconds(market: Market, span: timedelta) -> float:
    """Seconds of the wall clock for a span of market time; infinite where that stands still."""
    speed = market_speed(market)
    return span.total_seconds() / speed if speed else math.inf
