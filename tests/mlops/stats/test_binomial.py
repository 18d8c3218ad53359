"""Bounds of a share against published values and against the coverage they promise."""

from __future__ import annotations

import pytest
from scipy import stats

from mlops.stats.comparison import is_surely_above, share_interval


@pytest.mark.parametrize(
    ("count", "trials", "low", "high"),
    [
        # The rule of three's exact form: 1 - 0.025 ** (1 / n).
        (0, 10, 0.0, 0.3085),
        (10, 10, 0.6915, 1.0),
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 5 (exact).
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_the_interval_is_the_published_one(
    count: int, trials: int, low: float, high: float
) -> None:
    assert share_interval(count, trials) == pytest.approx((low, high), abs=5e-5)


def test_nothing_tried_says_nothing() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)
    assert not is_surely_above(0.05, count=0, trials=0, alpha=0.5)


@pytest.mark.parametrize("trials", [1, 3, 20, 500])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_sure_means_that_so_many_would_be_rare(trials: int, share: float) -> None:
    for count in range(min(trials, 60) + 1):
        rare = float(stats.binom.sf(count - 1, trials, share)) <= 1e-3
        assert is_surely_above(share, count=count, trials=trials, alpha=1e-3) == rare


def test_one_failure_of_one_is_not_sure_and_all_of_three_are() -> None:
    assert not is_surely_above(0.05, count=1, trials=1, alpha=1e-3)
    assert is_surely_above(0.05, count=3, trials=3, alpha=1e-3)
