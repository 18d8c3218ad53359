"""The report, the state and the recommendation, with one or two columns at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mlops.errors import DataError, SettingsError
from mlops.monitoring.drift.column_test import ColumnDrift, ColumnStatus
from mlops.monitoring.drift.recommendation import Rejections, recommend, reject_columns
from mlops.monitoring.drift.report import (
    DriftReference,
    DriftReport,
    DriftState,
    Recommendation,
    Role,
    check_drift,
    first_state,
    judge_hourly,
)
from tests.mlops.monitoring.frames import WINDOW, fit, hourly, noise, settings
from tests.mlops.monitoring.series import autoregressive

REFERENCE = 3000
QUIET, CLOSELY, SOON, NOW = Recommendation


def column(name="x", p=0.5, effect=0.2, role=Role.FEATURE, status=ColumnStatus.TESTED):
    return ColumnDrift(name=name, role=role, status=status, reason="", p_value=p, effect=effect)


def judged(*columns, before=None, fast_before=()):
    """The decision on columns of a reference with one family, K = 4."""
    found = reject_columns(columns, settings(), families=1, testable=len(columns))
    return recommend(found, columns, before=before, fast_before=fast_before).recommendation


@pytest.mark.parametrize(
    ("columns", "before", "expected"),
    [
        ([column(p=0.06)], None, QUIET),
        ([column(p=0.04)], None, CLOSELY),
        ([column(p=0.012)], None, SOON),
        ([column(p=0.012, effect=0.05)], None, CLOSELY),
        ([column(p=0.1)], Rejections(repeated=("x",)), SOON),
        ([column(p=0.12)], Rejections(repeated=("x",)), QUIET),
        ([column(p=0.1)], Rejections(repeated=("y",)), QUIET),
        ([column(p=0.1, effect=0.05)], Rejections(repeated=("x",)), SOON),
        ([column(status=ColumnStatus.STUCK)], None, CLOSELY),
        ([column(status=ColumnStatus.INSUFFICIENT_DATA)], None, QUIET),
        ([column(p=0.02, role=Role.LOSS)], None, CLOSELY),
        ([column(p=0.012, role=Role.LOSS, effect=0.01)], None, SOON),
        ([column(p=0.001, role=Role.LOSS)], None, NOW),
        ([column(p=0.01), column("l", p=0.04, role=Role.LOSS)], None, NOW),
        ([column(p=0.01)], Rejections(lost=("l",)), NOW),
        ([column(p=0.04), column("l", p=0.04, role=Role.LOSS)], None, CLOSELY),
    ],
)
def test_a_window_gets_the_recommendation_of_its_p_values(columns, before, expected):
    assert judged(*columns, before=before) is expected


def test_the_fast_path_asks_at_once_when_the_next_look_confirms_it():
    far = column(p=1e-6, effect=0.4)
    assert judged(far, fast_before=("x",)) is NOW
    assert judged(far) is SOON
    assert judged(replace(far, effect=0.2), fast_before=("x",)) is SOON


def test_levels_follow_the_length_of_window_and_bar():
    assert settings().windows_per_budget == 4
    assert settings(window_bars=24).windows_per_budget == 30
    assert settings(step=timedelta(minutes=1)).windows_per_budget == 257
    assert settings(step=timedelta(days=1)).windows_per_budget == 1
    assert settings().looks_per_budget == 720
    assert settings().decision_level(2) == pytest.approx(0.05 / 8)
    assert settings().decision_level(2, watched=1) + settings().jump_level(1) / 8 == pytest.approx(
        0.05 / 8
    )
    assert settings().repeated_level(2) ** 2 == pytest.approx(settings().decision_level(2))


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0.0}, {"effect_threshold": 1.5}, {"window_bars": 12}, {"step": timedelta(0)}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingsError):
        settings(**wrong)


def test_a_report_says_which_column_changed_how_far_and_where():
    frame = noise(REFERENCE + WINDOW, seed=3)
    frame.iloc[-WINDOW:, 1] += 1.0
    report = check_drift(fit(frame[:REFERENCE]), frame[-WINDOW:])
    assert report.recommendation is SOON
    assert report.drift_detected
    assert report.behind == ("f1",)
    changed, same = report["f1"], report["f0"]
    assert changed.direction == "up"
    assert changed.location == pytest.approx(1.0, abs=0.2)
    assert changed.distance == pytest.approx(1.0, abs=0.2)
    assert changed.scale == pytest.approx(1.0, abs=0.2)
    assert 0.4 < changed.worst_quantile < 0.95
    assert report.score == changed.effect == pytest.approx(0.38, abs=0.08)
    assert same.p_value > 0.05
    assert "f1" in str(report)
    with pytest.raises(KeyError, match="f0, f1, f2"):
        report["f9"]


def test_without_drift_the_score_is_zero():
    frame = noise(REFERENCE + WINDOW, seed=3)
    report = check_drift(fit(frame[:REFERENCE]), frame[-WINDOW:])
    assert report.recommendation is QUIET
    assert report.score == 0.0
    assert report.advice == ()


def test_only_the_last_window_of_what_comes_in_is_judged():
    frame = noise(REFERENCE + 2 * WINDOW)
    reference = fit(frame[:REFERENCE])
    alone = check_drift(reference, frame[-WINDOW:])
    assert check_drift(reference, frame[REFERENCE:]) == alone


def test_a_report_and_a_state_survive_json():
    frame = noise(REFERENCE + WINDOW)
    frame["gone"] = np.nan
    report, state = judge_hourly(fit(frame[:REFERENCE]), frame[-WINDOW:], DriftState())
    assert DriftReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert DriftState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_a_reference_read_back_judges_alike():
    frame = noise(5000 + WINDOW)
    frame["side"] = np.where(frame["f0"] > 0, "buy", "sell")
    frame["hit"] = frame["f1"] > 0
    frame.iloc[::50, 2] = np.nan
    reference = fit(frame[:5000], hit=Role.HIT, f0=Role.TARGET)
    values = json.loads(json.dumps(reference.to_dict()))
    arrays = reference.to_arrays()
    read = DriftReference.from_parts(values, arrays)
    assert read == reference
    assert_array_equal(list(read.to_arrays()), list(arrays))
    assert check_drift(read, frame) == check_drift(reference, frame)
    assert np.isfinite(check_drift(read, frame)["f0"].jump_p_value)


def hours(frame, state, reference, ends, **changes):
    """Watch at the given bars; the last report and state."""
    report = None
    for end in ends:
        report, state = judge_hourly(reference, frame[:end], state, settings(**changes))
    return report, state


def test_windows_that_decide_never_overlap():
    frame = noise(REFERENCE + 3 * WINDOW)
    reference = fit(frame[:REFERENCE])
    state, official = first_state(reference), []
    for end in range(REFERENCE, len(frame) + 1, 12):
        report, state = judge_hourly(reference, frame[:end], state, settings())
        official += [end - REFERENCE] if report.official else []
    assert official == [WINDOW, 2 * WINDOW, 3 * WINDOW]
    assert state.windows == 3
    assert len(state.recent) == 2


def test_looking_twice_at_a_bar_decides_nothing_twice():
    frame = noise(REFERENCE + WINDOW)
    frame.iloc[-WINDOW:, 0] += 3.0
    reference = fit(frame[:REFERENCE])
    first, state = judge_hourly(reference, frame, first_state(reference))
    again, after = judge_hourly(reference, frame, state)
    assert first.official
    assert first.recommendation is SOON
    assert not again.official
    assert again.recommendation is CLOSELY
    assert after == state


def test_a_look_shows_what_is_in_force_until_the_next_window():
    frame = noise(REFERENCE + WINDOW + 2, seed=3)
    reference = fit(frame[:REFERENCE])
    latest = DriftState(
        seen_until=frame.index[-2].isoformat(), recent=(Rejections(noticed=("f0",)),)
    )
    report, state = judge_hourly(reference, frame, latest)
    assert report.recommendation is CLOSELY
    assert report.behind == ("f0",)
    assert state.recent == latest.recent


def test_a_gross_change_asks_for_a_retraining_within_hours():
    frame = noise(REFERENCE + WINDOW + 100)
    frame.iloc[REFERENCE + WINDOW + 1 :, 0] += 8.0
    reference = fit(frame[:REFERENCE])
    state, met = first_state(reference), None
    for end in range(REFERENCE + WINDOW, len(frame) + 1):
        report, state = judge_hourly(reference, frame[:end], state, settings())
        if report.recommendation is NOW:
            met = end - REFERENCE - WINDOW
            break
    assert met is not None
    assert met < 80
    assert "too large to wait" in report.reasons[0]


def test_a_jump_of_what_is_forecast_is_met_within_a_day_between_windows():
    frame = noise(5000 + WINDOW + 24)
    frame.iloc[-24:, :2] += 3.0
    reference = fit(frame[:5000], f1=Role.TARGET)
    assert reference.watched_for_jumps == ("f1",)
    state = replace(first_state(reference), seen_until=frame.index[5000 + WINDOW - 1].isoformat())
    report, _ = judge_hourly(reference, frame, state, settings())
    assert not report.official
    assert report.recommendation is SOON
    assert report.behind == ("f1",)
    assert report["f1"].jump == pytest.approx(2.5, abs=0.5)
    assert report.score == pytest.approx(0.8, abs=0.1)
    assert "changed within days" in report.reasons[0]
    short = judge_hourly(reference, frame[-WINDOW:], state, settings())[0]
    assert np.isnan(short["f1"].jump)


def test_a_jump_that_a_version_was_trained_on_is_no_news_to_it():
    """It was retrained because of the jump: that it lasts is told a day later, not at once."""
    frame = noise(5000 + 24)
    frame.iloc[4990:, 1] += 3.0
    reference = fit(frame[:5000], f1=Role.TARGET)
    state, jumped = first_state(reference), []
    for end in range(5001, len(frame) + 1):
        report, state = judge_hourly(reference, frame[:end], state, settings())
        jumped.append(report.drift_detected)
    assert jumped == [False] * 23 + [True]
    assert check_drift(reference, frame[:5012], settings()).rejections.jumped == ("f1",)


def test_a_fast_change_is_one_of_bars_that_the_version_was_not_trained_on():
    """The same bars are a fast change to a reference that ended before them."""
    frame = noise(REFERENCE + WINDOW)
    frame.iloc[REFERENCE - 20 :, 0] += 8.0
    told, surprised = fit(frame[:REFERENCE]), fit(frame[: REFERENCE - 21])
    for reference, found in ((told, ()), (surprised, ("f0",))):
        _, state = judge_hourly(reference, frame[:-20], first_state(reference), settings())
        assert state.fast == found


def test_what_each_bar_realised_is_watched_for_jumps_in_the_targets_place():
    frame = noise(5000 + WINDOW)
    frame.iloc[-24:] += 3.0
    both = fit(frame[:5000], f1=Role.TARGET, f2=Role.REALISED)
    assert both.watched_for_jumps == ("f2",)
    assert (both.families, both.testable) == (2, 2)
    report = check_drift(both, frame)
    assert report.rejections.jumped == ("f2",)
    assert "f2" not in report.rejections.noticed
    assert np.isfinite(report["f2"].p_value)


def test_a_confirmation_must_come_at_the_next_bar():
    frame = noise(REFERENCE + WINDOW, seed=3)
    frame.iloc[-100:, 0] += 8.0
    reference = fit(frame[:REFERENCE])
    seen = frame.index[-1].isoformat()
    waiting = DriftState(seen_until=seen, fast=("f0",))
    hour_ago = replace(waiting, looked_at=frame.index[-2].isoformat())
    day_ago = replace(waiting, looked_at=frame.index[-25].isoformat())
    assert judge_hourly(reference, frame, hour_ago)[0].recommendation is NOW
    assert judge_hourly(reference, frame, day_ago)[0].recommendation is CLOSELY


def test_a_budget_that_is_spent_waits_for_its_next_period():
    frame = noise(REFERENCE + 6 * WINDOW)
    reference = fit(frame[:REFERENCE])
    started = frame.index[REFERENCE].isoformat()
    spent = replace(first_state(reference), budget_start=started, spent=1.0)
    assert not hours(frame, spent, reference, [REFERENCE + WINDOW])[0].official
    report, state = hours(frame, spent, reference, [REFERENCE + 5 * WINDOW])
    assert report.official
    assert state.spent == 0.25
    assert state.budget_start != started


def test_times_without_a_zone_are_utc():
    frame = noise(REFERENCE + WINDOW)
    reference = fit(frame[:REFERENCE].tz_localize(None))
    assert judge_hourly(reference, frame, first_state(reference))[0].official


def test_rows_without_times_are_not_watched():
    frame = noise(REFERENCE + WINDOW)
    reference = fit(frame[:REFERENCE])
    with pytest.raises(DataError, match="check_drift"):
        judge_hourly(reference, frame.reset_index(drop=True), DriftState())


def test_an_empty_frame_of_times_is_a_look_at_nothing():
    frame = noise(REFERENCE)
    report, state = judge_hourly(fit(frame), frame[:0], DriftState())
    assert report.recommendation is QUIET
    assert state == DriftState()


def test_the_level_is_split_over_the_families():
    frame = noise(REFERENCE + WINDOW)
    assert fit(frame).families == 1
    assert fit(frame, f1=Role.TARGET, f2=Role.FORECAST).families == 3
    frame["same"] = 1.0
    assert fit(frame, same=Role.LOSS).families == 1


def test_a_labelled_column_is_compared_by_its_labels():
    rng = np.random.default_rng(5)
    regimes = rng.choice(["calm", "wild"], REFERENCE + WINDOW, p=[0.8, 0.2])
    frame = hourly({"regime": regimes})
    reference = fit(frame[:REFERENCE])
    assert check_drift(reference, frame[-WINDOW:]).recommendation is QUIET
    swapped = frame[-WINDOW:].replace({"calm": "wild", "wild": "calm"})
    report = check_drift(reference, swapped)
    assert report.recommendation is SOON
    assert report["regime"].effect == pytest.approx(0.6, abs=0.1)


def test_advice_is_given_where_the_evidence_is_thin():
    frame = noise(2000 + WINDOW, columns=6)
    frame.iloc[-WINDOW:, 0] += 0.6
    report = check_drift(fit(frame[:2000]), frame[-WINDOW:])
    assert report["f0"].independent_windows < 12
    assert any("longer reference" in line for line in report.advice)


def test_of_a_slow_column_the_next_window_is_awaited():
    slow = autoregressive(0.99, 1, 20_000 + WINDOW, np.random.default_rng(6))[0]
    slow[-WINDOW:] += 4.0
    frame = hourly({"slow": slow})
    report = check_drift(fit(frame[:-WINDOW]), frame[-WINDOW:])
    assert any("moves slowly" in line for line in report.advice)


def test_a_window_shorter_than_the_one_for_decisions_says_so():
    frame = noise(REFERENCE + 48)
    report = check_drift(fit(frame[:REFERENCE]), frame[-48:])
    assert report["f0"].status is ColumnStatus.TESTED
    assert any("48 bars instead of 168" in line for line in report.advice)
