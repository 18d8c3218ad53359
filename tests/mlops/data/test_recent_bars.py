"""Replicas see complete bars only, from wherever the market's bars are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from mlops.data.cache import BarCache
from mlops.data.quality import NewestBar
from mlops.data.recent_bars import KEEP_BARS, RecentBars
from mlops.data.segments import Head
from mlops.data.simulator import simulate_bars
from mlops.service import Service, Timeframe

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
        recent = RecentBars(tmp_path, lambda *_, wall=wall: wall).load(service("binance"), {})
        assert recent is not None
        assert recent.frame.index[-1] == last


def test_new_bars_on_disk_are_seen(tmp_path: Path) -> None:
    frame = simulate_bars(50, seed=1)
    wall = frame.index[-1].to_pydatetime() + HOUR
    bars = RecentBars(tmp_path, lambda *_: wall)
    assert bars.load(service("binance"), {}) is None
    for part in (frame.iloc[:30], frame.iloc[30:]):
        keep(tmp_path, part)
        recent = bars.load(service("binance"), {})
        assert recent is not None
        assert recent.frame.index[-1] == part.index[-1]


def test_find_newest_gives_the_close_of_a_feeds_last_bar(tmp_path: Path) -> None:
    frame = simulate_bars(50, seed=1)
    wall = frame.index[-1].to_pydatetime() + 5 * HOUR
    bars = RecentBars(tmp_path, lambda *_: wall)
    nothing = bars.find_newest(service("binance"), {})
    assert nothing is not None
    assert nothing.closed_at is None
    keep(tmp_path, frame)
    found = bars.find_newest(service("binance"), {})
    assert found == NewestBar(frame.index[-1].to_pydatetime() + HOUR, wall)
    assert bars.find_newest(service("sample"), {}) is None


def test_the_sample_is_read_under_its_label(tmp_path: Path) -> None:
    recent = RecentBars(tmp_path).load(service("sample"), {})
    assert recent is not None
    assert recent.label == "BTC/USD sample, 2017-2019"
    assert len(recent.frame) == KEEP_BARS


def test_a_model_trained_on_a_file_gets_the_bars_of_that_file(tmp_path: Path) -> None:
    path = tmp_path / "bars.parquet"
    frame = simulate_bars(60, seed=2)
    frame.to_parquet(path)
    notes = {"config": {"bars_file": str(path)}}
    recent = RecentBars(tmp_path, lambda *_: datetime(2026, 1, 1, tzinfo=UTC)).load(
        service("file"), notes
    )
    assert recent is not None
    assert recent.frame.index[-1] == frame.index[-1]


@pytest.mark.parametrize("venue", ["file", "simulator", "kraken"])
def test_a_market_without_stored_bars_has_none(tmp_path: Path, venue: str) -> None:
    assert RecentBars(tmp_path).load(service(venue), {}) is None
