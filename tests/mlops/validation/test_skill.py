"""G2: every trial counts, none can hide, and the winner must be good itself."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.service import Target
from mlops.validation.report import Severity
from mlops.validation.skill import judge_skill, rank_trials, trial_gains


def skill(evidence):
    return judge_skill(evidence)[0]


def chosen(evidence, name):
    """The same search with another winner."""
    own = evidence.walk_forward.of(evidence.trials[name])
    return replace(evidence, winner=name, walk_forward=own)


def alone(evidence, **changes):
    """The same winner as the only trial."""
    kept = {evidence.winner: evidence.walk_forward.forecast}
    return replace(evidence, trials=kept, **{"n_trials": 1} | changes)


def test_an_edge_of_two_percent_passes_after_costs(return_evidence):
    result = skill(return_evidence())
    assert result.passed
    assert "SPA, profit after 1 bps" in result.reason


def test_a_search_on_noise_is_refused(return_evidence):
    assert skill(return_evidence(r2=0.0)).refuses


def test_costs_above_the_edge_refuse(return_evidence):
    assert skill(return_evidence(fee_bps=10.0)).refuses


@pytest.mark.parametrize("target", [Target.PRICE, Target.DIRECTION])
def test_a_forecast_that_takes_a_side_is_judged_by_its_profit(return_evidence, record, target):
    """The same knowledge as a price or a probability: worth having at 1 bp, not at 10."""
    evidence = return_evidence()
    edge, returns = evidence.walk_forward.forecast, evidence.walk_forward.next_return
    price = target is Target.PRICE
    naive = np.full(len(edge), 100.0 if price else 0.5)
    forecast = 100.0 * (1.0 + edge) if price else 0.5 + 20.0 * edge
    y = 100.0 * (1.0 + returns) if price else (returns > 0).astype(float)
    rows = record(y, forecast, target=target, persistence=naive, returns=returns)
    only = {"walk_forward": rows, "holdout": rows, "trials": {"trial 0": forecast}}
    one = replace(evidence, n_trials=1, refit=True, **only)
    assert skill(one).passed
    assert skill(replace(one, fee_bps=10.0)).refuses


def test_the_skill_of_one_trial_does_not_carry_another(return_evidence):
    result = skill(chosen(return_evidence(), "trial 3"))
    assert result.refuses
    assert "not the chosen winner" in result.reason


def test_a_better_forecast_of_volatility_passes_and_a_worse_one_does_not(volatility_evidence):
    assert skill(volatility_evidence()).passed
    assert skill(volatility_evidence(error=1.5)).refuses


@pytest.mark.parametrize("idle", [np.zeros(4000), np.full(4000, np.nan)])
def test_trials_that_never_trade_neither_help_nor_hurt(return_evidence, idle):
    evidence = return_evidence()
    trials = dict(evidence.trials) | {"idle": idle}
    result = skill(replace(evidence, trials=trials, n_trials=7))
    assert result.value == skill(evidence).value
    assert skill(chosen(replace(evidence, trials=trials, n_trials=7), "idle")).refuses


def test_a_search_of_identical_trials_is_judged_as_one(return_evidence):
    evidence = return_evidence(r2=0.004)
    own = evidence.walk_forward.forecast
    one = replace(evidence, trials={"trial 0": own, "b": own}, n_trials=2)
    many = replace(evidence, trials=dict.fromkeys(["trial 0", *"bcdef"], own))
    assert skill(one).value == skill(many).value


def test_a_constant_gain_is_no_evidence(volatility_evidence):
    evidence = volatility_evidence()
    rows = replace(
        evidence.walk_forward,
        baseline=evidence.walk_forward.y + 1,
        forecast=evidence.walk_forward.y,
    )
    evidence = replace(evidence, walk_forward=rows, trials=None, n_trials=1)
    assert skill(evidence).refuses


@pytest.mark.parametrize("passed", [True, False])
def test_a_single_trial_is_judged_alone(return_evidence, volatility_evidence, passed):
    by_profit = skill(alone(return_evidence(r2=0.02 * passed)))
    by_loss = skill(alone(volatility_evidence(error=0.2 if passed else 1.5)))
    assert (by_profit.passed, by_loss.passed) == (passed, passed)
    assert "probabilistic Sharpe ratio" in by_profit.reason
    assert "Diebold-Mariano" in by_loss.reason


def test_missing_records_cost_power_but_are_allowed_for(return_evidence, volatility_evidence):
    for evidence in (return_evidence(), volatility_evidence()):
        kept, lost = (skill(alone(evidence, n_trials=n)) for n in (1, 200))
        assert lost.value > kept.value
        assert "were not kept" in lost.reason


def test_a_smaller_alpha_asks_for_more_skill(return_evidence):
    evidence = alone(return_evidence(r2=0.01))
    p = skill(evidence).value
    assert skill(replace(evidence, alpha=2 * p)).passed
    assert skill(replace(evidence, alpha=p / 2)).refuses


def test_other_figures_of_a_sharpe_ratio_are_advice(return_evidence):
    advice = judge_skill(return_evidence())[1:]
    titles = [result.title for result in advice]
    assert titles == ["PSR", "DSR", "DSR, independent trials", "track record", "PBO"]
    assert {result.severity for result in advice} == {Severity.ADVISORY}


def test_trials_are_ranked_by_what_the_gate_measures(return_evidence):
    evidence = return_evidence()
    ranked = rank_trials(evidence.walk_forward, evidence.trials, fee_bps=1.0)
    assert next(iter(ranked)) == "trial 0"
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)


def test_gains_leave_out_rows_without_a_known_volatility(return_evidence):
    evidence = return_evidence()
    gains = trial_gains(evidence.walk_forward, evidence.trials, fee_bps=1.0)
    assert gains.shape == (4000 - 20, 6)
    assert np.isfinite(gains).all()


@pytest.mark.parametrize("horizon", [1, 24])
def test_single_return_trials_on_noise_pass_as_often_as_they_may(record, horizon):
    """300 records of 1,000 bars, forecasts as slow as their labels: error .013 at .05."""
    from mlops.service import Target
    from mlops.stats.trading import SharpeMoments, probabilistic_sharpe

    rng = np.random.default_rng(11)
    passed = 0
    for _ in range(300):
        returns = 0.005 * rng.standard_normal(1000)
        slow = np.convolve(rng.standard_normal(999 + horizon), np.ones(horizon), "valid")
        rows = record(returns, slow, target=Target.RETURN, horizon=horizon)
        gains = trial_gains(rows, {"one": slow}, fee_bps=0.0)[:, 0]
        passed += probabilistic_sharpe(SharpeMoments.of(gains)) > 0.95
    assert 0.05 - 3 * 0.013 < passed / 300 < 0.05 + 3 * 0.013
