"""The variance of a mean loss difference: few lags for white losses, weeks where they remember."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.ab_paths import as_pairs
from mlops.ab_testing.loss_variance import (
    LossCovariance,
    Record,
    VarianceSource,
    bars_of_test_block,
    count_pairs_of_test_blocks,
    estimate_covariances,
    summarise_record,
    variance_of_record,
)
from mlops.stats.confidence_sequence import block_covariance, upper_variance_factor
from mlops.stats.dependence import long_run_variance

WEEK = 168
YEAR = 26 * 2 * WEEK


def white_losses(n, seed=1):
    rng = np.random.default_rng(seed)
    loss = rng.chisquare(1, n)
    return loss, loss - 0.3 * rng.standard_normal(n)


def remembering_losses(n, seed=1):
    """A difference that keeps a level for two weeks."""
    loss, other = white_losses(n, seed)
    levels = 0.1 * np.random.default_rng([seed, 1]).standard_normal(n // (2 * WEEK) + 1)
    return loss, other - np.repeat(levels, 2 * WEEK)[:n]


def record_of_losses(losses, horizon=1):
    return summarise_record(as_pairs(*losses, horizon), bars_per_week=WEEK)


def test_a_record_below_ten_blocks_is_none():
    assert record_of_losses(white_losses(20 * WEEK - 1)) is None
    record = record_of_losses(white_losses(20 * WEEK))
    assert (record.blocks, record.block_bars) == (10, 2 * WEEK)


def test_pairs_without_a_loss_are_no_part_of_a_record():
    champion, challenger = white_losses(20 * WEEK)
    champion[7] = np.nan
    assert record_of_losses((champion, challenger)) is None


def test_a_block_has_at_least_five_horizons():
    record = record_of_losses(white_losses(10 * 5 * 100), horizon=100)
    assert (record.blocks, record.block_bars) == (10, 500)


@pytest.mark.parametrize(
    ("horizon", "bars_per_week", "block"),
    [(1, WEEK, 336), (100, WEEK, 500), (1, 35, 336), (24, 35, 336), (1, 7, 336), (1, 672, 1344)],
)
def test_a_block_of_a_test_without_a_record_has_two_weeks_and_336_pairs(
    horizon, bars_per_week, block
):
    size = {"horizon": horizon, "bars_per_week": bars_per_week}
    assert bars_of_test_block(**size) == block
    assert count_pairs_of_test_blocks(**size) == 10 * block


def test_a_record_holds_the_covariance_of_its_block_means():
    losses = white_losses(YEAR)
    record = record_of_losses(losses)
    columns = as_pairs(*losses, 1).loss_columns()
    covariance, _ = block_covariance(columns, 2 * WEEK)
    assert_allclose(record.variance_difference, covariance[0, 0])
    assert_allclose(record.variance_loss, covariance[1, 1])
    assert_allclose(record.covariance, covariance[0, 1])


def test_a_record_comes_back_from_json():
    record = record_of_losses(remembering_losses(YEAR))
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_white_losses_do_not_pay_for_memory():
    """200 records of a year: their block variance alone would ask for a third more on average.

    Full weight falls on the records above the 95 % quantile of any of three dependent lengths.
    """
    records = [record_of_losses(white_losses(YEAR, seed)) for seed in range(200)]
    true = 0.3**2
    assert np.mean([record.memory == 1.0 for record in records]) < 0.25
    asked = np.array([variance_of_record(record) for record in records])
    always = np.array([block_limit(record) for record in records])
    assert np.median(asked) < 1.1 * true < np.median(always)


def block_limit(record):
    factor = record.block_bars * upper_variance_factor(record.blocks)
    return factor * record.variance_difference


def test_losses_that_remember_are_held_to_their_blocks():
    """The true variance is .09 + .01 * 336; few lags see little more than .09."""
    records = [record_of_losses(remembering_losses(YEAR, seed)) for seed in range(100)]
    assert all(record.memory == 1.0 for record in records)
    assert_allclose(
        [variance_of_record(record) for record in records], [block_limit(r) for r in records]
    )
    above = np.mean([variance_of_record(record) > 0.09 + 0.01 * 336 for record in records])
    assert abs(above - 0.8) < 3 * 0.04


def test_memory_of_the_champions_loss_is_memory():
    loss, other = white_losses(YEAR)
    slow = np.repeat(np.random.default_rng(3).chisquare(4, 26), 2 * WEEK)
    record = record_of_losses((loss + slow, other + slow))
    assert record.memory == 1.0


@pytest.mark.parametrize(("blocks", "level"), [(26, 0.8), (25, 0.95), (19, 0.99), (10, 0.99)])
def test_short_records_are_held_to_a_higher_limit(blocks, level):
    record = Record(
        blocks=blocks, block_bars=336, variance_difference=2.0, variance_loss=0.0, covariance=0.0
    )
    expected = 2.0 * 336 * upper_variance_factor(blocks, level=level)
    assert_allclose(variance_of_record(record), expected)


def test_a_shifted_difference_has_the_variance_of_its_sum():
    covariance = LossCovariance(VarianceSource.HAC, 4.0, 9.0, 3.0)
    assert_allclose(covariance.of(0.5), 4.0 - 2 * 0.5 * 3.0 + 0.25 * 9.0)
    assert LossCovariance(VarianceSource.HAC, 1.0, 1.0, 1.0 + 1e-9).of(1.0) == 0.0


def test_the_first_estimate_is_that_of_few_lags():
    columns = as_pairs(*white_losses(500), 1).loss_columns()
    (few_lags,) = estimate_covariances(columns[:200], None, horizon=1, bars_per_week=WEEK)
    assert few_lags.source is VarianceSource.HAC
    shifted = columns[:200, 0] - 0.1 * columns[:200, 1]
    assert_allclose(few_lags.of(0.1), long_run_variance(shifted, 4))


@pytest.mark.parametrize(("blocks", "level"), [(2, 0.99), (10, 0.99), (20, 0.95), (26, 0.8)])
@pytest.mark.parametrize("losses_of", [white_losses, remembering_losses])
def test_a_test_without_a_record_counts_its_own_blocks_in_full(blocks, level, losses_of):
    columns = as_pairs(*losses_of(blocks * 336), 1).loss_columns()
    _, own = estimate_covariances(columns, None, horizon=1, bars_per_week=35)
    assert own.source is VarianceSource.TEST_BLOCKS
    covariance, _ = block_covariance(columns, 336)
    factor = 336 * upper_variance_factor(blocks, level=level)
    found = (own.difference, own.both, own.loss)
    assert_allclose(found, factor * covariance[[0, 0, 1], [0, 1, 1]])


def test_a_tests_own_weeks_count_as_much_as_its_record_remembers():
    columns = as_pairs(*remembering_losses(8 * WEEK), 1).loss_columns()
    remembers = record_of_losses(remembering_losses(YEAR))
    for share in (1.0, 0.4, 0.0):
        record = replace(remembers, memory=share)
        *_, weeks = estimate_covariances(columns, record, horizon=1, bars_per_week=WEEK)
        covariance, _ = block_covariance(columns, WEEK)
        limit = WEEK * upper_variance_factor(8) * covariance[0, 0]
        assert weeks.source is VarianceSource.TEST_BLOCKS
        assert_allclose(weeks.difference, share * limit)
    sources = [
        one.source
        for one in estimate_covariances(columns[:-1], remembers, horizon=1, bars_per_week=WEEK)
    ]
    assert VarianceSource.TEST_BLOCKS not in sources


def test_losses_that_never_vary_have_no_memory():
    loss = np.ones(YEAR)
    assert record_of_losses((loss, loss)).memory == 0.0
