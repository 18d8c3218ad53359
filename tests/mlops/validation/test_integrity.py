"""G0 and G1: honest records pass, each fault is named, and luck is not taken for skill."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.service import Target
from mlops.validation.evidence import Override, Thresholds
from mlops.validation.integrity import CALLERS_WORD, judge_integrity, judge_leakage
from tests.findings import findings_with

LIMITS = Thresholds()


def refused(results):
    return {result.title for result in results if result.refuses}


def test_an_honest_record_passes_every_integrity_gate(return_evidence, volatility_evidence):
    assert not refused(judge_integrity(return_evidence(), LIMITS))
    assert not refused(judge_integrity(volatility_evidence(), LIMITS))


@pytest.mark.parametrize(
    ("fault", "title"),
    [
        ({"gap_bars": 23}, "gap"),
        ({"ordered": False}, "order in time"),
        ({"feature_schema_matches": False}, "feature schema"),
        ({"causality_proven": False}, "causality"),
    ],
)
def test_each_unsound_fact_refuses(volatility_evidence, fault, title):
    evidence = volatility_evidence()
    evidence = replace(evidence, integrity=replace(evidence.integrity, **fault))
    assert refused(judge_integrity(evidence, LIMITS)) == {title}


def test_bars_of_which_nobody_knows_what_was_found_are_not_judged(volatility_evidence):
    """Models may be judged on records whose bars were never read here."""
    titles = [result.title for result in judge_integrity(volatility_evidence(), LIMITS)]
    assert "data quality" not in titles


@pytest.mark.parametrize(
    ("counts", "share", "passes"),
    [
        ({}, 0.0, True),
        ({"re_read": 2}, 2 / 10_002, True),
        ({"duplicate": 5_000, "not_closed": 1}, 0.0, True),
        ({"bad_prints": 100}, 0.01, True),
        ({"bad_prints": 101}, 0.0101, False),
        ({"invalid": 60, "bad_prints": 60}, 60 / 10_060 + 0.006, False),
        ({"of a later release": 102}, 102 / 10_102, False),
    ],
)
def test_bars_are_judged_by_the_share_that_is_doubtful(volatility_evidence, counts, share, passes):
    evidence = volatility_evidence(findings=findings_with(**counts))
    results = judge_integrity(evidence, LIMITS)
    (told,) = [result for result in results if result.title == "data quality"]
    assert told.name == "G0"
    assert (told.value, told.threshold) == (pytest.approx(share), 0.01)
    assert refused(results) == (set() if passes else {"data quality"})


def test_the_reason_counts_rows_and_bars(volatility_evidence):
    evidence = volatility_evidence(findings=findings_with(re_read=2, bad_prints=3))
    assert judge_integrity(evidence, LIMITS)[0].reason == (
        "2 of 10,002 rows were dropped or merged and 3 of 10,000 bars are suspected of an error "
        "(0.05% together)"
    )


def test_what_only_the_caller_says_is_noted_and_refuses_nobody(volatility_evidence):
    evidence = volatility_evidence()
    said = replace(evidence.integrity, word="only the caller's word says so")
    results = judge_integrity(replace(evidence, integrity=said), LIMITS)
    [noted] = [result for result in results if result.title == CALLERS_WORD]
    assert (noted.outcome, noted.reason) == ("noted", "only the caller's word says so")
    assert not refused(results)
    assert CALLERS_WORD not in {r.title for r in judge_integrity(evidence, LIMITS)}


def test_a_holdout_inside_the_walk_forward_rows_refuses(return_evidence):
    evidence = return_evidence()
    evidence = replace(evidence, holdout=evidence.walk_forward)
    assert refused(judge_integrity(evidence, LIMITS)) == {"order in time"}
    assert not refused(judge_integrity(replace(evidence, refit=True), LIMITS))


def test_too_few_bars_refuse(return_evidence):
    evidence = return_evidence(n_holdout=499)
    assert refused(judge_integrity(evidence, LIMITS)) == {"test bars"}


def test_a_return_forecast_that_hardly_trades_refuses(return_evidence):
    evidence = return_evidence()
    lazy = np.where(np.arange(4000) < 3990, 1e-3, -1e-3)
    evidence = replace(evidence, walk_forward=evidence.walk_forward.of(lazy), trials=None)
    assert refused(judge_integrity(evidence, LIMITS)) == {"trades"}


@pytest.mark.parametrize("target", [Target.PRICE, Target.DIRECTION])
def test_a_forecast_that_takes_a_side_must_trade(record, return_evidence, target):
    """As its drawdown and costs are gated, so are its trades: one side held for ever has one."""
    rng = np.random.default_rng(0)
    price = target is Target.PRICE
    y = 100.0 + rng.standard_normal(1000) if price else (rng.random(1000) > 0.4).astype(float)
    naive = np.full(1000, 100.0 if price else 0.6)
    always_up = naive + 0.05 + 0.01 * rng.random(1000)
    rows = record(y, always_up, target=target, persistence=naive, returns=0.01 * y)
    later = replace(rows, made_at=rows.made_at + np.timedelta64(1001, "h"))
    evidence = return_evidence(
        walk_forward=rows, holdout=later, trials={"one": always_up}, winner="one", n_trials=1
    )
    assert "trades" in refused(judge_integrity(evidence, LIMITS))


def test_a_volatility_forecast_need_not_trade(volatility_evidence):
    result = {r.title: r for r in judge_integrity(volatility_evidence(), LIMITS)}
    assert not result["trades"].passed
    assert not result["trades"].refuses


def test_one_missing_forecast_refuses(return_evidence):
    evidence = return_evidence()
    holed = evidence.holdout.forecast.copy()
    holed[7] = np.nan
    evidence = replace(evidence, holdout=evidence.holdout.of(holed))
    assert (
        "1 of 5,500" in {r.title: r for r in judge_integrity(evidence, LIMITS)}["forecasts"].reason
    )
    assert refused(judge_integrity(evidence, LIMITS)) == {"forecasts"}


def test_a_constant_forecast_refuses(return_evidence):
    evidence = return_evidence()
    constant = evidence.holdout.of(np.full(1500, 1e-4))
    assert "forecasts" in refused(judge_integrity(replace(evidence, holdout=constant), LIMITS))


def test_an_honest_edge_raises_no_alarm(return_evidence):
    assert judge_leakage(return_evidence(), LIMITS)[0].passed


def leaking(evidence):
    """The same evidence, had the holdout been forecast by one who knows a third of it."""
    rows = evidence.holdout
    return replace(evidence, holdout=rows.of(0.35 * rows.y + rows.forecast))


def test_an_impossible_edge_raises_the_alarm(return_evidence):
    result = judge_leakage(leaking(return_evidence()), LIMITS)[0]
    assert result.refuses
    assert result.reason.startswith("suspected_leakage: accuracy")
    assert "holdout" in result.reason
    assert result.value > 1


def test_only_a_named_person_lets_the_alarm_pass(return_evidence):
    override = Override(actor="ada", reason="the label is known late")
    result = judge_leakage(replace(leaking(return_evidence()), leak_override=override), LIMITS)[0]
    assert result.passed
    assert "ada: the label is known late" in result.reason


def test_a_direction_that_is_right_too_often_raises_the_alarm(record, return_evidence):
    up = (np.random.default_rng(0).uniform(size=1200) < 0.5).astype(float)
    probability = np.where(np.arange(1200) % 3, up, 1 - up) * 0.2 + 0.4
    rows = record(
        up, probability, target=Target.DIRECTION, persistence=0 * up + 0.5, returns=0.01 * up
    )
    evidence = replace(return_evidence(), walk_forward=rows, holdout=rows, trials=None)
    assert "accuracy 0.667" in judge_leakage(evidence, LIMITS)[0].reason


def test_a_predictable_volatility_raises_no_alarm(volatility_evidence):
    assert judge_leakage(volatility_evidence(error=0.01), LIMITS)[0].passed
