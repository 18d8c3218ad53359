"""How often the shipped rules call drift without any, and find what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlops.monitoring.drift.report import (
    Recommendation,
    Role,
    check_drift,
    first_state,
    judge_hourly,
)
from tests.mlops.monitoring.frames import MONTH, WINDOW, each_path, fit, settings
from tests.mlops.monitoring.sample import alarms
from tests.mlops.monitoring.series import (
    GAP,
    autoregressive,
    evidently_alarms,
    garch,
    iid,
    kolmogorov_smirnov_alarms,
    market,
    ten_columns,
)

REFERENCE = 5000
RHO = 0.15
"""Correlation of the forecasts with the outcomes, as good as bars of a market allow."""


def within(bound, paths):
    """Three standard errors of a share that is at the bound."""
    return 3 * np.sqrt(bound * (1 - bound) / paths)


def months_that_retrain(paths, seed, change=lambda month: month):
    """Share of months of official windows that end in a retraining."""
    rng = np.random.default_rng(seed)
    frames = each_path(ten_columns(paths, REFERENCE + MONTH, rng))
    return np.mean([_retrains(frame, change) for frame in frames])


def _retrains(frame, change):
    before = frame[:REFERENCE]
    reference, month = fit(before), change(frame[REFERENCE:].copy())
    state = first_state(reference)
    asked = False
    for end in range(WINDOW, MONTH + 1, WINDOW):
        report, state = judge_hourly(reference, month[:end], state, settings())
        asked |= report.recommendation.asks_for_retraining
        assert report.official
    assert state.windows == 4
    return asked


def three_columns_up(month):
    for name in ("ret", "AR.9", "iid"):
        month[name] += 1.0
    return month


def test_a_month_without_drift_rarely_asks_for_a_retraining():
    assert months_that_retrain(24, seed=401) <= 0.07 + within(0.07, 24)


def test_a_month_with_three_shifted_columns_nearly_always_does():
    assert months_that_retrain(12, 402, three_columns_up) >= 0.98 - within(0.98, 12)


@pytest.mark.slow
def test_two_hundred_months_without_drift_stay_within_the_budget():
    rate = months_that_retrain(200, seed=403)
    print("RETRAIN without drift", rate)
    assert rate <= 0.07


@pytest.mark.slow
def test_of_two_hundred_months_with_three_shifted_columns_nearly_all_are_found():
    rate = months_that_retrain(200, 404, three_columns_up)
    print("RETRAIN with three columns up", rate)
    assert rate >= 0.98


def fast_alarms(paths, seed):
    """Share of months in which two looks in a row lie beyond the level of the fast path."""
    config = settings()
    rng = np.random.default_rng(seed)
    alarms = []
    for frame in each_path(ten_columns(paths, REFERENCE + MONTH, rng)):
        reference = fit(frame[:REFERENCE])
        level, ends = config.fast_level(reference.testable), np.arange(REFERENCE, len(frame)) + 1
        beyond = []
        for column in reference.columns:
            found = column.null.check(frame[column.name].to_numpy(), WINDOW, ends)
            beyond.append((found.p_value < level) & (found.effect >= 0.3))
        confirmed = np.array(beyond)[:, 1:] & np.array(beyond)[:, :-1]
        alarms.append(confirmed.any())
    return np.mean(alarms)


def test_the_fast_path_rarely_alarms_in_a_month_of_hourly_looks():
    assert fast_alarms(12, seed=405) <= 0.05 + within(0.05, 12)


@pytest.mark.slow
def test_the_fast_path_stays_within_its_own_share():
    rate = fast_alarms(200, seed=406)
    print("fast path without drift", rate)
    assert rate <= 0.05


@pytest.mark.slow
def test_all_rules_together_stay_within_the_budget():
    rng = np.random.default_rng(414)
    frames = each_path(ten_columns(200, REFERENCE + MONTH, rng))
    met = []
    for frame in frames:
        roles = dict.fromkeys(map(str, frame), Role.FEATURE)
        found = alarms(frame, roles | {"rv24": Role.TARGET, "abs": Role.REALISED})
        met.append([np.isfinite(first) for first in found.values()])
    print("RETRAIN without drift by windows, fast path, jumps", np.mean(met, axis=0))
    rate = np.any(met, axis=1).mean()
    print("by any", rate)
    assert rate <= 0.05 + within(0.05, 200)
    assert rate <= 0.07


def thirty_columns(paths, seed):
    """Features of four markets and of nothing."""
    rng = np.random.default_rng(seed)
    bars = REFERENCE + GAP + WINDOW
    found = {
        f"{name}{number}": x for number in range(4) for name, x in market(paths, bars, rng).items()
    }
    slow = {f"AR{number}": autoregressive(0.9, paths, bars, rng) for number in range(3)}
    return {
        **found,
        **slow,
        "AR.98": autoregressive(0.98, paths, bars, rng),
        "iid0": iid(paths, bars, rng),
        "iid1": iid(paths, bars, rng),
    }


def dataset_alarms(paths, seed):
    """Share of data sets called drifted: by us, by any KS p < .05, by Evidently's default."""
    verdicts = []
    for frame in each_path(thirty_columns(paths, seed)):
        reference, window = frame[:REFERENCE], frame[-WINDOW:]
        report = check_drift(fit(reference), window, settings())
        pairs = [(reference[name].to_numpy(), window[name].to_numpy()) for name in frame]
        usual = any(kolmogorov_smirnov_alarms(*pair) for pair in pairs)
        share = np.mean([evidently_alarms(*pair) for pair in pairs])
        verdicts.append((bool(report.rejections.noticed), usual, share >= 0.5))
    return np.mean(verdicts, axis=0)


