"""Long-run variance, blocks and intervals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mlops.stats.dependence import (
    block_length,
    bootstrap_means,
    interval_from_draws,
    is_constant,
    lag_length,
    long_run_covariance,
    long_run_variance,
)


def overlapping(n, horizon, rng):
    """Means of h neighbouring shocks: what h-bar labels do to losses."""
    shocks = rng.standard_normal(n + horizon - 1)
    return np.convolve(shocks, np.ones(horizon), "valid") / np.sqrt(horizon)


@pytest.mark.parametrize(
    ("n", "horizon", "lags"), [(100, 1, 4), (2880, 1, 8), (576, 12, 18), (720, 24, 36), (2, 1, 1)]
)
def test_lags_follow_the_longer_of_overlap_and_memory(n, horizon, lags):
    assert lag_length(n, horizon=horizon) == lags


@pytest.mark.parametrize(
    ("n", "horizon", "block"), [(5000, 1, 18), (5000, 24, 120), (300, 24, 30), (5, 1, 1)]
)
def test_blocks_span_five_horizons_but_leave_ten_blocks(n, horizon, block):
    assert block_length(n, horizon=horizon) == block


def test_long_run_variance_agrees_with_statsmodels():
    from statsmodels.stats.sandwich_covariance import S_hac_simple

    x = overlapping(400, 6, np.random.default_rng(1))
    expected = S_hac_simple((x - x.mean())[:, None], nlags=9)[0, 0] / x.size
    assert_allclose(long_run_variance(x, 9), expected, rtol=1e-12)


def test_without_lags_the_long_run_variance_is_the_variance():
    x = np.random.default_rng(2).standard_normal(50)
    assert_allclose(long_run_variance(x, 0), x.var())


def test_the_long_run_covariance_holds_the_variance_of_every_sum_of_columns():
    rng = np.random.default_rng(5)
    columns = np.stack([overlapping(300, 6, rng), overlapping(300, 3, rng)], axis=1)
    covariance = long_run_covariance(columns, 9)
    for weights in ([1.0, 0.0], [0.0, 1.0], [1.0, -0.3]):
        expected = long_run_variance(columns @ weights, 9)
        assert_allclose(weights @ covariance @ weights, expected, rtol=1e-12)


def test_rounding_alone_is_no_variation():
    assert is_constant(0.1 + np.arange(5) * 1e-17)
    assert not is_constant(np.array([0.0, 1e-9]))


def test_bootstrap_means_are_those_of_resampled_circular_blocks():
    x = np.arange(12.0)[:, None]
    starts = np.random.default_rng(3).integers(0, 12, size=(4, 3))
    rows = (starts[:, :, None] + np.arange(4)).reshape(4, 12) % 12
    means = bootstrap_means(x, block=4, reps=4, seed=3)
    assert_allclose(means[:, 0], x[rows, 0].mean(axis=1))


@pytest.mark.parametrize("horizon", [1, 12])
def test_intervals_cover_the_mean_at_their_level(horizon):
    """400 records of 1,000 rows: the Monte-Carlo error of a coverage of .95 is .011."""
    assert coverage(horizon, block_length(1000, horizon=horizon)) >= 0.95 - 3 * 0.011


def test_intervals_that_ignore_overlap_cover_the_mean_too_rarely():
    """The harness sees the fault: blocks of one row hold the mean less than half the time."""
    assert coverage(12, 1) < 0.6


def coverage(horizon, block):
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(400):
        x = overlapping(1000, horizon, rng)[:, None]
        draws = bootstrap_means(x, block=block, reps=200, seed=seed)[:, 0]
        found = interval_from_draws(x.mean(), draws, n_blocks=1000 / block)
        held += found.low <= 0.0 <= found.high
    return held / 400


def test_an_undefined_statistic_has_no_interval():
    found = interval_from_draws(float("nan"), np.ones(9), n_blocks=10)
    assert np.isnan([found.low, found.high]).all()
