"""The benchmark of A/B tests computes its figures; how large they are `make bench` says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import ab_tests
from benchmarks.ab_harness import (
    Ends,
    Looks,
    Runs,
    blocks_at,
    hac_at,
    judge_by_looks,
    means_at,
)
from benchmarks.ab_losses import PairOfLosses, resample_tests
from benchmarks.ab_paths import BARS_A_WEEK, as_pairs, draw_better_challenger, draw_equal_pair
from mlops.ab_testing.decision import Verdict
from mlops.stats.confidence_sequence import DelayedStart, block_covariance, upper_variance_factor
from mlops.stats.dependence import lag_length, long_run_variance


@pytest.mark.parametrize("horizon", [1, 12])
def test_running_sums_give_the_figures_of_each_look(horizon: int) -> None:
    values = 3.0 + np.random.default_rng(1).standard_normal((2, 2000)).cumsum(axis=1) / 9.0
    looks = np.array([60, 240, 2000])
    variances, means = hac_at(values, looks, horizon), means_at(values, looks)
    limits = blocks_at(values, looks, 30)
    for run in range(2):
        for look, n in enumerate(looks):
            first = values[run, :n]
            expected = long_run_variance(first, lag_length(int(n), horizon=horizon))
            assert_allclose(variances[run, look], expected, rtol=1e-9)
            assert_allclose(means[run, look], first.mean())
            covariance, count = block_covariance(first[:, None], 30)
            limit = covariance[0, 0] * 30 * upper_variance_factor(count) if count >= 8 else 0.0
            assert_allclose(limits[run, look], limit)


def test_equal_forecasts_have_equal_losses_and_a_better_one_has_its_r2() -> None:
    """The Monte-Carlo error of a mean over 400,000 rows is below .004."""
    rng = np.random.default_rng(2)
    equal = [loss.mean() for loss in draw_equal_pair(rng, runs=40, bars=10_000, horizon=4).losses()]
    assert_allclose(equal, [1.01, 1.01], atol=0.02)
    paths = draw_better_challenger(rng, runs=40, bars=10_000, r2=0.05)
    champion, challenger = (loss.mean() for loss in paths.losses())
    assert 1.0 - challenger / champion == pytest.approx(0.05, abs=0.006)
    assert paths.mirrored().losses()[1].mean() == champion


def test_an_outcome_is_the_sum_of_the_returns_after_its_bar() -> None:
    paths = draw_equal_pair(np.random.default_rng(3), runs=2, bars=20, horizon=3)
    assert_allclose(paths.outcome[1, 5], paths.returns[1, 6:9].sum())


def test_resampled_losses_have_the_true_difference_that_was_asked_for() -> None:
    rng = np.random.default_rng(4)
    champion = rng.chisquare(1, 9_000)
    challenger = champion + 0.3 + 0.1 * rng.standard_normal(9_000)
    pair = PairOfLosses("a", 1, ("x", "y"), champion, challenger, bars_a_week=BARS_A_WEEK)
    drawn = list(resample_tests(pair, runs=20, true_share=0.01, record_blocks=11))
    assert [tests.record.blocks for tests in drawn] == [11] * 4
    means = [tests.runs.difference.mean() for tests in drawn]
    assert_allclose(means, [0.01] * 4, atol=0.002)


def test_each_figure_names_what_the_other_rules_reach() -> None:
    error, naive, same = ab_tests.errors_of_equal_forecasts(3, 12)
    assert "normal mixture" in error.peer
    assert "HAC of the test alone" in error.peer
    assert naive.measured.endswith("%")
    assert same.measured == "those of judge_pairs in 3 of 3"


def test_tests_without_a_record_end_as_judge_pairs_ends_them() -> None:
    """Blocks of a market of 35 bars a week: of two weeks they would decide earlier."""
    paths = draw_better_challenger(np.random.default_rng(5), runs=4, bars=5_040, r2=0.05)
    champion, challenger = paths.losses()
    runs = Runs(champion - challenger, champion, 1)
    quick = Looks(runs, bars_a_week=35).judge_without_record(DelayedStart(100, 0.05))
    assert Verdict.BETTER in quick.words
    for run, pairs in enumerate(
        as_pairs(a, b, 1) for a, b in zip(champion, challenger, strict=True)
    ):
        slow = judge_by_looks(pairs, None, alpha=0.05, bars_a_week=35)
        assert (quick.words[run], quick.pairs[run]) == (slow.words[0], slow.pairs[0])


def test_a_median_counts_open_tests_as_endless() -> None:
    ends = Ends([Verdict.BETTER, None, Verdict.WORSE], np.array([120, 2880, 60]))
    assert ends.median_pairs(Verdict.BETTER) == np.inf
    assert ends.share(Verdict.BETTER, Verdict.WORSE) == pytest.approx(2 / 3)