def test_thirty_columns_without_drift_are_called_so_where_usual_verdicts_never_do():
    ours, smirnov, evidently = dataset_alarms(10, seed=407)
    assert ours <= 0.08 + within(0.08, 10)
    assert smirnov == 1.0
    assert evidently > 0.8


@pytest.mark.slow
def test_thirty_columns_without_drift_are_rarely_noticed():
    ours, smirnov, evidently = dataset_alarms(200, seed=408)
    print("P=30 without drift: ours, any KS, Evidently", ours, smirnov, evidently)
    assert ours <= 0.08
    assert smirnov == 1.0
    assert evidently > 0.8


def degradation_alarms(paths, n, seed, *, rise=1.0, skill=RHO):
    """Share of windows called degraded: by us on the loss beyond the naive one, by MSE +15 %."""
    rng = np.random.default_rng(seed)
    bars = REFERENCE + GAP + n
    signal = rng.standard_normal((paths, bars))
    returns, volatility = garch(paths, bars, rng)
    later = np.arange(bars) >= REFERENCE + GAP
    rho = np.where(later, skill, RHO)
    outcome = rho * signal * volatility + np.sqrt(1 - rho**2) * returns
    outcome *= np.where(later, rise, 1.0)
    loss, naive = (outcome - RHO * signal) ** 2, outcome**2
    verdicts = []
    for own, plain in zip(loss, naive, strict=True):
        frame = pd.DataFrame({"loss": own - plain})
        report = check_drift(
            fit(frame[:REFERENCE], loss=Role.LOSS), frame[-n:], settings(window_bars=n)
        )
        worse = own[-n:].mean() > 1.15 * own[:REFERENCE].mean()
        verdicts.append((bool(report.rejections.noticed), worse))
    return np.mean(verdicts, axis=0)


def test_higher_volatility_is_no_lost_skill_where_the_usual_rule_says_so():
    ours, usual = degradation_alarms(60, WINDOW, seed=409, rise=1.5)
    assert ours <= 0.08 + within(0.08, 60)
    assert usual >= 0.8 - within(0.8, 60)


def test_lost_skill_is_found():
    assert degradation_alarms(60, 500, 410, skill=0.0)[0] >= 0.75 - within(0.75, 60)


@pytest.mark.slow
@pytest.mark.parametrize("n", [WINDOW, 500])
def test_higher_volatility_is_rarely_called_lost_skill(n):
    ours, usual = degradation_alarms(300, n, seed=411, rise=1.5)
    print("vol x1.5, skill kept: ours, MSE +15 %", n, ours, usual)
    assert ours <= 0.08
    assert usual >= 0.8 - within(0.8, 300)


@pytest.mark.slow
def test_the_power_to_find_lost_skill_is_that_documented():
    ours, usual = degradation_alarms(300, 500, seed=412, skill=0.0)
    print("skill gone: ours, MSE +15 %", ours, usual)
    assert ours >= 0.75


def test_a_loss_that_falls_is_no_drift():
    rng = np.random.default_rng(413)
    frame = pd.DataFrame({"loss": rng.standard_normal(REFERENCE + WINDOW)})
    reference = fit(frame[:REFERENCE], loss=Role.LOSS)
    better, worse = frame[-WINDOW:] - 1.0, frame[-WINDOW:] + 1.0
    assert check_drift(reference, better).recommendation is Recommendation.NO_ACTION_NEEDED
    report = check_drift(reference, worse)
    assert report.recommendation is Recommendation.RETRAIN_IMMEDIATELY
    assert report.performance_degraded
    assert not report.drift_detected
