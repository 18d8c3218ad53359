"""Tests of one forecast against another and against chance."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import t

from mlops.stats.comparison import clark_west, diebold_mariano, pesaran_timmermann

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
