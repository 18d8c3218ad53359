"""System and data stand beside the baseline and promotion where that is on record, else nowhere."""

from __future__ import annotations

import json
import shutil
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.monitoring.data_quality import BarCounts
from mlops.monitoring.drift.report import DriftConfig, DriftReport, Role, check_drift, fit_reference
from mlops.monitoring.performance.live import measure_performance
from mlops.monitoring.performance.operations import (
    LiveMeasure,
    measure_data_quality,
    measure_system,
)
from mlops.stats.comparison import share_interval
from mlops.store import ModelVersion, Phase, Store, Why
from mlops.store.monitor_runs import CheckRow, write_check
from mlops.store.request_counts import BUCKETS, EDGES_S, RATIO, Traffic, TrafficRow, write_traffic
from mlops.store.rollouts import Rollout, insert_rollout
from mlops.store.routes import begin_route
from mlops.store.schema import rollout_event
from mlops.store.sql import store_time

SERVICE = "binance.btc-usdt.1h.return.3"
REPLAYED = "sample.btc-usd.1h.return.3"
BASELINE, CHAMPION = "zero_BTC_1", "linear_BTC_2"
NOW = datetime(2025, 1, 2, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
AtHour = Callable[..., None]


@pytest.fixture
def url(sqlite_template: Path, tmp_path: Path) -> str:
    """What is asked of the store here is no other on Postgres."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"


@pytest.fixture
def champion(store: Store, add: Callable[..., ModelVersion]) -> ModelVersion:
    return live_in(store, add, SERVICE)


def live_in(store: Store, add: Callable[..., ModelVersion], service: str) -> ModelVersion:
    add(BASELINE, service=service)
    with store.write() as connection:
        begin_route(connection, service, BASELINE, Why(NOW))
    return add(CHAMPION, 2, service=service)


@pytest.fixture
def asked(store: Store) -> AtHour:
    """Traffic of an hour, all of it equally fast."""

    def write(
        hour: datetime,
        requests: int,
        seconds: float = 0.002,
        faults: int = 0,
        *,
        model_id: str = CHAMPION,
        replica: str = "r1",
        service: str = SERVICE,
    ) -> None:
        place = bisect_left(EDGES_S, seconds)
        latencies = tuple(requests if n == place else 0 for n in range(BUCKETS))
        counted = Traffic(requests, faults, seconds=requests * seconds, latencies=latencies)
        write_traffic(store, [TrafficRow(service, model_id, replica, "life", hour, counted)])

    return write


def system(store: Store, version: ModelVersion, hours: float = 24) -> dict[str, LiveMeasure]:
    found = measure_system(store, version, now=NOW, window_hours=hours)
    return {one.name: one for one in found}


def test_what_was_never_asked_has_a_throughput_of_nothing_and_no_latency(
    store: Store, champion: ModelVersion
) -> None:
    found = system(store, champion)
    assert set(found) == {"throughput_per_second", "throughput_busiest_hour"}
    assert {one.value for one in found.values()} == {0.0}
    assert {one.baseline for one in found.values()} == {None}


def test_latency_throughput_and_errors_are_those_of_all_replicas_in_the_window(
    store: Store, champion: ModelVersion, asked: AtHour
) -> None:
    hour = NOW.replace(minute=0)
    asked(hour - 40 * HOUR, 10**6, 9.0, 10**6)
    asked(hour - 3 * HOUR, 3600, 0.002)
    asked(hour - 3 * HOUR, 3500, 0.002, replica="r2")
    asked(hour, 100, 0.3, 10)
    found = system(store, champion)
    assert found["throughput_per_second"].value == pytest.approx(7200 / (23.5 * 3600))
    assert found["throughput_busiest_hour"].value == pytest.approx(7100 / 3600)
    assert 2 / RATIO <= found["latency_p50_ms"].value <= 2 * RATIO
    assert 300 / RATIO <= found["latency_p99_ms"].value <= 300 * RATIO
    errors = found["error_rate"]
    assert errors.value == pytest.approx(10 / 7200)
    assert (errors.low, errors.high) == share_interval(10, 7200)


def test_baseline_figures_are_there_where_the_baseline_answered(
    store: Store, champion: ModelVersion, asked: AtHour
) -> None:
    asked(NOW.replace(minute=0), 100, 0.3)
    assert system(store, champion)["latency_p50_ms"].baseline is None
    asked(NOW.replace(minute=0), 50, 0.001, 5, model_id=BASELINE)
    found = system(store, champion)
    assert found["error_rate"].baseline == 0.1
    beside = found["latency_p50_ms"].baseline
    assert beside is not None
    assert 1 / RATIO <= beside <= RATIO


@pytest.mark.parametrize(
    ("phase", "promoted", "known"),
    [(Phase.DONE, True, True), (Phase.DONE, False, False), (Phase.FAILED, True, False)],
)
def test_figures_at_promotion_are_those_of_the_rollout(
    store: Store,
    champion: ModelVersion,
    asked: AtHour,
    *,
    phase: Phase,
    promoted: bool,
    known: bool,
) -> None:
    """A rollout that only compared the version, such as an A/B test, is done without it."""
    began = NOW - 200 * HOUR
    rolled_out(store, phase, began, began + 2 * HOUR, promoted=promoted)
    asked(began.replace(minute=0) - HOUR, 1000, 5.0, 1000)
    asked(began.replace(minute=0) + HOUR, 1000, 0.02, 20)
    asked(NOW.replace(minute=0), 100)
    found = system(store, champion)
    assert found["error_rate"].at_promotion == (0.02 if known else None)
    assert (found["latency_p99_ms"].at_promotion is not None) == known


def rolled_out(
    store: Store, phase: Phase, began: datetime, ended: datetime, *, promoted: bool
) -> None:
    row = Rollout(
        id="rollout-1",
        service=SERVICE,
        strategy="canary",
        from_version=BASELINE,
        to_version=CHAMPION,
        plan={},
        phase=phase,
        step=0,
        since=ended,
        deadline=ended,
        reason="",
        abort_requested=None,
        forced=False,
        requested_by="anna",
        requested_why="",
        requested_at=began,
        ended_at=ended,
    )
    with store.write() as connection:
        insert_rollout(connection, row, Why(began))
        if promoted:
            event = {"rollout_id": row.id, "seq": 1, "at": ended, "to_phase": Phase.PROMOTED}
            told = {"step": 0, "generation": 1, "term": 1, "reason": "", "detail": {}}
            connection.execute(rollout_event.insert().values(**event, **told))


def test_where_bars_are_replayed_the_window_ends_at_this_moment(
    store: Store, add: Callable[..., ModelVersion], asked: AtHour
) -> None:
    version = live_in(store, add, REPLAYED)
    with store.read() as connection:
        hour = store_time(connection).replace(minute=0, second=0, microsecond=0)
    asked(hour, 7200, service=REPLAYED)
    found = measure_system(store, version, now=NOW, window_hours=24, is_live=False)
    assert {one.name: one for one in found}["throughput_busiest_hour"].value == 2.0


# Data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> DriftReport:
    """One feature went far off, one target stayed."""
    rng = np.random.default_rng(1)
    index = pd.date_range("2024-01-01", periods=3000, freq="h", tz="UTC")
    frame = pd.DataFrame({"x": rng.normal(size=3000), "y": rng.normal(size=3000)}, index)
    reference = fit_reference(frame, {"x": Role.FEATURE, "y": Role.TARGET}, window_bars=48)
    current = frame[-48:].assign(x=frame["x"][-48:] + 5.0)
    return check_drift(reference, current, DriftConfig(window_bars=48))


def write_look(
    store: Store, report: DriftReport, at: datetime = NOW, bars: BarCounts | None = None
) -> None:
    row = CheckRow(
        service=SERVICE,
        model_id=CHAMPION,
        bar=at,
        at=at,
        recommendation=str(report.recommendation),
        official=True,
        report=report.to_dict(),
        performance=None,
        state={},
        bars=None if bars is None else bars.to_dict(),
    )
    with store.write() as connection:
        write_check(connection, row)


def data(store: Store, version: ModelVersion) -> dict[str, float]:
    found = measure_data_quality(store, version, now=NOW, window_hours=24)
    return {one.name: one.value for one in found}


def test_data_figures_are_those_of_the_newest_look(
    store: Store, champion: ModelVersion, report: DriftReport
) -> None:
    assert data(store, champion) == {}
    write_look(store, report, NOW - HOUR, BarCounts(48, 48))
    write_look(store, report, bars=BarCounts(48, 36))
    assert data(store, champion) == {
        "feature_drift": report.score,
        "target_drift": 0.0,
        "data_completeness": 0.75,
    }
    assert report.score > 0.5


def test_an_old_look_and_one_of_before_bars_were_counted_say_less(
    store: Store, champion: ModelVersion, report: DriftReport
) -> None:
    write_look(store, report, NOW - 25 * HOUR, BarCounts(48, 36))
    assert data(store, champion) == {}
    write_look(store, report, NOW - HOUR)
    assert set(data(store, champion)) == {"feature_drift", "target_drift"}


def test_system_and_data_figures_are_part_of_the_live_performance(
    store: Store, champion: ModelVersion, report: DriftReport, asked: AtHour
) -> None:
    asked(NOW.replace(minute=0), 100, 0.3)
    write_look(store, report, bars=BarCounts(48, 36))
    found = measure_performance(store, champion, now=NOW, window_hours=24, fee_bps=1.0)
    assert found["latency_p99_ms"].value > 100.0
    assert found["data_completeness"].value == 0.75
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {one["name"] for one in read["system"]} >= {"error_rate", "throughput_per_second"}
    assert {one["name"] for one in read["data_quality"]} >= {"feature_drift", "data_completeness"}
