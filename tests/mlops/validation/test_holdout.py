"""G3, G4 and G5: untouched rows, the champion on the same rows, and risk."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.validation.evidence import Thresholds
from mlops.validation.holdout import judge_against_champion, judge_holdout, judge_risk

LIMITS = Thresholds()


def champion(evidence, forecast, **changes):
    result = judge_against_champion(replace(evidence, champion=forecast, **changes), LIMITS)
    return result[0]


def test_a_profit_on_untouched_rows_passes_and_a_loss_does_not(return_evidence):
    evidence = return_evidence()
    assert judge_holdout(evidence)[0].passed
    backwards = replace(evidence, holdout=evidence.holdout.of(-evidence.holdout.forecast))
    assert judge_holdout(backwards)[0].refuses


def test_a_forecast_that_never_trades_makes_no_profit(return_evidence):
    evidence = return_evidence()
    idle = replace(evidence, holdout=evidence.holdout.of(np.zeros(1500)))
    assert judge_holdout(idle)[0].refuses


def test_a_volatility_must_lose_less_than_its_baseline(volatility_evidence):
    assert judge_holdout(volatility_evidence())[0].passed
    assert judge_holdout(volatility_evidence(error=1.5))[0].refuses


def test_the_tests_of_the_holdout_alone_are_advice(return_evidence):
    advice = judge_holdout(return_evidence())[1:]
    assert [r.title for r in advice] == [
        "holdout signs (PT)",
        "holdout nested (CW)",
        "holdout loss (DM)",
        "holdout profit (PSR)",
    ]
    assert not any(result.refuses for result in advice)


def test_without_any_forecast_the_holdout_refuses(return_evidence):
    evidence = return_evidence()
    empty = replace(evidence, holdout=evidence.holdout.of(np.full(1500, np.nan)))
    assert judge_holdout(empty)[0].refuses


def test_the_first_challenger_meets_no_champion(volatility_evidence):
    assert champion(volatility_evidence(), None).passed


def test_a_candidate_worse_than_the_champion_is_refused(volatility_evidence):
    evidence = volatility_evidence()
    assert champion(evidence, evidence.holdout.y).refuses


def test_an_equal_candidate_passes_into_a_test_but_not_straight_into_production(
    volatility_evidence,
):
    evidence = volatility_evidence()
    same = evidence.holdout.forecast
    assert champion(evidence, same).passed
    assert champion(evidence, same, require_better=True).refuses
    assert champion(evidence, same, require_better=True, champion_healthy=False).passed


def test_a_better_candidate_may_go_straight_into_production(volatility_evidence):
    evidence = volatility_evidence()
    assert champion(evidence, evidence.holdout.baseline, require_better=True).passed


def test_return_forecasts_are_compared_by_losses_in_known_volatility(return_evidence):
    evidence = return_evidence()
    result = champion(evidence, 3 * evidence.holdout.forecast)
    assert result.passed
    assert result.n == 1480


def test_only_bars_both_forecast_are_compared(volatility_evidence):
    evidence = volatility_evidence()
    partly = np.where(np.arange(1200) < 700, np.nan, evidence.holdout.y)
    assert champion(evidence, partly).n == 500
    assert champion(evidence, np.full(1200, np.nan)).passed


def test_a_champion_fitted_on_the_bars_is_not_met_there(volatility_evidence):
    """Its perfect memory of them proves nothing: too few new bars leave the matter open."""
    evidence = volatility_evidence()
    remembered = np.where(np.arange(1200) < 721, np.nan, evidence.holdout.y)
    result = champion(evidence, remembered)
    assert result.passed
    assert result.n == 479
    assert "480 are needed" in result.reason
    assert champion(evidence, remembered, require_better=True).refuses


@pytest.mark.parametrize(
    ("limits", "title"),
    [({"max_drawdown": 0.001}, "drawdown"), ({"max_cost_share": 0.01}, "costs")],
)
def test_risk_above_its_limit_refuses(return_evidence, limits, title):
    assert not any(r.refuses for r in judge_risk(return_evidence(), LIMITS))
    result = {r.title: r for r in judge_risk(return_evidence(), Thresholds(**limits))}
    assert result[title].refuses


def test_a_volatility_forecast_runs_no_risk_of_its_own(volatility_evidence):
    result = judge_risk(volatility_evidence(), Thresholds(max_drawdown=1e-6))
    assert not result[0].passed
    assert not result[0].refuses
