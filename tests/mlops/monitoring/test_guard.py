"""One process checks each minute; an alert is raised once, and ends when the trouble is over."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops.alerts.conditions import raise_returned_to_baseline
from mlops.data.calendar import load_calendar
from mlops.data.quality import NewestBar
from mlops.monitoring import guard as module
from mlops.monitoring.guard import CHECK_EVERY_S, CONFIRM_S, Guard
from mlops.service import Service
from mlops.store import ModelVersion, Store, Why
from mlops.store.alerts import AlertRow, Condition, Trouble, list_alerts, raise_alert
from mlops.store.replicas import (
    HeldModel,
    LoadCause,
    Replica,
    ReplicaState,
    acknowledge,
    remove_replica,
)
from mlops.store.request_counts import Traffic, TrafficRow, read_traffic, write_traffic
from mlops.store.routes import begin_route, change_route, read_route

SERVICE = "binance.btc-usdt.1h.volatility.24"
BASELINE = "persistence_BTC_1"
HOUR = timedelta(hours=1)
NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(sqlite_template: Path, tmp_path: Path) -> str:
    """What is asked of the store here is no other on Postgres."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"


class Minutes:
    """A wall clock that a test moves; a fresh bar comes every hour unless the feed is stuck."""

    def __init__(self) -> None:
        self.now = NOON
        self.stuck_at: datetime | None = None

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def newest(self, service: Service) -> NewestBar:
        hour = self.now.replace(minute=0, second=0)
        return NewestBar(self.stuck_at or hour, self.now, load_calendar("24/7"))


@pytest.fixture
def clock() -> Minutes:
    return Minutes()


@pytest.fixture
def live(store: Store, add: Callable[..., ModelVersion]) -> Store:
    """A service on its baseline, answered by one replica."""
    add(BASELINE, service=SERVICE)
    with store.write() as connection:
        begin_route(connection, SERVICE, BASELINE, Why(NOON))
    answer(store)
    return store


def answer(store: Store, state: str = "ready") -> None:
    held = {BASELINE: HeldModel(BASELINE, state, error="no room", cause=LoadCause.REPLICA)}
    said = Replica("r1", "life", "host:1", ReplicaState.READY, models=held)
    acknowledge(store, said, seconds=3600)


@pytest.fixture
def guard(live: Store, clock: Minutes) -> Guard:
    return guard_of(live, clock)


def guard_of(store: Store, clock: Minutes, name: str = "one", **options: float) -> Guard:
    return Guard(
        store,
        name,
        newest_bar=clock.newest,
        now=clock,
        clock=clock.seconds,
        **options,  # type: ignore[arg-type]
    )


def check_for(guard: Guard, clock: Minutes, minutes: int, *, every: int = 1) -> None:
    for _ in range(0, minutes, every):
        clock.now += every * timedelta(seconds=CHECK_EVERY_S)
        guard.check_health()


def asked(store: Store, hour: datetime, requests: int, faults: int = 0, **own: str) -> None:
    counted = Traffic(requests, faults)
    row = TrafficRow(SERVICE, BASELINE, "r1", "life", hour, counted)
    write_traffic(store, [replace(row, **own)])  # type: ignore[arg-type]


def only(store: Store) -> AlertRow:
    [row] = list_alerts(store)
    return row


def test_a_healthy_service_raises_no_alert(guard: Guard, clock: Minutes, live: Store) -> None:
    asked(live, NOON, 1000, 3)
    check_for(guard, clock, 5)
    assert list_alerts(live) == ()


