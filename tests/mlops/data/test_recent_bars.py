"""Replicas see complete bars only, from wherever the market's bars are kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from mlops.data.bars import content_hash
from mlops.data.cache import BarCache
from mlops.data.calendar import load_calendar
from mlops.data.file_options import BarsChoice
from mlops.data.market import Market
from mlops.data.quality import NewestBar
from mlops.data.recent_bars import KEEP_BARS, RecentBars
from mlops.data.segments import Head
from mlops.data.simulator import simulate_bars
from mlops.service import Service, Timeframe
from mlops.settings import FileClock

HOUR = timedelta(hours=1)


def service(venue: str) -> Service:
    return Service.of(
        venue=venue, symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
    )


def keep(root: Path, frame: pd.DataFrame) -> None:
    series = BarCache(root).series("binance", "BTC/USD", Timeframe("1h"))
    with series.lock(1.0):
        series.append(frame, series.head() if series.folder.exists() else Head())


def test_a_bar_that_has_not_closed_is_not_seen(tmp_path: Path) -> None:
    frame = simulate_bars(50, seed=1)
    keep(tmp_path, frame)
    tenth = frame.index[9].to_pydatetime()
    for minutes, last in ((59, frame.index[8]), (60, frame.index[9])):
        wall = tenth + timedelta(minutes=minutes)
        recent = RecentBars(tmp_path, clock=lambda *_, wall=wall: wall).load(service("binance"))
        assert recent is not None
        assert recent.frame.index[-1] == last


def test_new_bars_on_disk_are_seen(tmp_path: Path) -> None:
    frame = simulate_bars(50, seed=1)
    wall = frame.index[-1].to_pydatetime() + HOUR
    bars = RecentBars(tmp_path, clock=lambda *_: wall)
    assert bars.load(service("binance")) is None
    for part in (frame.iloc[:30], frame.iloc[30:]):
        keep(tmp_path, part)
        recent = bars.load(service("binance"))
        assert recent is not None
        assert recent.frame.index[-1] == part.index[-1]


def test_find_newest_gives_the_close_of_a_feeds_last_bar(tmp_path: Path) -> None:
    frame = simulate_bars(50, seed=1)
    wall = frame.index[-1].to_pydatetime() + 5 * HOUR
    bars = RecentBars(tmp_path, clock=lambda *_: wall)
    nothing = bars.find_newest(service("binance"))
    assert nothing is not None
    assert nothing.closed_at is None
    keep(tmp_path, frame)
    found = bars.find_newest(service("binance"))
    closed = frame.index[-1].to_pydatetime() + HOUR
    assert found == NewestBar(closed, wall, load_calendar("24/7"))
    assert bars.find_newest(service("sample")) is None


def test_the_sample_is_read_under_its_label(tmp_path: Path) -> None:
    recent = RecentBars(tmp_path).load(service("sample"))
    assert recent is not None
    assert recent.label == "BTC/USD sample, 2017-2019"
    assert len(recent.frame) == KEEP_BARS


class KeptFile:
    """A market whose bars come from a file and stand still at its end."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.reads = 0

    def of(self, service: Service) -> Market:
        return Market.of(service, BarsChoice(bars_file="/far/bars.csv", file_clock=FileClock.END))

    def bars_digest(self, service: Service) -> str:
        return content_hash(self.frame)

    def read_bars(self, service: Service, newest: int | None) -> pd.DataFrame:
        self.reads += 1
        return self.frame


def test_the_bars_of_a_file_are_read_again_once_they_change(tmp_path: Path) -> None:
    kept = KeptFile(simulate_bars(60, seed=2))
    bars = RecentBars(tmp_path, kept)
    for count, reads in ((60, 1), (60, 1), (61, 2)):
        kept.frame = simulate_bars(count, seed=2)
        recent = bars.load(service("file"))
        assert recent is not None
        assert recent.frame.index[-1] == kept.frame.index[-1]
        assert recent.now == kept.frame.index[-1] + HOUR
        assert kept.reads == reads
    assert recent.label == "BTC/USD from bars.csv; market time stands at its last bar"


def test_a_clock_that_starts_in_the_past_has_all_the_bars_before_it(tmp_path: Path) -> None:
    frame = simulate_bars(2 * KEEP_BARS + 50, seed=1)
    keep(tmp_path, frame)
    early = frame.index[40].to_pydatetime()
    for held_bars, seen in ((None, 40), (2 * KEEP_BARS, None)):
        bars = RecentBars(tmp_path, clock=lambda *_: early, held_bars=held_bars)
        recent = bars.load(service("binance"))
        assert (None if recent is None else len(recent.frame)) == seen


@pytest.mark.parametrize("venue", ["file", "simulator", "kraken"])
def test_a_market_without_stored_bars_has_none(tmp_path: Path, venue: str) -> None:
    assert RecentBars(tmp_path).load(service(venue)) is None
