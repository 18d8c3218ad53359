"""Tests that count every trial: arch's and statsmodels' known answers, and what a gate adds."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from statsmodels.stats.multitest import multipletests

from mlops.errors import MlopsError
from mlops.stats import selection
from mlops.stats.selection import (
    benjamini_yekutieli,
    best_of_trials,
    gain_statistics,
    model_confidence_set,
    overfitting_probability,
    step_m,
    superior_ability,
)


@pytest.fixture
def losses():
    z = np.random.default_rng(0).standard_normal((500, 21))
    benchmark, models = z[:, 0] ** 2, z[:, 1:] ** 2
    models[:, 3] -= 0.25
    return benchmark, models


def test_superior_ability_gives_the_known_answers(losses):
    found = superior_ability(*losses, block=10, seed=42)
    assert (found.lower, found.consistent, found.upper) == (0.007, 0.032, 0.033)
    assert found.better == (3,)


def test_without_the_good_model_nothing_is_superior(losses):
    benchmark, models = losses
    found = superior_ability(benchmark, np.delete(models, 3, axis=1), block=10, seed=42)
    assert (found.lower, found.consistent, found.upper) == (0.603, 0.849, 0.863)
    assert found.better == ()


def test_stepwise_test_and_confidence_set_keep_the_good_model_only(losses):
    assert step_m(*losses, block=10, seed=42) == (3,)
    assert model_confidence_set(losses[1], block=10, seed=42) == (3,)


def test_a_loud_worthless_trial_does_not_hide_a_good_quiet_one():
    """Raw means are compared by arch; the gate's test compares them in their own noise."""
    rng = np.random.default_rng(1)
    gains = rng.standard_normal((1500, 10))
    gains[:, 4] += 0.15
    gains[:, 7] *= 20
    raw = superior_ability(np.zeros(1500), -gains, block=12)
    ours = best_of_trials(gains)
    assert raw.consistent > 0.2
    assert ours.consistent < 0.01
    assert ours.better == (4,)


def test_trials_that_never_act_change_nothing():
    rng = np.random.default_rng(2)
    gains = rng.standard_normal((800, 3))
    gains[:, 0] += 0.2
    idle = np.stack([np.zeros(800), *gains.T, np.full(800, 0.7)], axis=1)
    found, alone = best_of_trials(idle), best_of_trials(gains)
    assert found.consistent == alone.consistent
    assert found.better == (1,)
    assert found.n_trials == 3


@pytest.mark.parametrize("gains", [np.zeros((100, 4)), np.full((100, 2), 0.5), np.ones((1, 2))])
def test_gains_without_variation_win_nothing(gains):
    found = best_of_trials(gains)
    assert (found.consistent, found.better) == (1.0, ())


def test_identical_trials_count_as_one():
    one = np.random.default_rng(3).standard_normal((900, 1)) + 0.06
    assert best_of_trials(np.repeat(one, 6, axis=1)).consistent == best_of_trials(one).consistent


def test_no_p_value_is_finer_than_the_resamples_allow():
    good = np.random.default_rng(4).standard_normal((600, 2)) + 1.0
    assert best_of_trials(good).consistent == pytest.approx(1 / 1001)
    assert best_of_trials(good, alpha=0.002).consistent == pytest.approx(1 / 5001)


@pytest.mark.parametrize(
    ("gain", "resamples"),
    [
        pytest.param(0.0, [1000], id="noise"),
        pytest.param(0.12, [1000, 5000], id="a p-value near the level"),
        pytest.param(1.0, [1000, 5000], id="a clear gain"),
    ],
)
def test_only_what_may_pass_is_resampled_as_often_as_its_level_asks(monkeypatch, gain, resamples):
    asked = []

    def counted(*given, reps, **named):
        asked.append(reps)
        return superior_ability(*given, reps=reps, **named)

    monkeypatch.setattr(selection, "superior_ability", counted)
    rng = np.random.default_rng(4)
    columns = rng.standard_normal((600, 2))
    columns += gain - columns.mean(axis=0)
    best_of_trials(columns, alpha=0.002)
    assert asked == resamples


