"""A venue that answers by windows gives all its bars, however it was listed, paused or broken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops.data.bars import Bars
from mlops.data.cache import BarCache
from mlops.data.segments import Head
from mlops.data.sources.exchange import ExchangeSource
from mlops.errors import BarsError, SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.exchange_replay import HOUR_MS, Fault, klines
from tests.mlops.data.window_replay import WindowReplay, serving_windows

HOUR = Timeframe("1h")
LISTED = datetime(2024, 1, 1, tzinfo=UTC)
PAGE = 1440
"""Hours that one request covers."""

ZERO = ["0"] * 5


class Market:
    """NEW/EUR on a venue of windows, and a cache for it."""

    def __init__(self, root: Path, replay: WindowReplay):
        self.cache, self.replay = BarCache(root), replay
        self.source = ExchangeSource(
            "bitvavo", base_url=replay.url, clock=lambda: replay.now, sleep=lambda _: None
        )

    def load(self, start: datetime | None = None) -> Bars:
        self.replay.klines.clear()
        now = self.replay.now
        return self.cache.load(self.source, "NEW/EUR", HOUR, now=now, start=start)

    def head(self) -> Head:
        return self.cache.series("bitvavo", "NEW/EUR", HOUR).head()

    def list_hours(self, bars: int) -> None:
        """Have so many bars since the listing; the newest one has just closed."""
        frame = make_bars(bars).round(6)
        self.replay.bars["NEW-EUR"] = klines(frame)
        self.replay.now = (frame.index[-1] + pd.Timedelta(hours=1, minutes=1)).to_pydatetime()

    def break_hour(self, number: int, cells: list[Any]) -> datetime:
        opened = LISTED + timedelta(hours=number)
        self.replay.broken[int(opened.timestamp() * 1000)] = cells
        return opened


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with serving_windows(WindowReplay(bars={"NEW-EUR": []}, now=LISTED)) as replay:
        yield Market(tmp_path, replay)


def test_a_coin_younger_than_the_default_start_gives_all_its_bars(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    market.list_hours(4_320)
    with caplog.at_level(logging.INFO, logger="mlops"):
        first, second = market.load(), market.load()

    assert len(first.frame) == len(second.frame) == 4_320
    assert market.replay.klines == []
    assert ["but begin at 2024-01-01" in note for note in second.quality.warnings] == [True]
    told = [line for line in caplog.messages if "bars of NEW/EUR from 2024-01-01" in line]
    assert len(told) == 1


def test_sixty_five_days_without_a_trade_are_a_hole_and_nothing_ends_there(market: Market) -> None:
    """The default start is two years back, so some 12 windows lie before the listing."""
    market.list_hours(4_800)
    del market.replay.bars["NEW-EUR"][1_200 : 1_200 + 65 * 24]

    bars = market.load(LISTED)

    assert len(bars.frame) == 3_240
    assert [(hole.start, hole.bars) for hole in bars.quality.holes] == [
        (LISTED + timedelta(hours=1_200), 65 * 24)
    ]
    market.replay.bars["NEW-EUR"].extend(klines(make_bars(4_810).round(6)[4_800:]))
    market.replay.now += timedelta(hours=10)
    assert len(market.load().frame) == 3_250
    assert len(market.replay.hours_asked()) == 1


def test_a_hole_of_two_years_is_crossed_by_day_bars(market: Market) -> None:
    market.list_hours(20_000)
    del market.replay.bars["NEW-EUR"][100:18_000]

    assert len(market.load(LISTED).frame) == 2_100
    assert len(market.replay.hours_asked()) <= 5


def test_a_market_that_is_halted_is_asked_for_again_up_to_now(market: Market) -> None:
    market.list_hours(100)
    market.replay.now += timedelta(days=130)

    assert len(market.load(LISTED).frame) == 100
    assert market.head().coverage[-1][1] == LISTED + timedelta(hours=100)
    market.replay.bars["NEW-EUR"] = klines(make_bars(200).round(6))
    assert len(market.load(LISTED).frame) == 200


def test_an_interrupted_search_for_the_first_bar_goes_on_where_it_was(market: Market) -> None:
    market.list_hours(20)
    start = LISTED - timedelta(hours=8 * PAGE)
    market.replay.faults = {number: Fault(status=502) for number in range(8, 14)}
    with pytest.raises(SourceError, match="did not send bars of NEW/EUR in 6 tries"):
        market.load(start)
    asked = market.replay.hours_asked()[-1]

    assert len(market.load(start).frame) == 20
    assert market.replay.hours_asked()[0] == asked + PAGE * HOUR_MS > start.timestamp() * 1000
    assert market.head().searched is None
    assert market.head().coverage == ((start, LISTED + timedelta(hours=20)),)


def test_a_search_that_found_nothing_begins_anew(market: Market) -> None:
    """A venue that was ill may have the bars now."""
    start = LISTED - timedelta(hours=3 * PAGE)
    with pytest.raises(BarsError, match="no 1h bars of NEW/EUR"):
        market.load(start)

    market.replay.bars["NEW-EUR"] = klines(make_bars(20, start=LISTED - timedelta(days=9)).round(6))
    assert len(market.load(start).frame) == 20


@pytest.mark.parametrize(
    "cells",
    [ZERO, ["", "", "", "", ""], [None] * 5, ["100", "101", "99", "100", None], ["-1"] * 5],
    ids=["zero", "empty", "null", "no volume", "negative"],
)
def test_a_broken_candle_is_counted_and_told_once(
    market: Market, caplog: pytest.LogCaptureFixture, cells: list[Any]
) -> None:
    market.list_hours(960)
    opened = market.break_hour(500, cells)

    for _ in range(2):
        bars = market.load(LISTED)
        market.replay.now += timedelta(hours=1)

    assert len(bars.frame) == 959
    assert bars.quality.dropped == {"invalid": 1}
    (told,) = [line for line in caplog.messages if "invalid" in line]
    assert f"{opened:%Y-%m-%d %H:%M} UTC" in told
    assert "bitvavo sent 1 invalid 1h candle(s) of NEW/EUR" in told


def test_a_broken_newest_candle_is_told_once_and_taken_once_it_is_repaired(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    market.list_hours(100)
    market.break_hour(99, ZERO)
    for _ in range(3):
        bars = market.load(LISTED)
    assert (len(bars.frame), bars.quality.dropped) == (99, {"invalid": 1})
    assert len([line for line in caplog.messages if "invalid" in line]) == 1

    market.replay.broken.clear()

    bars = market.load(LISTED)
    assert (len(bars.frame), bars.quality.dropped) == (100, {})
    assert bars.quality.warnings == ()


@pytest.mark.parametrize("broken", [1, 3, 10])
def test_bars_go_on_behind_broken_candles(market: Market, broken: int) -> None:
    market.list_hours(100 + broken)
    for number in range(100, 100 + broken):
        market.break_hour(number, ZERO)
    market.load(LISTED)

    market.list_hours(101 + broken)

    bars = market.load(LISTED)
    assert (len(bars.frame), bars.quality.dropped) == (101, {"invalid": broken})
    assert bars.frame.index[-1] == LISTED + timedelta(hours=100 + broken)


def test_an_outage_longer_than_a_page_becomes_a_hole(market: Market) -> None:
    market.list_hours(3 * PAGE)
    for number in range(PAGE - 20, 2 * PAGE + 20):
        market.break_hour(number, ZERO)

    bars = market.load(LISTED)

    assert (len(bars.frame), bars.quality.dropped) == (2 * PAGE - 40, {"invalid": PAGE + 40})


def test_a_stored_bar_outlives_a_broken_candle_that_is_sent_for_it_later(market: Market) -> None:
    market.list_hours(100)
    before = market.load(LISTED)
    market.break_hour(99, ZERO)
    market.list_hours(101)

    bars = market.load(LISTED)

    assert (len(bars.frame), bars.quality.dropped) == (101, {})
    pd.testing.assert_frame_equal(bars.frame[:100], before.frame)


def test_bars_that_close_while_a_long_fetch_goes_on_come_with_the_next_one(market: Market) -> None:
    market.list_hours(2_900)
    market.replay.now -= timedelta(hours=20)
    market.replay.passes = timedelta(hours=2)

    bars = market.load(LISTED)

    assert (len(bars.frame), bars.quality.dropped) == (2_880, {})
    market.replay.passes = timedelta(hours=20)
    market.load(LISTED)
    assert len(market.load(LISTED).frame) == 2_900


@pytest.mark.parametrize("minutes", [1, 30])
def test_a_candle_at_a_wrong_time_blocks_nothing(market: Market, minutes: int) -> None:
    market.list_hours(200)
    wrong = LISTED + timedelta(hours=150, minutes=minutes)
    market.replay.broken[int(wrong.timestamp() * 1000)] = ["100", "101", "99", "100", "10"]

    bars = market.load(LISTED)

    assert (len(bars.frame), bars.quality.dropped) == (200, {"invalid": 1})
