"""Coarser bars are found where they share no stamp with a finer one; bars as they are pass."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import validate_bars
from mlops.data.calendar import load_calendar
from mlops.data.coarse_rows import Series, find_coarse_rows, refuse_coarse_rows
from mlops.data.simulator import simulate_bars
from mlops.data.sources.samples import SampleSource
from mlops.errors import BarsError
from mlops.service import Timeframe

HOUR = Timeframe("1h")
YEAR = simulate_bars(24 * 365, seed=3)
JOIN = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def coarser(frame: pd.DataFrame, rule: str) -> pd.DataFrame:
    return frame.resample(rule, label="left", closed="left").agg(JOIN).dropna()[1:-1]


def found_in(frame: pd.DataFrame, timeframe: Timeframe = HOUR) -> dict[int, int]:
    return find_coarse_rows(Series.of(frame, timeframe))


def put_in_place(frame: pd.DataFrame, bars: pd.DataFrame) -> pd.DataFrame:
    """The frame after its rows with the stamps of other bars were dropped."""
    joined = pd.concat([frame, bars])
    return joined[~joined.index.duplicated(keep="last")].sort_index()


@pytest.mark.parametrize("rule", ["2h", "4h", "12h", "1D", "W-MON", "MS"])
def test_coarser_bars_that_replaced_the_finer_ones_are_refused(rule):
    mixed = put_in_place(YEAR, coarser(YEAR, rule))

    with pytest.raises(BarsError, match="these are bars of two timeframes; keep the 1h bars alone"):
        validate_bars(
            mixed,
            timeframe=HOUR,
            calendar=load_calendar("24/7"),
            now=datetime(2022, 1, 1, tzinfo=UTC),
        )


def test_the_first_such_bar_is_named_with_the_bars_it_spans():
    days = coarser(YEAR, "1D").iloc[40:50]

    with pytest.raises(BarsError) as caught:
        refuse_coarse_rows(put_in_place(YEAR, days), HOUR)

    assert f"the bar of {days.index[0]:%Y-%m-%d} 00:00 holds the prices of 23 bars" in str(
        caught.value
    )
    assert re.search(r", as \d more do theirs: ", str(caught.value))


def some_of(bars: pd.DataFrame, count: int) -> pd.DataFrame:
    return bars.iloc[np.random.default_rng(count).choice(len(bars), count, replace=False)]


@pytest.mark.parametrize(
    ("rule", "count"),
    [("2h", 30), ("2h", 600), ("4h", 20), ("4h", 700), ("12h", 12), ("12h", 240), ("1D", 8)],
)
@pytest.mark.parametrize("symbol", ["BTC/USD", "ETH/USD", "EUR/USD"])
def test_some_coarser_bars_in_the_place_of_hours_are_found(symbol, rule, count):
    hours = SampleSource().fetch(symbol, HOUR)[1000:4000]
    bars = coarser(hours, rule)
    bars = bars[bars.index.isin(hours.index)]

    assert found_in(put_in_place(hours, some_of(bars, min(count, len(bars)))))


@pytest.mark.parametrize("count", [10, 300])
def test_day_bars_in_the_place_of_the_last_hour_of_a_session_are_found(count):
    hours = sessions(YEAR)
    days = coarser(hours, "1D")
    days.index += pd.Timedelta(hours=20)

    assert found_in(put_in_place(hours, some_of(days, count)))


@pytest.mark.parametrize("rule", ["2h", "4h", "12h"])
def test_bars_stamped_at_their_end_in_the_place_of_hours_are_found(rule):
    bars = YEAR.resample(rule, label="right", closed="left").agg(JOIN)[1:-1]

    assert found_in(put_in_place(YEAR, some_of(bars, 20)))


def sessions(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame.index.hour >= 14) & (frame.index.hour < 21)]


@pytest.mark.parametrize("count", [1, 5, 300])
def test_day_bars_in_closed_hours_are_found(count):
    hours = sessions(YEAR)
    days = coarser(hours, "1D")
    chosen = days.iloc[np.random.default_rng(count).choice(len(days), count, replace=False)]

    found = found_in(pd.concat([hours, chosen]).sort_index())

    assert set(found.values()) == {7}
    assert len(found) >= min(count, 100)


@pytest.mark.parametrize("symbol", ["BTC/USD", "ETH/USD", "EUR/USD"])
@pytest.mark.parametrize("timeframe", ["1h", "2h", "4h", "1d"])
def test_bars_of_markets_are_none(symbol, timeframe):
    hours = SampleSource().fetch(symbol, HOUR)
    rule = timeframe.replace("d", "D")
    frame = hours if rule == "1h" else hours.resample(rule).agg(JOIN).dropna()
    there = np.random.default_rng(4).random(len(frame)) > 0.2

    assert found_in(frame, Timeframe(timeframe)) == {}
    assert found_in(frame[there], Timeframe(timeframe)) == {}


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_prices_that_agree_by_chance_tell_nothing(digits):
    prices = ["open", "high", "low", "close"]
    rounded = YEAR.assign(
        **{name: YEAR[name].map(f"{{:.{digits}g}}".format).astype(float) for name in prices}
    )
    there = np.random.default_rng(4).random(len(YEAR)) > 0.3

    assert found_in(rounded[there]) == {}


def by_ticks(count: int, tick: float, seed: int) -> pd.DataFrame:
    """Minutes of a rate whose bid jumps by a tick, so that bars seldom close at the next open."""
    rng = np.random.default_rng(seed)
    path = np.exp(np.cumsum(rng.normal(0, 1.3e-5, 20 * count)))
    jumps = rng.integers(-1, 2, len(path)) * (rng.random(len(path)) < 0.3)
    ticks = ((np.round(path / tick) + jumps) * tick).reshape(count, 20)
    columns = (ticks[:, 0], ticks.max(axis=1), ticks.min(axis=1), ticks[:, -1])
    stamps = pd.date_range("2023-01-01", periods=count, freq="min", tz="UTC")
    return pd.DataFrame(dict(zip(JOIN, columns, strict=False)), index=stamps).assign(volume=1.0)


@pytest.mark.parametrize("tick", [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("seed", range(4))
def test_minutes_on_a_grid_of_ticks_are_none_unless_coarser_bars_are_among_them(tick, seed):
    minutes = by_ticks(3000, tick, seed)
    there = np.random.default_rng(seed).random(len(minutes)) > 0.02

    assert found_in(minutes, Timeframe("1m")) == {}
    assert found_in(minutes[there], Timeframe("1m")) == {}
    if tick == 1e-5:
        mixed = put_in_place(minutes, coarser(minutes, "2min"))
        assert len(found_in(mixed, Timeframe("1m"))) > 1000


def test_the_work_is_bounded_where_all_prices_agree():
    count = 300_000
    close = 1 + 1e-4 * np.random.default_rng(1).integers(-1, 2, count)
    opened = np.append(1.0, close[:-1])
    prices = (opened, np.maximum(opened, close), np.minimum(opened, close), close)
    stamps = pd.date_range("2023-01-01", periods=count, freq="min", tz="UTC")
    frame = pd.DataFrame(dict(zip(JOIN, prices, strict=False)), index=stamps)
    there = np.random.default_rng(2).random(count) > 1e-3

    assert found_in(frame[there], Timeframe("1m")) == {}


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_bars_are_none(count):
    assert found_in(YEAR[:count]) == {}