def test_errors_raise_an_alert_at_once_that_ends_after_a_quiet_hour(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    asked(live, NOON, 400, 100)
    check_for(guard, clock, 1)
    row = only(live)
    assert (row.condition, row.service, row.subject) == (
        Condition.SYSTEM_TROUBLE,
        SERVICE,
        "error_rate",
    )
    assert "100 of 400" in row.text
    # A little better is not over: 8 % is not surely above 5, and not clearly below it.
    asked(live, NOON, 400, 32)
    check_for(guard, clock, 29)
    assert only(live).recovered_at is None
    for hour in (1, 2):
        asked(live, NOON + hour * HOUR, 400, 2)
        check_for(guard, clock, 60, every=10)
    row = only(live)
    assert row.recovered_at is not None
    # Until two o'clock the hour that went badly is one of the two that are judged.
    assert row.recovered_at == NOON + 2 * HOUR


def test_traffic_of_all_replicas_counts_and_that_of_other_versions_does_not(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    asked(live, NOON, 9000, 9000, model_id="another")
    asked(live, NOON, 400, 100, replica_id="r2")
    asked(live, NOON, 9000)
    check_for(guard, clock, 1)
    assert list_alerts(live) == ()
    asked(live, NOON, 20)
    check_for(guard, clock, 1)
    assert "100 of 420" in only(live).text


def test_stale_bars_raise_an_alert_once_confirmed_that_ends_when_bars_come_steadily(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    clock.stuck_at = NOON - 3 * HOUR
    check_for(guard, clock, 1)
    assert list_alerts(live) == ()
    check_for(guard, clock, 1)
    assert only(live).subject == "stale_data"
    clock.stuck_at = None
    check_for(guard, clock, 30)
    clock.stuck_at = NOON - 3 * HOUR
    check_for(guard, clock, 1)
    clock.stuck_at = None
    check_for(guard, clock, 110, every=10)
    assert only(live).recovered_at is None
    check_for(guard, clock, 10, every=10)
    assert only(live).recovered_at is not None


def test_a_restart_between_two_checks_raises_no_alert_and_an_absence_does(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    remove_replica(live, "r1", "life")
    check_for(guard, clock, 1)
    answer(live)
    check_for(guard, clock, 1)
    remove_replica(live, "r1", "life")
    check_for(guard, clock, 1)
    assert list_alerts(live) == ()
    check_for(guard, clock, 1)
    row = only(live)
    assert (row.subject, row.severity, row.text) == ("replicas", "critical", "no replica is live")
    answer(live)
    check_for(guard, clock, 11)
    assert only(live).recovered_at is not None


def test_a_model_that_does_not_load_raises_an_alert_with_the_reason(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    answer(live, "failed")
    check_for(guard, clock, 2)
    rows = {row.subject: row for row in list_alerts(live)}
    assert set(rows) == {"loading", "replicas"}
    why = "no room; the version is not at fault"
    assert f"r1 cannot load {BASELINE} ({why})" in rows["loading"].text
    answer(live)
    check_for(guard, clock, 1)
    assert {row.subject for row in list_alerts(live, lasting_only=True)} == {"replicas"}


def test_each_trouble_of_a_service_has_an_alert_of_its_own(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    clock.stuck_at = NOON - 9 * HOUR
    asked(live, NOON, 400, 100)
    check_for(guard, clock, 3)
    assert {row.subject for row in list_alerts(live)} == {"error_rate", "stale_data"}


def test_one_process_checks_and_another_goes_on_from_its_alerts(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    asked(live, NOON, 400, 100)
    other = guard_of(live, clock, "two")
    assert guard.check_health() != ()
    assert other.check_health() == ()
    guard.step_down()
    assert other.check_health() != ()
    assert only(live).times_seen == 2


def test_what_a_process_saw_before_it_lost_the_lease_confirms_nothing(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    remove_replica(live, "r1", "life")
    check_for(guard, clock, 1)
    guard.step_down()
    other = guard_of(live, clock, "two")
    answer(live)
    other.check_health()
    check_for(guard, clock, 9)
    other.step_down()
    remove_replica(live, "r1", "life")
    check_for(guard, clock, 1)
    assert list_alerts(live) == ()


def test_bars_that_cannot_be_read_do_not_stop_the_other_checks(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    def broken(service: Service, notes: object) -> NewestBar:
        raise OSError("the disk is gone")

    guard.newest_bar = broken
    asked(live, NOON, 400, 100)
    check_for(guard, clock, 1)
    assert only(live).subject == "error_rate"


def test_alerts_about_a_version_end_when_another_serves(
    guard: Guard, clock: Minutes, live: Store, add: Callable[..., ModelVersion]
) -> None:
    champion = add("linear_BTC_2", 2, service=SERVICE).model_id
    drifted = Trouble(Condition.DATA_DRIFT, SERVICE, champion, "drifted", "far off")
    with live.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        route = change_route(connection, route, replace(route, champion=champion), "up", Why(NOON))
        raise_alert(connection, drifted, at=NOON)
    guard.check_health()
    assert only(live).recovered_at is None
    with live.write() as connection:
        change_route(connection, route, replace(route, champion=BASELINE), "back", Why(NOON))
    guard.check_health()
    assert only(live).recovered_at is not None


def test_the_alert_of_a_return_to_the_baseline_lasts_until_another_version_goes_live(
    guard: Guard, live: Store
) -> None:
    with live.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        raise_returned_to_baseline(connection, route, reason="linear_BTC_2 lost its skill", at=NOON)
    guard.check_health()
    assert only(live).recovered_at is None


def test_request_counts_older_than_keep_days_are_deleted(live: Store, clock: Minutes) -> None:
    asked(live, NOON - timedelta(days=3), 5)
    asked(live, NOON - timedelta(days=1), 5)
    guard_of(live, clock, keep_days=2.0).check_health()
    with live.read() as connection:
        rows = read_traffic(connection, since=NOON - timedelta(days=9))
    assert [row.hour for row in rows] == [NOON - timedelta(days=1)]


def test_a_process_that_does_not_stay_checks_only_where_a_replica_once_did(
    guard: Guard, clock: Minutes, live: Store
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += timedelta(seconds=seconds)

    remove_replica(live, "r1", "life")
    passing = guard_of(live, clock, "flow")
    assert passing.check_health_once(pause) == ()
    guard.check_health()
    assert passing.check_health_once(pause) == ()
    guard.step_down()
    assert passing.check_health_once(pause) != ()
    assert only(live).subject == "replicas"
    assert pauses == [CONFIRM_S]
    # The role is free again for a replica that comes back.
    assert guard.check_health() != ()


def test_the_guard_goes_on_after_a_check_that_failed(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = threading.Semaphore(0)

    def broken() -> None:
        checks.release()
        raise OSError("no memory")

    monkeypatch.setattr(module, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(guard, "check_health", broken)
    guard.start()
    for _ in range(3):
        assert checks.acquire(timeout=10)
    guard.stop()


def test_the_second_check_confirms_a_trouble() -> None:
    assert CONFIRM_S < CHECK_EVERY_S
