"""Positions, costs, trading figures, and the published examples of Sharpe ratio tests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mlops.stats import trading
from mlops.stats.trading import (
    SharpeMoments,
    count_trades,
    deflated_sharpe,
    effective_trials,
    expected_maximum,
    max_drawdown,
    minimum_track_record,
    net_returns,
    positions_from_edge,
    probabilistic_sharpe,
    profit_factor,
    sharpe_per_bar,
    trading_figures,
    trailing_volatility,
    win_rate,
)

RETURNS = np.array([0.01, -0.02, 0.03, -0.01])


def test_the_figures_of_four_returns_are_known():
    assert_allclose(sharpe_per_bar(RETURNS), 0.1127469, atol=1e-7)
    assert_allclose(sharpe_per_bar(RETURNS) * np.sqrt(8760), 10.552532, atol=1e-6)
    assert_allclose(max_drawdown(RETURNS), -0.02)
    assert_allclose(profit_factor(RETURNS), 4 / 3)
    assert win_rate(RETURNS) == 0.5


def test_costs_are_paid_on_the_change_of_position():
    net = net_returns([1, 1, -1, 0], [0.01, -0.02, 0.03, 0.01], fee_bps=5)
    assert_allclose(net, [0.0095, -0.02, -0.031, -0.0005])


def test_a_missing_next_bar_earns_nothing():
    assert_array_equal(net_returns([1.0, 1.0], [np.nan, 0.01], fee_bps=0), [0.0, 0.01])


def test_the_start_counts_in_the_drawdown():
    assert_allclose(max_drawdown([-0.1, 0.5]), -0.1)
    assert max_drawdown([0.1, 0.2]) == 0.0


def test_equity_is_zero_after_a_short_position_loses_more_than_all():
    assert max_drawdown([0.1, -1.6, 0.5]) == -1.0
    figures = trading_figures([-1.0, -1.0], [2.5, 0.1], fee_bps=0, bars_per_year=8760)
    assert figures.max_drawdown == figures.total_return == -1.0


@pytest.mark.parametrize(
    ("returns", "expected"), [([0.0, 0.1], np.inf), ([0.0, 0.0], np.nan), ([-0.1, 0.0], 0.0)]
)
def test_a_profit_factor_without_losses_is_infinite_or_undefined(returns, expected):
    assert_array_equal(profit_factor(returns), expected)


def test_bars_without_a_position_do_not_count_as_lost():
    assert win_rate([0.0, 0.1, 0.0]) == 1.0
    assert np.isnan(win_rate([0.0]))


@pytest.mark.parametrize("returns", [[0.1], [0.01] * 9, []])
def test_a_series_without_variation_has_no_sharpe_ratio(returns):
    assert np.isnan(sharpe_per_bar(returns))


def test_trades_are_counted_when_a_side_is_taken():
    assert count_trades([0, 0.2, 0.5, -0.1, 0, -0.3, -0.3]) == 3


@given(st.integers(21, 60), st.integers(0, 2**32 - 1))
def test_positions_read_no_future(cut, seed):
    rng = np.random.default_rng(seed)
    edge = rng.standard_normal(80)
    changed = np.concatenate([edge[:cut], 100 * rng.standard_normal(80 - cut)])
    assert_array_equal(positions_from_edge(edge)[:cut], positions_from_edge(changed)[:cut])


def test_positions_do_not_depend_on_the_unit_of_the_forecast():
    edge = np.random.default_rng(1).standard_normal(300)
    assert_allclose(positions_from_edge(edge), positions_from_edge(1e-5 * edge), rtol=1e-10)


def test_positions_are_bounded_and_missing_forecasts_hold_none():
    edge = np.random.default_rng(2).standard_t(2, 500)
    edge[[50, 60]] = np.nan, np.inf
    held = positions_from_edge(edge)
    assert np.all(np.abs(held) <= 1)
    assert_array_equal(held[[50, 60]], 0)
    assert_array_equal(held[: trading.WARM_ROWS], 0)


def test_a_forecaster_without_forecasts_never_trades():
    assert_array_equal(positions_from_edge(np.zeros(100)), 0)


@pytest.fixture(scope="module")
def predictable():
    """Hourly returns of .5 % volatility of which 2 % of the variance is known beforehand."""
    rng = np.random.default_rng(3)
    edge, shock = 0.005 * np.sqrt([[0.02], [0.98]]) * rng.standard_normal((2, 200_000))
    return edge, edge + shock


def test_an_edge_of_two_percent_survives_one_basis_point(predictable):
    """The Monte-Carlo error of a Sharpe ratio per bar from 200,000 bars is .002."""
    edge, returns = predictable
    free, paid = (
        sharpe_per_bar(net_returns(positions_from_edge(edge), returns, fee_bps=fee))
        for fee in (0, 1)
    )
    sign = sharpe_per_bar(net_returns(np.sign(edge), returns, fee_bps=1))
    assert free == pytest.approx(0.138, abs=0.006)
    assert paid > 0.8 * free
    assert paid > 1.15 * sign


def test_a_worthless_forecast_earns_nothing_without_costs(predictable):
    """400 records of 500 bars; t-statistics of a martingale have mean 0 and deviation 1."""
    returns = predictable[1].reshape(400, 500)
    noise = np.random.default_rng(4).standard_t(3, returns.shape)
    t = [
        sharpe_per_bar(net_returns(positions_from_edge(f), r, fee_bps=0)) * np.sqrt(500)
        for f, r in zip(noise, returns, strict=True)
    ]
    assert abs(np.mean(t)) < 3 * 0.05
    assert np.std(t) == pytest.approx(1.0, abs=0.12)


def test_volatility_knows_only_bars_before_the_forecast():
    returns = np.random.default_rng(5).standard_normal(100) * 0.01
    shocked = returns.copy()
    shocked[60] = 5.0
    before, after = trailing_volatility(returns), trailing_volatility(shocked)
    assert_array_equal(before[:61], after[:61])
    assert after[61] > 10 * before[61]
    assert np.isnan(before[: trading.WARM_ROWS]).all()


def test_a_market_that_never_moves_has_no_volatility():
    assert np.isnan(trailing_volatility(np.zeros(50))).all()


def test_costs_without_a_gain_are_an_infinite_share():
    figures = trading_figures([1.0, -1.0], [-0.1, 0.1], fee_bps=1, bars_per_year=8760)
    assert figures.cost_share == np.inf
    assert trading_figures([1.0], [-0.1], fee_bps=0, bars_per_year=1).cost_share == 0.0


def test_figures_agree_with_one_another():
    figures = trading_figures(np.ones(4), RETURNS, fee_bps=0, bars_per_year=8760)
    assert_allclose(figures.sharpe_ratio, 10.552532, atol=1e-6)
    assert_allclose(figures.total_return, np.prod(1 + RETURNS) - 1)
    assert (figures.n_trades, figures.turnover_per_bar) == (1, 0.25)


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


def test_a_negative_sharpe_ratio_needs_an_infinite_track_record():
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
