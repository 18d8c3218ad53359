"""Oddities are flagged; nothing is repaired or deleted."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import COLUMNS
from mlops.data.calendar import load_calendar
from mlops.data.quality import flag_oddities
from mlops.data.sources.samples import SampleSource
from mlops.service import Timeframe
from tests.mlops.data.conftest import START, make_bars

PRICES = list(COLUMNS[:4])
AT = START + timedelta(hours=300)


def flags(frame: pd.DataFrame):
    return flag_oddities(frame, Timeframe("1h"), load_calendar("24/7"))


def stepped(factor: float, volume_factor: float = 1.0, *, split: bool = False) -> pd.DataFrame:
    """All prices from bar 300 on multiplied; a split divides the volume by the same factor."""
    frame = make_bars(600)
    frame.loc[AT:, PRICES] *= factor
    frame.loc[AT:, "volume"] /= factor if split else 1.0
    frame.loc[AT, "volume"] *= volume_factor
    return frame


@pytest.mark.parametrize("factor", [0.5, 0.52, 0.1, 2.0, 10.0])
def test_a_split_is_flagged(factor):
    assert flags(stepped(factor, split=True)).suspected_splits == (AT,)


def test_a_step_of_minus_48_percent_on_ordinary_volume_is_flagged():
    assert flags(stepped(0.52)).suspected_splits == (AT,)


def test_a_step_inside_a_bar_is_flagged_too():
    frame = stepped(0.52)
    before = frame["close"].iloc[299]
    frame.loc[AT, ["open", "high"]] = before

    assert flags(frame).suspected_splits == (AT,)


@pytest.mark.parametrize("volume_factor", [20.0, 25.0, 30.0])
def test_a_crash_on_many_times_the_volume_is_not_a_split(volume_factor):
    assert flags(stepped(0.52, volume_factor)).suspected_splits == ()


def test_a_rise_of_70_percent_in_an_hour_on_its_volume_is_no_oddity():
    frame = stepped(1.7, 15.0)
    frame.loc[AT, ["open", "low"]] = frame["close"].iloc[299]

    seen = flags(frame)
    assert (seen.suspected_splits, seen.bad_prints) == ((), ())


@pytest.mark.parametrize(
    ("column", "factor"), [("high", 1.4), ("low", 0.6), ("high", 100.0), ("low", 0.01)]
)
def test_one_bad_print_is_flagged_and_is_no_split(column, factor):
    frame = make_bars(600)
    frame.loc[AT, column] *= factor

    seen = flags(frame)
    assert (seen.bad_prints, seen.suspected_splits) == ((AT,), ())


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_whole_bar_off_by_a_decimal_is_a_bad_print_and_no_split(factor):
    frame = make_bars(600)
    frame.loc[AT, PRICES] *= factor

    seen = flags(frame)
    assert (seen.bad_prints, seen.suspected_splits) == ((AT,), ())


def test_flat_bars_without_volume_are_counted_and_harmless():
    frame = make_bars(50)
    frame.iloc[10:15, :4] = frame["close"].iloc[9]
    frame["volume"] = 0.0

    seen = flags(frame)
    assert seen.flat_bars == 5
    assert (seen.suspected_splits, seen.bad_prints) == ((), ())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_bars_are_assessed_too(n):
    assert flags(make_bars(n)).bad_prints == ()


@pytest.mark.parametrize("symbol", ["BTC/USD", "ETH/USD", "EUR/USD"])
def test_two_years_of_real_bars_raise_no_false_alarm(symbol):
    seen = flags(SampleSource().fetch(symbol, Timeframe("1h")))

    assert (seen.suspected_splits, seen.bad_prints) == ((), ())


def test_a_hole_is_reported_from_its_start_to_its_end():
    frame = make_bars(100)

    (hole,) = flags(frame.drop(frame.index[[50, 51]])).holes
    assert (hole.start, hole.end, hole.bars) == (frame.index[50], frame.index[52], 2)
    assert np.isclose(flags(frame.drop(frame.index[[50, 51]])).completeness, 0.98)
