"""The platform's three thresholds in the target's terms, and literally in strict mode."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.service import Target
from mlops.validation.evidence import ThresholdMode, Thresholds
from mlops.validation.gates import judge_thresholds

STRICT = Thresholds(mode=ThresholdMode.STRICT)


def verdicts(evidence, thresholds=None):
    return {r.title: r for r in judge_thresholds(evidence, thresholds or Thresholds())}


def refused(evidence, thresholds=None):
    return {title for title, r in verdicts(evidence, thresholds).items() if r.refuses}


@pytest.fixture
def last_price(record, return_evidence):
    """A price service whose model repeats the last price."""
    price = 60_000 * np.exp(np.cumsum(0.005 * np.random.default_rng(0).standard_normal(3001)))
    rows = record(
        price[1:],
        price[:-1],
        target=Target.PRICE,
        persistence=price[:-1],
        returns=price[1:] / price[:-1] - 1,
    )
    return replace(return_evidence(), walk_forward=rows, holdout=rows, trials=None)


@pytest.mark.parametrize(
    "limits", [{"min_model_accuracy": 0.99}, {"min_r2_score": 0.999}, {"max_model_mse": 1e-6}]
)
def test_each_limit_is_literal_for_a_volatility(volatility_evidence, limits):
    assert not refused(volatility_evidence())
    assert refused(volatility_evidence(), Thresholds(**limits)) == {
        "MIN_MODEL_ACCURACY" if "min_model_accuracy" in limits else next(iter(limits)).upper()
    }


def test_a_return_is_told_what_it_cannot_reach_but_not_refused(return_evidence):
    found = verdicts(return_evidence())
    assert not found["MIN_R2_SCORE"].passed
    assert "unreachable without leakage" in found["MIN_R2_SCORE"].reason
    assert not refused(return_evidence())


def test_strict_mode_refuses_every_honest_return_model(return_evidence):
    assert refused(return_evidence(), STRICT) == {"MIN_MODEL_ACCURACY", "MIN_R2_SCORE"}


def test_the_last_price_has_a_splendid_r2_and_no_skill(last_price):
    """R2 above .99 passes MIN_R2_SCORE; the naive comparison refuses."""
    found = verdicts(last_price, Thresholds(max_model_mse=1e9))
    assert found["MIN_R2_SCORE"].value > 0.99
    assert found["MIN_R2_SCORE"].passed
    assert found["MSE against naive"].value == 1.0
    assert found["MSE against naive"].refuses


def test_a_price_also_answers_for_its_mse(last_price):
    assert "MAX_MODEL_MSE" in refused(last_price)


def test_a_volatility_worse_than_its_baseline_is_noted_here_and_refused_elsewhere(
    volatility_evidence,
):
    found = verdicts(volatility_evidence(error=1.5))["MSE against naive"]
    assert not found.passed
    assert not found.refuses


def test_a_refit_is_held_to_the_limits_by_its_recipes_whole_record(volatility_evidence):
    """On bars where nothing moves no forecast has an R2, however close it comes."""
    found = volatility_evidence()
    quiet, still = found.holdout, np.mean(found.holdout.y)
    calm = replace(
        quiet,
        y=still + 0.02 * (quiet.y - still),
        forecast=still + 0.02 * (quiet.forecast - quiet.y),
    )
    refit = replace(found, walk_forward=calm, holdout=calm, trials=None, n_trials=1, refit=True)
    assert "MIN_R2_SCORE" in refused(refit)
    continued = replace(refit, record=calm.after(found.walk_forward))
    assert not refused(continued)
    assert verdicts(continued)["MIN_R2_SCORE"].n == len(found.walk_forward) + len(calm)
