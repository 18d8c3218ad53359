"""Whatever comes in, a structured verdict comes out."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from mlops.monitoring.drift.column_test import ColumnStatus
from mlops.monitoring.drift.report import (
    DriftState,
    Recommendation,
    ReportStatus,
    Role,
    check_drift,
    judge_hourly,
)
from tests.mlops.monitoring.frames import WINDOW, fit, hourly, noise, settings

REFERENCE = 2000
CLOSELY = Recommendation.MONITOR_CLOSELY
QUIET = Recommendation.NO_ACTION_NEEDED


@pytest.fixture(scope="module")
def frame():
    made = noise(REFERENCE + WINDOW)
    rng = np.random.default_rng(1)
    made["side"] = rng.choice(["buy", "sell", "wait"], len(made))
    made["level"] = rng.integers(0, 4, len(made))
    made["flag"] = rng.random(len(made)) < 0.3
    made["fixed"] = 0.1
    made["word"] = "spot"
    return made


@pytest.fixture(scope="module")
def reference(frame):
    return fit(frame[:REFERENCE])


@pytest.fixture
def window(frame):
    return frame[-WINDOW:].copy()


def test_good_rows_of_every_kind_are_tested_or_unchanged(reference, window):
    report = check_drift(reference, window)
    found = {column.name: column.status for column in report.columns}
    assert found.pop("fixed") is found.pop("word") is ColumnStatus.UNCHANGED
    assert set(found.values()) == {ColumnStatus.TESTED}
    assert report.recommendation is QUIET


BROKEN = [
    ("f0", np.nan, ColumnStatus.ALL_MISSING),
    ("f0", np.inf, ColumnStatus.ALL_MISSING),
    ("f0", -np.inf, ColumnStatus.ALL_MISSING),
    ("f0", None, ColumnStatus.ALL_MISSING),
    ("f0", "text", ColumnStatus.ALL_MISSING),
    ("f0", 0.3, ColumnStatus.STUCK),
    ("side", None, ColumnStatus.ALL_MISSING),
    ("fixed", 0.2, ColumnStatus.CONSTANT_CHANGED),
    ("word", "futures", ColumnStatus.CONSTANT_CHANGED),
]


@pytest.mark.parametrize(("name", "value", "status"), BROKEN)
def test_a_broken_column_is_a_quality_problem_and_spoils_no_other(
    reference, window, name, value, status
):
    window[name] = value
    report = check_drift(reference, window)
    assert report[name].status is status
    assert report.recommendation is CLOSELY
    assert name in report.behind
    assert report["f1"].status is ColumnStatus.TESTED
    json.dumps(report.to_dict())


def test_an_absent_column_is_named(reference, window):
    report = check_drift(reference, window.drop(columns="f1"))
    assert report["f1"].status is ColumnStatus.ABSENT
    assert report.recommendation is CLOSELY


def test_a_column_that_comes_twice_is_read_once(reference, window):
    doubled = pd.concat([window, window[["f0"]] + 9.0], axis=1)
    assert check_drift(reference, doubled)["f0"].p_value < 1e-6


def test_a_new_category_is_named(reference, window):
    window.iloc[:60, window.columns.get_loc("side")] = "short"
    found = check_drift(reference, window)["side"]
    assert found.status is ColumnStatus.TESTED
    assert found.p_value < 0.01
    assert "short" in found.reason


def test_a_constant_is_the_same_in_either_precision(reference, window):
    window["fixed"] = window["fixed"].astype(np.float32)
    assert check_drift(reference, window)["fixed"].status is ColumnStatus.UNCHANGED


def test_integers_that_became_floats_beside_missing_rows_are_the_same_labels(reference, window):
    window["level"] = window["level"].astype(float)
    window.iloc[0, window.columns.get_loc("level")] = np.nan
    found = check_drift(reference, window)["level"]
    assert found.status is ColumnStatus.TESTED
    assert found.n == WINDOW - 1
    assert found.p_value > 0.01


@pytest.mark.parametrize("bars", [0, 1, 23])
def test_too_few_bars_say_how_many_are_needed(reference, window, bars):
    report = check_drift(reference, window[:bars])
    assert report.status is ReportStatus.INSUFFICIENT_DATA
    assert report["f0"].status is ColumnStatus.INSUFFICIENT_DATA
    assert report.recommendation is QUIET
    assert any("wait for 24 bars" in line for line in report.advice)


@pytest.mark.parametrize("bars", [0, 1, 30, 900, 1100])
def test_too_short_a_reference_suggests_a_window(frame, window, bars):
    report = check_drift(fit(frame[:bars]), window)
    assert report["f0"].status is ColumnStatus.INSUFFICIENT_DATA
    assert not report.recommendation.asks_for_retraining
    suggested = report.suggested_window
    if bars == 1100:
        assert 24 < suggested <= 110
        assert check_drift(fit(frame[:bars]), window[-suggested:])["f0"].n == suggested
        assert any(f"at most {suggested} bars" in line for line in report.advice)
    else:
        assert suggested == 0
        assert any("longer reference" in line for line in report.advice)


def test_few_missing_rows_are_left_out_and_many_are_a_problem(reference, window):
    window.iloc[::10, 0] = np.nan
    window.iloc[::3, 1] = np.inf
    report = check_drift(reference, window)
    assert report["f0"].status is ColumnStatus.TESTED
    assert report["f0"].n == WINDOW - 17
    assert report["f1"].status is ColumnStatus.MANY_MISSING


def test_far_more_missing_rows_than_ever_are_watched(frame):
    rng = np.random.default_rng(2)
    holed = frame[["f0"]].mask(rng.random((len(frame), 1)) < 0.02)
    reference, window = fit(holed[:REFERENCE]), holed[-WINDOW:].copy()
    assert check_drift(reference, window).recommendation is QUIET
    window.iloc[: WINDOW // 8, 0] = np.nan
    report = check_drift(reference, window)
    assert report["f0"].missing_p_value < 0.01
    assert report.recommendation is CLOSELY
    assert "more than ever" in report.reasons[0]


def test_warm_up_rows_of_a_reference_are_not_missing(frame):
    warming = frame[["f0"]].copy()
    warming.iloc[:200] = np.nan
    (column,) = fit(warming[:REFERENCE]).columns
    assert column.missing is None
    assert column.null.size == REFERENCE - 200


@pytest.mark.parametrize("role", [Role.TARGET, Role.LOSS, Role.HIT])
def test_outcomes_that_are_not_known_yet_are_no_fault(frame, role):
    waiting = frame[["f0"]].copy()
    waiting.iloc[-100:] = np.nan
    report = check_drift(fit(frame[["f0"]][:REFERENCE], f0=role), waiting[-WINDOW:])
    assert report["f0"].status is ColumnStatus.TESTED
    assert report["f0"].n == WINDOW - 100
    waiting[:] = np.nan
    report = check_drift(fit(frame[["f0"]][:REFERENCE], f0=role), waiting[-WINDOW:])
    assert report["f0"].status is ColumnStatus.INSUFFICIENT_DATA


def test_hits_that_become_fewer_are_lost_skill():
    rng = np.random.default_rng(3)
    hits = hourly({"hit": rng.random(REFERENCE + WINDOW) < 0.6})
    reference = fit(hits[:REFERENCE], hit=Role.HIT)
    assert check_drift(reference, hits[-WINDOW:]).recommendation is QUIET
    fewer = check_drift(reference, hits[-WINDOW:] & False)
    assert fewer.performance_degraded
    assert fewer["hit"].direction == "down"
    assert check_drift(reference, hits[-WINDOW:] | True).recommendation is QUIET


def test_a_feed_is_stuck_when_a_value_lasts_longer_than_in_the_reference(frame):
    resting = frame[["f0"]].copy()
    resting.iloc[100:130, 0] = 0.5
    reference, window = fit(resting[:REFERENCE]), resting[-WINDOW:].copy()
    window.iloc[-30:, 0] = 0.5
    assert check_drift(reference, window)["f0"].status is ColumnStatus.TESTED
    window.iloc[-31:, 0] = 0.5
    assert check_drift(reference, window)["f0"].status is ColumnStatus.STUCK


def test_more_labels_than_can_be_told_apart_share_one():
    rng = np.random.default_rng(4)
    many = hourly({"id": [f"id{n}" for n in rng.integers(0, 500, REFERENCE + WINDOW)]})
    report = check_drift(fit(many[:REFERENCE]), many[-WINDOW:])
    assert report["id"].status is ColumnStatus.TESTED
    assert report["id"].p_value > 0.01


@pytest.mark.parametrize(
    "values",
    [
        pd.array([1, None, 3] * 700, dtype="Int64"),
        pd.array([True, None, False] * 700, dtype="boolean"),
        pd.Categorical(["a", "b", None] * 700),
        pd.date_range("2020-01-01", periods=2100, freq="h"),
        [Decimal("0.1") * n for n in range(2100)],
        [[1], {}, "x"] * 700,
        np.linspace(-1e300, 1e300, 2100),
        np.arange(2100) % 2 + 1j,
    ],
    ids=["Int64", "boolean", "category", "times", "decimal", "objects", "huge", "complex"],
)
def test_any_type_of_column_gives_a_verdict(values):
    frame = hourly({"x": pd.Series(values)})
    reference = fit(frame[:1900])
    report, _ = judge_hourly(reference, frame, DriftState(), settings())
    json.dumps(report.to_dict())
    json.dumps(reference.to_dict())
    assert isinstance(report.recommendation, Recommendation)


def test_a_column_that_the_reference_lacks_is_never_judged(frame, window):
    from mlops.monitoring.drift.report import fit_reference

    reference = fit_reference(frame[:REFERENCE], {"later": Role.FEATURE}, window_bars=WINDOW)
    window["later"] = 1.0
    report = check_drift(reference, window)
    assert report.status is ReportStatus.INSUFFICIENT_DATA
    assert report.recommendation is QUIET
