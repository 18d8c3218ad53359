"""The whole judgement: what passes, what is refused and by which gate or limit."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.service import Target
from mlops.validation.evidence import Evidence, Integrity, ThresholdMode, Thresholds
from mlops.validation.gates import judge, judge_thresholds

LABEL_BARS = 12
STRICT = Thresholds(mode=ThresholdMode.STRICT)


def gates(report):
    return {result.name for result in report.refused_by}


def test_a_good_volatility_model_becomes_a_challenger(volatility_evidence):
    report = judge(volatility_evidence())
    assert report.passed, str(report)


def test_a_good_return_model_becomes_a_challenger(return_evidence):
    report = judge(return_evidence())
    assert report.passed, str(report)


def test_a_return_model_on_noise_is_refused_by_skill_not_by_a_threshold(return_evidence):
    refused = gates(judge(return_evidence(r2=0.0)))
    assert "G2" in refused
    assert "limits" not in refused


def test_every_gate_is_judged_even_after_a_refusal(return_evidence):
    evidence = return_evidence(r2=0.0, n_holdout=100)
    names = {result.name for result in judge(evidence).results}
    assert names == {"G0", "G1", "G2", "G3", "G4", "G5", "limits"}


def test_a_judgement_is_repeatable(return_evidence):
    assert judge(return_evidence()) == judge(return_evidence())


def test_the_baseline_cannot_promote_itself(volatility_evidence):
    evidence = volatility_evidence()
    early, late = evidence.walk_forward.of_baseline(), evidence.holdout.of_baseline()
    evidence = replace(evidence, walk_forward=early, holdout=late, trials=None, n_trials=1)
    assert {"G0", "G2", "G3"} <= gates(judge(evidence))


@pytest.fixture(scope="module")
def walk():
    """A random walk of 2,000 bars: smooth features of the past, labels 12 bars ahead."""
    returns = 0.005 * np.random.default_rng(0).standard_normal(2000 + 200 + LABEL_BARS)
    total = np.concatenate([[0.0], np.cumsum(returns)])
    rows = np.arange(200, 2200)
    features = np.stack([total[rows] - total[rows - k] for k in (6, 12, 24, 48, 96, 192)], axis=1)
    return features, total[rows + LABEL_BARS] - total[rows], returns[rows]


def judged_forecasts(walk, record, splitter, gap):
    """Evidence of an extra-trees model forecast by the splitter, as one fixed specification."""
    from sklearn.ensemble import ExtraTreesRegressor

    features, y, next_return = walk
    forecast = np.full(y.size, np.nan)
    for fit, test in splitter.split(features):
        model = ExtraTreesRegressor(60, random_state=0).fit(features[fit], y[fit])
        forecast[test] = model.predict(features[test])
    made = np.flatnonzero(np.isfinite(forecast))
    rows = record(
        y[made],
        forecast[made],
        target=Target.RETURN,
        horizon=LABEL_BARS,
        returns=next_return[made],
    )
    sound = Integrity(
        gap_bars=gap, ordered=True, feature_schema_matches=True, causality_proven=True
    )
    return Evidence(
        candidate="trees",
        walk_forward=rows,
        holdout=rows,
        winner="trees",
        trials=None,
        n_trials=1,
        integrity=sound,
        bars_per_year=8760.0,
        fee_bps=1.0,
        refit=True,
    )


def test_shuffled_validation_on_a_random_walk_raises_the_leak_alarm(walk, record):
    """Labels that overlap the fit's make a random walk look 80 % predictable."""
    from sklearn.model_selection import KFold

    shuffled = KFold(5, shuffle=True, random_state=0)
    report = judge(judged_forecasts(walk, record, shuffled, LABEL_BARS))
    assert report["leak alarm"].refuses
    assert "suspected_leakage" in report["leak alarm"].reason
    assert report["limits"].value > 0.7


def test_the_same_walk_with_a_gap_raises_none_and_is_refused(walk, record):
    from sklearn.model_selection import TimeSeriesSplit

    forward = TimeSeriesSplit(5, gap=LABEL_BARS)
    report = judge(judged_forecasts(walk, record, forward, LABEL_BARS))
    assert report["leak alarm"].passed
    assert "G2" in gates(report)


def test_the_last_price_is_refused_as_a_price_model(record):
    price = 100 * np.exp(np.cumsum(0.005 * np.random.default_rng(1).standard_normal(3001)))
    rows = record(
        price[1:], price[:-1], target=Target.PRICE, persistence=price[:-1], returns=np.diff(price)
    )
    evidence = Evidence(
        candidate="last",
        walk_forward=rows,
        holdout=rows,
        winner="last",
        trials=None,
        n_trials=1,
        integrity=Integrity(
            gap_bars=1, ordered=True, feature_schema_matches=True, causality_proven=True
        ),
        bars_per_year=8760.0,
        fee_bps=0.0,
        refit=True,
    )
    report = judge(evidence, Thresholds(max_model_mse=1e6))
    assert report["MIN_R2_SCORE"].value > 0.99
    assert report["MSE against naive"].refuses


def test_daily_refits_on_noise_promote_nothing(return_evidence):
    """A daily refit spends alpha / 365: 40 worthless refits pass with probability .005."""
    passed = [
        judge(
            return_evidence(
                seed=seed, r2=0.0, n=600, n_holdout=600, n_kept=1, fee_bps=0.0, alpha=0.05 / 365
            )
        ).passed
        for seed in range(40)
    ]
    assert not any(passed)


def limit_results(evidence, thresholds=None):
    return {r.title: r for r in judge_thresholds(evidence, thresholds or Thresholds())}


def refused_limits(evidence, thresholds=None):
    return {title for title, r in limit_results(evidence, thresholds).items() if r.refuses}


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
    assert not refused_limits(volatility_evidence())
    assert refused_limits(volatility_evidence(), Thresholds(**limits)) == {
        "MIN_MODEL_ACCURACY" if "min_model_accuracy" in limits else next(iter(limits)).upper()
    }


def test_limits_out_of_reach_of_a_return_are_noted_and_do_not_refuse(return_evidence):
    found = limit_results(return_evidence())
    assert not found["MIN_R2_SCORE"].passed
    assert "unreachable without leakage" in found["MIN_R2_SCORE"].reason
    assert not refused_limits(return_evidence())


def test_strict_mode_refuses_every_honest_return_model(return_evidence):
    assert refused_limits(return_evidence(), STRICT) == {"MIN_MODEL_ACCURACY", "MIN_R2_SCORE"}


def test_the_last_price_has_a_splendid_r2_and_no_skill(last_price):
    """R2 above .99 passes MIN_R2_SCORE; the naive comparison refuses."""
    found = limit_results(last_price, Thresholds(max_model_mse=1e9))
    assert found["MIN_R2_SCORE"].value > 0.99
    assert found["MIN_R2_SCORE"].passed
    assert found["MSE against naive"].value == 1.0
    assert found["MSE against naive"].refuses


def test_the_mse_limit_is_literal_for_a_price(last_price):
    assert "MAX_MODEL_MSE" in refused_limits(last_price)


def test_a_volatility_worse_than_its_baseline_is_noted_here_and_refused_elsewhere(
    volatility_evidence,
):
    found = limit_results(volatility_evidence(error=1.5))["MSE against naive"]
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
    assert "MIN_R2_SCORE" in refused_limits(refit)
    continued = replace(refit, record=calm.after(found.walk_forward))
    assert not refused_limits(continued)
    assert limit_results(continued)["MIN_R2_SCORE"].n == len(found.walk_forward) + len(calm)
