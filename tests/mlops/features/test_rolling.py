"""Trailing statistics that forget: exact on their window, indifferent to what came before."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.features.rolling import (
    bars_to_forget,
    recursive_mean,
    recursive_sum,
    trailing_mean,
    trailing_sum,
)


@given(span=st.integers(1, 60), n=st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_a_trailing_sum_is_the_sum_of_the_last_values(span, n):
    values = np.random.default_rng(0).normal(size=n)
    expected = pd.Series(values).rolling(span).sum().to_numpy()
    np.testing.assert_allclose(trailing_sum(values, span), expected, atol=1e-12)


def test_a_trailing_mean_forgets_a_bad_print_to_the_bit():
    """A running sum would carry the rounding of 1e18 for ever."""
    values = np.random.default_rng(1).normal(size=500)
    spoiled = values.copy()
    spoiled[100] = 1e18
    assert np.array_equal(trailing_mean(values, 24)[124:], trailing_mean(spoiled, 24)[124:])


def test_a_recursive_mean_is_the_textbook_recursion():
    values = np.random.default_rng(2).normal(size=50)
    expected = pd.Series([0.0, *values]).ewm(alpha=0.1, adjust=False).mean().to_numpy()[1:]
    np.testing.assert_allclose(recursive_mean(values, 0.9), expected, atol=1e-12)


def test_a_decaying_sum_of_changes_is_the_price_less_its_mean():
    price = np.cumsum(np.random.default_rng(3).normal(size=80))
    changes = np.diff(price, prepend=price[0])
    mean = pd.Series(price).ewm(alpha=0.1, adjust=False).mean().to_numpy()
    np.testing.assert_allclose(recursive_sum(changes, 0.9), price - mean, atol=1e-12)


@pytest.mark.parametrize(("decay", "bars"), [(0.5, 20), (0.9, 132), (13 / 14, 187)])
def test_bars_to_forget_follow_from_the_decay(decay, bars):
    assert bars_to_forget(decay, start=1.0, tolerance=1e-6) == bars
    assert decay**bars <= 1e-6 < decay ** (bars - 1)
