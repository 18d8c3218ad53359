"""Probabilistic and deflated Sharpe ratios: the published examples."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mlops.stats.trading import (
    SharpeMoments,
    deflated_sharpe,
    effective_trials,
    expected_maximum,
    minimum_track_record,
    probabilistic_sharpe,
)

PAPER = SharpeMoments(sharpe=2.5 / np.sqrt(250), n=1250, skew=-3, kurtosis=10)


def test_the_deflated_ratio_of_2014_is_reproduced():
    variance = 0.5 / 250
    assert_allclose(np.sqrt(variance) * expected_maximum(100), 0.1131720, atol=1e-6)
    assert_allclose(deflated_sharpe(PAPER, n_trials=100, variance=variance), 0.9003968, atol=1e-6)


def test_the_probabilistic_ratio_of_2012_is_reproduced():
    moments = SharpeMoments(sharpe=0.458, n=24, skew=-2.448, kurtosis=10.164)
    assert_allclose(probabilistic_sharpe(moments), 0.913361, atol=1e-6)


@pytest.mark.parametrize(("n", "expected"), [(1, 0.0), (10, 1.574598), (1000, 3.255122)])
def test_the_best_of_n_worthless_trials_is_expected_at(n, expected):
    assert_allclose(expected_maximum(n), expected, atol=1e-5)


def test_one_trial_needs_no_deflation():
    assert deflated_sharpe(PAPER, n_trials=1) == probabilistic_sharpe(PAPER)


def test_at_the_minimum_track_record_the_level_is_just_reached():
    needed = minimum_track_record(PAPER, confidence_level=0.99)
    short = SharpeMoments(PAPER.sharpe, round(needed), PAPER.skew, PAPER.kurtosis)
    assert_allclose(probabilistic_sharpe(short), 0.99, atol=2e-3)


def test_a_loss_never_becomes_a_track_record():
    assert minimum_track_record(SharpeMoments(-0.1, 100, 0, 3)) == np.inf


def test_moments_use_the_plain_fourth_moment():
    moments = SharpeMoments.of(np.random.default_rng(0).standard_normal(200_000))
    assert_allclose([moments.skew, moments.kurtosis], [0, 3], atol=0.05)
    assert SharpeMoments.of(np.zeros(10)) is None


def test_copies_of_one_trial_count_once():
    rng = np.random.default_rng(1)
    one = rng.standard_normal(500)
    assert_allclose(effective_trials(np.stack([one] * 8, axis=1)), 1.0)
    assert effective_trials(rng.standard_normal((5000, 8))) > 7.9
    assert effective_trials(np.stack([one, np.zeros(500)], axis=1)) == 1.0


def test_hardly_more_than_one_trial_is_not_deflated_upwards():
    assert [expected_maximum(n) for n in (1.05, 1.2)] == [0.0, 0.0]
    assert deflated_sharpe(PAPER, n_trials=1.05) <= probabilistic_sharpe(PAPER)
