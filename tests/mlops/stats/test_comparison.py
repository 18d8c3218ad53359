"""Tests of one forecast against another and against chance, and exact bounds of a share."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.stats import t

from mlops.stats.comparison import (
    clark_west,
    diebold_mariano,
    is_surely_above,
    pesaran_timmermann,
    share_interval,
)

ERRORS = np.array([0.0, 1, 2, 3, 4, 5]), np.array([0.0, 2, 3, 3, 5, 6])


@pytest.mark.parametrize(
    ("horizon", "statistic", "p_value"),
    [(1, -2.490488, 0.0551281), (2, -1.919430, 0.113011)],
)
def test_diebold_mariano_gives_the_known_answers(horizon, statistic, p_value):
    difference = ERRORS[0] ** 2 - ERRORS[1] ** 2
    found = diebold_mariano(difference, horizon=horizon, lags=horizon - 1)
    assert_allclose(found.statistic, statistic, atol=1e-5)
    assert_allclose(2 * t.sf(abs(found.statistic), 5), p_value, atol=1e-5)
    assert_allclose(found.p_value, 1 - p_value / 2, atol=1e-5)


@pytest.mark.parametrize("horizon", [1, 4])
def test_diebold_mariano_agrees_with_statsmodels(horizon):
    from statsmodels.tsa.stattools import diebold_mariano_test

    losses = np.random.default_rng(0).standard_normal((2, 300)) ** 2
    theirs = diebold_mariano_test(
        np.zeros(300),
        *losses,
        lags=horizon - 1,
        criterion=lambda y, f: f,
        harvey_adj=True,
        horizon=horizon,
    )
    ours = diebold_mariano(losses[0] - losses[1], horizon=horizon, lags=horizon - 1)
    assert_allclose(ours.statistic, theirs.statistic, rtol=1e-10)


@pytest.mark.parametrize("difference", [np.zeros(50), np.full(50, 0.3), np.array([1.0])])
def test_rows_without_variation_carry_no_evidence(difference):
    assert diebold_mariano(difference).p_value == 1.0


@pytest.mark.parametrize("n", [5, 24])
def test_fewer_rows_than_a_label_looks_ahead_carry_no_evidence(n):
    """The small-sample factor grows again below the horizon: 5 rows erred .48 of the time."""
    rows = np.random.default_rng(0).standard_normal(n) + 3.0
    assert diebold_mariano(rows, horizon=24).p_value == 1.0


@pytest.mark.parametrize("horizon", [1, 12])
def test_diebold_mariano_errs_as_often_as_it_says(horizon):
    """1,000 records of 600 rows: the Monte-Carlo error at .05 is .007."""
    rng = np.random.default_rng(5)
    shocks = rng.standard_normal((1000, 600 + horizon - 1))
    total = np.cumsum(np.pad(shocks, ((0, 0), (1, 0))), axis=1)
    records = total[:, horizon:] - total[:, :-horizon]
    p = np.array([diebold_mariano(record, horizon=horizon).p_value for record in records])
    assert 0.025 < np.mean(p < 0.05) < 0.05 + 3 * 0.007 + 0.005


def test_clark_west_sees_what_estimation_noise_hides_from_squared_errors():
    rng = np.random.default_rng(6)
    signal = rng.standard_normal(2000) * 0.1
    y = signal + rng.standard_normal(2000)
    noisy = signal + 0.15 * rng.standard_normal(2000)
    zero = np.zeros(2000)
    assert diebold_mariano(y**2 - (y - noisy) ** 2).p_value > 0.5
    assert clark_west(y, noisy, zero).p_value < 0.05


def test_clark_west_without_a_signal_is_rarely_significant():
    """500 records: the Monte-Carlo error at .05 is .010; the test is known to be timid."""
    rng = np.random.default_rng(7)
    y, forecast = rng.standard_normal((2, 500, 400))
    p = [clark_west(a, 0.1 * b, 0 * a).p_value for a, b in zip(y, forecast, strict=True)]
    assert np.mean(np.array(p) < 0.05) < 0.05 + 3 * 0.010


def test_pesaran_timmermann_is_close_to_its_formula_of_1992():
    rng = np.random.default_rng(8)
    move = rng.standard_normal(3000)
    called = move + 4 * rng.standard_normal(3000) + 0.5
    up, said = np.mean(move > 0), np.mean(called > 0)
    agreed, chance = np.mean((move > 0) == (called > 0)), up * said + (1 - up) * (1 - said)
    n = 3000
    spread = chance * (1 - chance) / n
    spread -= ((2 * up - 1) ** 2 * said * (1 - said) + (2 * said - 1) ** 2 * up * (1 - up)) / n
    spread -= 4 * up * said * (1 - up) * (1 - said) / n**2
    expected = (agreed - chance) / np.sqrt(spread)
    assert_allclose(pesaran_timmermann(move, called).statistic, expected, rtol=0.05)


def test_always_calling_up_shows_no_timing():
    move = np.random.default_rng(9).standard_normal(100)
    assert pesaran_timmermann(move, np.ones(100)).p_value == 1.0


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


def test_a_share_of_no_trials_has_the_interval_zero_to_one() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)
    assert not is_surely_above(0.05, count=0, trials=0, alpha=0.5)


@pytest.mark.parametrize("trials", [1, 3, 20, 500])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_is_surely_above_holds_where_the_count_is_rare_under_the_share(
    trials: int, share: float
) -> None:
    for count in range(min(trials, 60) + 1):
        rare = float(stats.binom.sf(count - 1, trials, share)) <= 1e-3
        assert is_surely_above(share, count=count, trials=trials, alpha=1e-3) == rare


def test_one_failure_of_one_is_not_sure_and_all_of_three_are() -> None:
    assert not is_surely_above(0.05, count=1, trials=1, alpha=1e-3)
    assert is_surely_above(0.05, count=3, trials=3, alpha=1e-3)
