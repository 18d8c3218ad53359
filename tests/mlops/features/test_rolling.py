"""Trailing statistics that forget: exact on their window, indifferent to what came before."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.features.rolling import (
    bars_to_forget,
    log_of_ratio,
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


@pytest.mark.parametrize("span", [1, 6, 24, 168])
def test_the_mean_of_the_largest_floats_is_the_largest_float(span):
    largest = np.full(200, np.finfo(float).max)
    largest[3] = 1.0

    means = trailing_mean(largest, span)[span - 1 :]

    assert np.isfinite(means).all()
    np.testing.assert_allclose(means[10:], largest[-1], rtol=1 / span if span > 24 else 1e-12)


@given(*[st.floats(5e-324, 1.7e308)] * 2)
def test_the_logarithm_of_a_ratio_never_overflows(value, base):
    with np.errstate(all="ignore"):
        ratio = np.float64(value) / np.float64(base)
    (made,) = log_of_ratio(np.array([value]), np.array([base]))

    if 0 < ratio < np.inf:
        assert made == np.log(ratio)
    np.testing.assert_allclose(made, np.log(value) - np.log(base), atol=0.5)


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
