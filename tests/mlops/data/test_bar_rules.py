"""One set of rules: what training refuses in bars, requests refuse too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data import bar_rules
from mlops.data.bars import COLUMNS
from mlops.data.cleaning import clean_bars
from mlops.errors import BarsError, RequestRefused
from mlops.service import Timeframe
from mlops.serving.protocol.request_bars import batch_windows, frame_window
from tests.mlops.serving.example_requests import SPEC

N = 6
HOUR = Timeframe("1h")
FLAT = [1.0, 1.0, 1.0, 1.0, 1.0]


def frame_of(values: np.ndarray) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(values), freq="1h", tz="UTC", name="open_time")
    return pd.DataFrame(values, index=index, columns=list(COLUMNS))


def refused_in_training(values: np.ndarray) -> str | None:
    try:
        clean_bars(frame_of(values), timeframe=HOUR, now=pd.Timestamp("2025-01-01", tz="UTC"))
    except BarsError as error:
        return str(error)
    return None


def refused_in_a_request(values: np.ndarray) -> str | None:
    try:
        frame_window(values, None, SPEC)
    except RequestRefused as error:
        return str(error)
    return None


def bars_with(row: int, bar: list[float]) -> np.ndarray:
    values = np.array([FLAT] * N)
    values[row] = bar
    return values


@pytest.mark.parametrize(
    ("bar", "training", "request_text"),
    [
        (
            [1e-31] * 4 + [1],
            "column 'open': a price outside 1e-30 to 1e+30 in row 3",
            "row 3, column 'open': 1e-31 is no price of a market; one is 1e-30 to 1e+30",
        ),
        (
            [1e31] * 4 + [1],
            "column 'open': a price outside 1e-30 to 1e+30 in row 3",
            "row 3, column 'open': 1e+31 is no price of a market; one is 1e-30 to 1e+30",
        ),
        (
            [1.0, 1e7, 1e-7, 1.0, 1],
            "column 'high': a high more than 1e+12 times the low in row 3",
            "row 3, column 'high': 10000000.0 is more than 1e+12 times low 1e-07",
        ),
        (
            [1e13] * 4 + [1],
            "'close': a price more than 1e+12 times above or below the close before in rows 3, 4 ",
            "row 3, column 'high': 10000000000000.0 is more than 1e+12 times the close before, 1.0",
        ),
        (
            [1e-13] * 4 + [1],
            "'close': a price more than 1e+12 times above or below the close before in rows 3, 4 ",
            "row 3, column 'low': the close before, 1.0, is more than 1e+12 times low 1e-13",
        ),
        (
            [1, 1, 1, 1, 1e306],
            "column 'volume': a volume above 1e+305 in row 3",
            "row 3, column 'volume': 1e+306 is no volume of a market; it is at most 1e+305",
        ),
    ],
)
def test_what_no_market_trades_is_refused_in_training_and_in_requests(bar, training, request_text):
    values = bars_with(3, bar)

    assert training in str(refused_in_training(values))
    assert str(refused_in_a_request(values)) == request_text


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e12])
def test_cheap_and_dear_assets_are_bars(factor):
    values = bars_with(3, [1, 2, 0.5, 1, 1]) * [*[factor] * 4, 1e300]

    assert refused_in_training(values) is None
    assert refused_in_a_request(values) is None


def test_windows_of_a_batch_may_be_of_very_different_assets():
    batch = np.array([[FLAT] * 5, [[1e-15] * 4 + [1]] * 5, [[1e15] * 4 + [1]] * 5])

    assert len(batch_windows(batch, None, SPEC)) == 3


def test_a_jump_inside_a_later_window_is_named_there():
    batch = np.array([[FLAT] * 5, [FLAT] * 5])
    batch[1, 2, :4] = 1e14

    with pytest.raises(RequestRefused, match="window 1, row 2, column 'high'"):
        batch_windows(batch, None, SPEC)


def test_a_jump_is_found_in_the_order_of_time_not_of_rows():
    frame = frame_of(np.array([[10.0**n] * 4 + [1] for n in (0, 8, 16, 24)]))
    shuffled = frame.iloc[[0, 2, 1, 3]]

    cleaned = clean_bars(shuffled, timeframe=HOUR, now=pd.Timestamp("2025-01-01", tz="UTC"))

    assert len(cleaned.frame) == 4


numbers = st.one_of(
    st.sampled_from([0.0, -1.0, np.nan, np.inf, 5e-324, 1.7e308, 1e-300, 1e300]),
    st.sampled_from([0.9e-30, 1e-30, 1e30, 1.1e30, 1.0, 1 + 1e-10, 1 - 1e-10, 1e12, 1.1e12, 1e-12]),
    st.floats(1e-3, 1e3),
)
bars = st.lists(st.tuples(*[numbers] * 5), min_size=N, max_size=N)


@settings(deadline=None, max_examples=300)
@given(bars)
def test_training_and_requests_refuse_the_same_bars(rows):
    values = np.array(rows)

    refused = refused_in_training(values)

    assert (refused is None) == (refused_in_a_request(values) is None)
    if bar_rules.are_sound(values):
        assert refused is None


def test_a_request_of_a_longer_spec_is_checked_alike():
    """The row of a batch is counted within its own window."""
    values = bars_with(4, [1e31] * 4 + [1])[:5]
    spec = replace(SPEC, min_bars=2, unbroken_bars=1)

    with pytest.raises(RequestRefused, match=r"window 1, row 4, column 'open'"):
        batch_windows(np.array([[FLAT] * 5, values]), None, spec)
