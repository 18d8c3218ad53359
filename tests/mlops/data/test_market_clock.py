"""Market time: that of the day, the end of a file, or a replay that every process agrees on."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from mlops.data.file_options import BarsChoice
from mlops.data.market import Market
from mlops.data.market_clock import (
    REPLAY_BAR_S,
    REPLAY_BARS,
    market_now,
    market_speed,
    wall_seconds,
)
from mlops.service import Service
from mlops.settings import FileClock

LAST = datetime(2019, 10, 1, tzinfo=UTC)
WALL = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST = datetime(2010, 1, 1, tzinfo=UTC)


def market(venue: str, clock: FileClock | None = None, timeframe: str = "1h") -> Market:
    service = Service.of(
        venue=venue, symbol="BTC/USD", timeframe=timeframe, target="volatility", horizon=24
    )
    return Market.of(
        service, BarsChoice(bars_file="/bars.csv", file_clock=clock) if clock else None
    )


REPLAYED = (market("sample"), market("file", FileClock.REPLAY), market("xnys", FileClock.REPLAY))


@pytest.mark.parametrize("at_wall", [market("binance"), market("file", FileClock.WALL)])
def test_an_exchange_and_a_growing_file_have_the_time_of_the_wall_clock(at_wall: Market) -> None:
    assert market_now(at_wall, FIRST, LAST, WALL) == WALL
    assert market_speed(at_wall) == 1.0
    assert at_wall.is_live


def test_a_last_bar_that_is_yet_to_close_says_that_the_clock_is_behind() -> None:
    assert market_now(market("binance"), FIRST, WALL + HOUR, WALL) == WALL + HOUR


def test_at_the_end_of_a_file_market_time_stands_still() -> None:
    at_end = market("file", FileClock.END)
    assert (
        market_now(at_end, FIRST, LAST, WALL)
        == market_now(at_end, FIRST, LAST, WALL + HOUR)
        == LAST
    )
    assert wall_seconds(at_end, HOUR) == math.inf
    assert not at_end.is_live


@pytest.mark.parametrize("replayed", REPLAYED)
@pytest.mark.parametrize("hours", [0, 1, 7, 24, 999])
def test_a_replay_stays_within_the_last_bars(replayed: Market, hours: int) -> None:
    now = market_now(replayed, FIRST, LAST, WALL + hours * HOUR)
    assert LAST - REPLAY_BARS * HOUR <= now < LAST
    assert not replayed.is_live


@pytest.mark.parametrize("days", [2, 7, 500, 1439, 1440, 5000])
def test_a_replay_has_bars_before_each_moment_of_it(days: int) -> None:
    replayed = market("file", FileClock.REPLAY, "1d")
    first = LAST - timedelta(days=days)
    minutes = range(REPLAY_BARS)
    times = [market_now(replayed, first, LAST, WALL + timedelta(minutes=n)) for n in minutes]
    known = [(now - first) // timedelta(days=1) for now in times]
    assert min(known) == days - min(REPLAY_BARS, days // 2)
    assert max(known) == days - 1
    assert len(set(known)) == min(REPLAY_BARS, days // 2)


@pytest.mark.parametrize("timeframe", ["5m", "1h", "1d"])
def test_a_bar_of_a_replay_goes_by_in_a_minute(timeframe: str) -> None:
    replayed = market("file", FileClock.REPLAY, timeframe)
    step = replayed.timeframe.step
    # A wall time at which the replay has just begun.
    lap = REPLAY_BARS * REPLAY_BAR_S
    wall = datetime.fromtimestamp(WALL.timestamp() // lap * lap, UTC)
    start = LAST - REPLAY_BARS * step
    assert market_now(replayed, FIRST, LAST, wall) == start
    assert market_now(replayed, FIRST, LAST, wall + timedelta(seconds=REPLAY_BAR_S)) == start + step
    assert wall_seconds(replayed, step) == REPLAY_BAR_S


def test_a_service_of_an_exchange_that_was_trained_on_a_file_keeps_the_exchanges_bars() -> None:
    service = Service.of(
        venue="binance", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
    )
    assert not Market.of(service, BarsChoice(bars_file="/bars.csv")).from_file