def test_no_clear_p_value_is_one_that_a_true_level_often_shows():
    """Known answers: of 1,000 resamples at a level of .01, 29 have a chance of 6.4e-7."""
    assert selection._clearly_exceeds(0.029, 0.01, 1000)
    assert not selection._clearly_exceeds(0.028, 0.01, 1000)
    assert not selection._clearly_exceeds(0.0, 0.01, 1000)


@pytest.mark.parametrize("searches", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_overlapping_labels_do_not_pass_worthless_trials(searches):
    """Searches at .05, with three Monte-Carlo errors; resampling single rows shows the fault."""
    rng = np.random.default_rng(8)
    p_values = []
    for _ in range(searches):
        total = np.cumsum(rng.standard_normal((6, 812)), axis=1)
        y, *forecasts = (total[:, 12:] - total[:, :-12]) * [[1], [0.5], [0.5], [0.5], [0.5], [0.5]]
        losses = np.stack([(y - forecast) ** 2 for forecast in forecasts], axis=1)
        rows = superior_ability(losses[:, 0], losses[:, 1:], block=1, reps=200)
        gains = losses[:, :1] - losses[:, 1:]
        p_values.append((best_of_trials(gains, horizon=12, reps=200).consistent, rows.consistent))
    ours, naive = np.mean(np.array(p_values) < 0.05, axis=0)
    assert ours <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / searches)
    assert naive > 0.3


def test_long_records_are_averaged_without_changing_the_verdict():
    """Two p-values near .1 from 1,000 resamples each differ by .013 a standard error."""
    rng = np.random.default_rng(5)
    gains = rng.standard_normal((10_000, 4))
    gains += 1.9 / np.sqrt(10_000) - gains.mean(axis=0)
    short = best_of_trials(gains)
    whole = superior_ability(np.zeros(10_000), -gains, block=22, reps=300)
    assert short.n_used <= 8000
    assert short.consistent == pytest.approx(whole.consistent, abs=0.06)


def test_the_statistic_ranks_trials_in_their_own_noise():
    rng = np.random.default_rng(6)
    gains = np.stack([5 * rng.standard_normal(900) + 0.1, rng.standard_normal(900) + 0.1], axis=1)
    idle = np.zeros((900, 1))
    found = gain_statistics(np.hstack([gains, idle]))
    assert found[1] > found[0]
    assert found[2] == -np.inf


def test_noise_is_overfitted_half_the_time_and_an_edge_is_not():
    """Twelve searches of 50 trials: the Monte-Carlo error of the noise average is about .06."""
    rng = np.random.default_rng(7)
    noise, edge = [], []
    for _ in range(12):
        returns = rng.standard_normal((2000, 50))
        noise.append(overfitting_probability(returns))
        returns[:, 3] += 0.15
        edge.append(overfitting_probability(returns))
    assert np.mean(noise) == pytest.approx(0.5, abs=0.15)
    assert np.median(edge) < 0.01


def test_one_trial_cannot_be_overfitted_by_choice():
    assert np.isnan(overfitting_probability(np.ones((100, 1))))


@pytest.mark.parametrize("level", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("size", [1, 2, 10, 60])
def test_rejections_are_those_of_statsmodels(size, level):
    rng = np.random.default_rng(size)
    for power in (1, 4, 12):
        p = rng.random(size) ** power
        expected = multipletests(p, level, method="fdr_by")[0]
        assert_array_equal(benjamini_yekutieli(p, level), expected)


def test_equal_p_values_are_rejected_together():
    assert_array_equal(benjamini_yekutieli([0.9, 0.01, 0.01], 0.05), [False, True, True])


def test_true_hypotheses_are_rarely_rejected_whatever_their_dependence():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((4000, 1))
    mixed = 0.9**0.5 * shared + 0.1**0.5 * rng.standard_normal((4000, 20))
    from scipy.stats import norm

    rate = np.mean([benjamini_yekutieli(norm.sf(row), 0.05).any() for row in mixed])
    assert rate < 0.05


def test_no_p_values_give_no_rejections():
    assert benjamini_yekutieli([], 0.05).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_a_value_outside_zero_to_one_is_refused_as_a_p_value(bad):
    with pytest.raises(MlopsError, match="drop untested columns"):
        benjamini_yekutieli([0.5, bad], 0.05)
