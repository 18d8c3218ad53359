"""Bounds of the mean loss difference at one look, and what they say of coming looks."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mlops.ab_testing.loss_sequence import (
    LossSequence,
    count_first_pairs,
    count_pairs_to_see,
    find_visible_gain,
)
from mlops.ab_testing.loss_variance import LossCovariance, VarianceSource
from mlops.stats.confidence_sequence import DelayedStart

BOUNDARY = DelayedStart(100, 0.05)


def make_sequence(*covariances, n=400, seed=1, gain=0.1):
    rng = np.random.default_rng(seed)
    loss = rng.chisquare(1, n)
    columns = np.stack([gain + 0.3 * rng.standard_normal(n), loss], axis=1)
    return LossSequence(columns, covariances, BOUNDARY)


SMALL = LossCovariance(VarianceSource.HAC, 0.09, 2.0, 0.0)
LARGE = LossCovariance(VarianceSource.RECORD, 0.20, 1.0, 0.1)


@pytest.mark.parametrize(("horizon", "pairs"), [(1, 100), (5, 100), (6, 120), (24, 480)])
def test_the_first_look_waits_for_twenty_horizons(horizon, pairs):
    assert count_first_pairs(horizon) == pairs


def test_the_larger_variance_counts_for_each_share_anew():
    sequence = make_sequence(SMALL, LARGE)
    assert sequence.covariance(0.0) is LARGE
    assert sequence.covariance(2.0) is SMALL
    half = BOUNDARY.z(400) * math.sqrt(0.20 / 400)
    assert_allclose(sequence.bounds(), (sequence.mean() - half, sequence.mean() + half))


def test_the_relative_bounds_are_the_shares_that_are_not_refuted():
    sequence = make_sequence(SMALL, LARGE)
    low, high = sequence.relative_bounds()
    shares = np.linspace(-0.5, 0.7, 2401)
    kept = [s for s in shares if sequence.bounds(s)[0] <= 0.0 <= sequence.bounds(s)[1]]
    assert_allclose((low, high), (kept[0], kept[-1]), atol=1e-3)


def test_a_loss_that_is_too_uncertain_bounds_no_share():
    wild = LossCovariance(VarianceSource.RECORD, 0.09, 1e4, 0.0)
    assert make_sequence(SMALL, wild).relative_bounds() == (None, None)


def test_the_relative_bounds_leave_zero_out_as_the_bounds_do():
    for gain in (-0.2, -0.05, 0.0, 0.05, 0.2):
        sequence = make_sequence(SMALL, LARGE, gain=gain)
        (low, high), (relative_low, relative_high) = sequence.bounds(), sequence.relative_bounds()
        assert (low > 0.0, high < 0.0) == (relative_low > 0.0, relative_high < 0.0)


def test_a_difference_of_rounding_is_zero():
    columns = np.stack([np.full(200, 1e-17), np.ones(200)], axis=1)
    assert LossSequence(columns, [SMALL], BOUNDARY).is_zero
    columns[7, 0] = 1e-9
    assert not LossSequence(columns, [SMALL], BOUNDARY).is_zero


def test_a_difference_that_never_varies_says_nothing():
    still = LossCovariance(VarianceSource.HAC, 0.0, 0.0, 0.0)
    columns = np.stack([np.full(200, 0.1), np.ones(200)], axis=1)
    sequence = LossSequence(columns, [still], BOUNDARY)
    assert not sequence.varies
    assert sequence.p_value() == 1.0


def test_the_pairs_to_see_a_gap_are_the_first_that_show_it():
    pairs = count_pairs_to_see(0.05, 0.5, BOUNDARY)
    for n, shown in ((pairs - 1, False), (pairs + 1, True)):
        assert (BOUNDARY.z(n) * math.sqrt(0.5 / n) < 0.05) is shown


def test_a_large_gap_waits_for_the_first_look():
    assert count_pairs_to_see(10.0, 0.5, BOUNDARY) == 100


@pytest.mark.parametrize("gap", [0.0, -1.0, 1e-9])
def test_the_pairs_to_see_nothing_are_unknown(gap):
    assert count_pairs_to_see(gap, 0.5, BOUNDARY) is None


def test_a_visible_gain_is_seen_with_a_chance_of_80_percent_at_the_last_look():
    """4,000 normal means: the Monte-Carlo error at .8 is .006."""
    gain = find_visible_gain(0.5, pairs=900, boundary=BOUNDARY)
    error = math.sqrt(0.5 / 900)
    means = gain + error * np.random.default_rng(2).standard_normal(4000)
    assert abs(np.mean(means > BOUNDARY.z(900) * error) - 0.8) < 3 * 0.006
    assert find_visible_gain(0.5, pairs=99, boundary=BOUNDARY) is None
