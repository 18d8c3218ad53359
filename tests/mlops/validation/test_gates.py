"""The whole judgement: what passes, what is refused and by which gate."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.service import Target
from mlops.validation.evidence import Evidence, Integrity, Thresholds
from mlops.validation.gates import judge

LABEL_BARS = 12


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
