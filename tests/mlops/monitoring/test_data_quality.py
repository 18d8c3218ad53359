"""What comes in broken, twice or not at all is told of once, and its end when a window is sound."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.alerts.conditions import raise_unreadable_data, update_data_quality_alert
from mlops.data.calendar import load_calendar
from mlops.monitoring.data_quality import (
    BarCounts,
    find_data_problems,
    is_data_sound,
)
from mlops.monitoring.drift.report import (
    DriftConfig,
    DriftReference,
    DriftReport,
    Role,
    check_drift,
    fit_reference,
)
from mlops.service import Timeframe
from mlops.store import Store
from mlops.store.alerts import AlertRow, Condition, list_alerts
from mlops.store.monitor_runs import CheckRow, last_check, write_check

SERVICE = "sample.btc-usd.1h.volatility.24"
AT = datetime(2025, 1, 1, tzinfo=UTC)
HOURLY = pd.date_range("2024-01-01", periods=3000, freq="h", tz="UTC")
WHOLE = BarCounts(48, 48)
CONFIG = DriftConfig(window_bars=48)


@pytest.fixture
def url(sqlite_template: Path, tmp_path: Path) -> str:
    """What is asked of the store here is no other on Postgres."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame({"x": rng.normal(size=3000), "flag": 1.0}, HOURLY)


@pytest.fixture(scope="module")
def reference(frame: pd.DataFrame) -> DriftReference:
    roles = {"x": Role.FEATURE, "flag": Role.FEATURE}
    return fit_reference(frame, roles, window_bars=48)


def spoiled(frame: pd.DataFrame, **columns: object) -> pd.DataFrame:
    return frame[-48:].assign(**columns)


def report_of(reference: DriftReference, current: pd.DataFrame) -> DriftReport:
    return check_drift(reference, current, CONFIG)


def row_of(report: DriftReport, bars: BarCounts | None, at: datetime = AT) -> CheckRow:
    return CheckRow(
        service=SERVICE,
        model_id="champion",
        bar=at,
        at=at,
        recommendation=str(report.recommendation),
        official=report.official,
        report=report.to_dict(),
        performance=None,
        state={},
        bars=None if bars is None else bars.to_dict(),
    )


def look(store: Store, report: DriftReport, bars: BarCounts | None, at: datetime = AT) -> None:
    """Update the alert as a look at this data does."""
    counts = bars or BarCounts(0, 0)
    problems, is_sound = find_data_problems(report, counts), is_data_sound(report, counts)
    with store.write() as connection:
        row = row_of(report, bars, at)
        update_data_quality_alert(connection, row, problems, is_sound=is_sound)


def seen(opened: pd.DatetimeIndex, *, calendar: str = "24/7") -> BarCounts:
    used = opened.unique()
    return BarCounts.of(opened, used, timeframe=Timeframe("1h"), calendar=load_calendar(calendar))


def test_bars_are_counted_against_what_the_market_could_trade() -> None:
    week = HOURLY[:168]
    assert seen(week) == BarCounts(168, 168)
    assert seen(week.delete([5, 6, 90])) == BarCounts(168, 165)
    assert seen(week.insert(9, week[8])) == BarCounts(168, 168, 1)
    assert seen(week[:0]).completeness == 1.0
    assert seen(week.delete([5])).completeness == pytest.approx(167 / 168)


def test_a_weekend_is_no_hole_in_the_bars_of_a_currency() -> None:
    week = load_calendar("FX").expected_opens(HOURLY[0], HOURLY[300], Timeframe("1h"))
    assert seen(week, calendar="FX").completeness == 1.0
    assert seen(week).completeness < 0.9


def test_sound_data_have_no_problem(reference: DriftReference, frame: pd.DataFrame) -> None:
    assert find_data_problems(report_of(reference, frame[-48:]), WHOLE) == ()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": np.nan}, "x: no row holds a value"),
        ({"x": 0.25}, "x: one value came 48 times in a row"),
        ({"flag": 2.0}, "flag: always 1.0 in the reference, now 2"),
        ({"x": [np.nan, 1.0] * 24}, "x: 50% of the rows are missing"),
    ],
)
def test_a_column_that_came_in_broken_is_a_problem(
    reference: DriftReference, frame: pd.DataFrame, columns: dict[str, object], said: str
) -> None:
    report = report_of(reference, spoiled(frame, **columns))
    [problem] = find_data_problems(report, WHOLE)
    assert problem.startswith(said)
    # At every look, not only at those that decide.
    assert find_data_problems(replace(report, official=False), WHOLE) == (problem,)


def test_more_missing_rows_than_ever_count_where_a_window_decides(
    reference: DriftReference, frame: pd.DataFrame
) -> None:
    report = report_of(reference, frame[-48:])
    rare = replace(report["x"], missing_p_value=1e-6)
    judged = replace(report, columns=(rare,))
    assert find_data_problems(judged, WHOLE) == ("x: far more missing rows than in the reference",)
    assert find_data_problems(replace(judged, official=False), WHOLE) == ()


def test_a_trouble_of_the_data_lasts_until_a_window_is_clearly_sound(
    reference: DriftReference, frame: pd.DataFrame, store: Store
) -> None:
    report = report_of(reference, frame[-48:])
    sequence = [
        (BarCounts(168, 167), []),
        (BarCounts(168, 164), [None]),
        (BarCounts(168, 166), [None]),
        (BarCounts(168, 167), [AT + timedelta(hours=3)]),
    ]
    for hour, (bars, ends) in enumerate(sequence):
        at = AT + timedelta(hours=hour)
        look(store, report, bars, at)
        assert [row.recovered_at for row in list_alerts(store)] == ends


def test_an_alert_lists_each_problem_of_the_data(
    reference: DriftReference, frame: pd.DataFrame, store: Store
) -> None:
    report = report_of(reference, spoiled(frame, x=np.nan))
    look(store, report, BarCounts(168, 150, 2))
    [row] = list_alerts(store)
    assert (row.condition, row.subject) == (Condition.DATA_QUALITY, "champion")
    assert row.text == (
        "x: no row holds a value; 18 of 168 bars are missing; 2 bars came more than once"
    )


def test_data_that_cannot_be_read_end_with_the_first_sound_look(
    reference: DriftReference, frame: pd.DataFrame, store: Store
) -> None:
    def only() -> AlertRow:
        [row] = list_alerts(store)
        return row

    with store.write() as connection:
        raise_unreadable_data(connection, SERVICE, "champion", why="no column close", at=AT)
    assert (only().severity, only().text) == ("critical", "no column close")
    report = report_of(reference, frame[-48:])
    look(store, report, None)
    assert only().recovered_at == AT


def test_how_complete_the_bars_were_is_kept_with_the_look(
    reference: DriftReference, frame: pd.DataFrame, store: Store
) -> None:
    report = report_of(reference, frame[-48:])
    with store.write() as connection:
        write_check(connection, row_of(report, BarCounts(48, 40)))
    row = last_check(store, SERVICE, "champion")
    assert row is not None
    assert row.bars is not None
    assert BarCounts.from_dict(row.bars) == BarCounts(48, 40)
