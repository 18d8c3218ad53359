"""An overview shows what is in the store, in a number of statements that does not grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from mlops.monitoring.overview import SERVICES_PER_PAGE, LiveSkill, Overview, read_overview
from mlops.settings import FileClock
from mlops.store import ModelVersion, Status, Store, Why
from mlops.store.alerts import Condition, Trouble, raise_alert, recover_alert
from mlops.store.monitor_runs import CheckRow, write_check
from mlops.store.movement import read_movement
from mlops.store.rollouts import insert_rollout
from mlops.store.routes import begin_route, change_route, get_route
from tests.mlops.rollout.rows import ask_test, begin_service
from tests.mlops.store.test_dashboard import BASELINE, OTHER, write_bars
from tests.mlops.store.test_rollouts import ANNA, ROLLOUT
from tests.stores import NOW, SERVICE, add, began, store, url

__all__ = ["add", "began", "store", "url"]

Add = Callable[..., ModelVersion]
HOUR = timedelta(hours=1)
PLAN = {
    "strategy": "canary", "weights_bp": [1000, 10000], "dwell_s": 1.0, "hold_s": 1.0,
    "gate_s": 1.0, "bake_s": 1.0, "load_s": 1.0, "max_fault_rate": 0.01, "min_gate_trials": 1,
}  # fmt: skip


def read(store: Store, **given: Any) -> Overview:
    return read_overview(store, max_age_bars=2.0, **given)


def look(store: Store, hour: int, *, official: bool, skill: float | None = None) -> None:
    measure = {"name": "skill", "value": skill, "low": 0.1, "high": 0.3}
    row = CheckRow(
        service=SERVICE, model_id=BASELINE, bar=NOW + hour * HOUR, at=NOW + hour * HOUR,
        recommendation="MONITOR_CLOSELY" if official else "NO_ACTION_NEEDED", official=official,
        report={}, state={},
        performance=None if skill is None else {"measures": [{"name": "mse"}, measure]},
    )  # fmt: skip
    with store.write() as connection:
        write_check(connection, row)


def test_a_service_shows_who_serves_its_forecast_look_and_skill(began: Store) -> None:
    write_bars(began, 3)
    look(began, 1, official=True, skill=0.2)
    look(began, 2, official=False)
    (service,) = read(began).services
    assert (service.champion, service.is_baseline, service.champion_since) == (BASELINE, True, NOW)
    assert service.clock is FileClock.REPLAY
    assert service.fresh_until is None
    assert service.forecast is not None
    assert service.forecast.bar == NOW + 2 * HOUR
    assert service.check is not None
    assert (service.check.bar, service.check.official) == (NOW + 2 * HOUR, False)
    assert service.skill == LiveSkill(0.2, 0.1, 0.3, NOW + HOUR)


def test_a_market_that_keeps_the_time_of_the_day_says_until_when_a_forecast_is_fresh(
    store: Store, add: Add
) -> None:
    live = "binance.btc-usdt.1h.volatility.24"
    add(BASELINE, service=live)
    with store.write() as connection:
        begin_route(connection, live, BASELINE, Why(NOW))
    write_bars(store, 3, service=live)
    (service,) = read(store).services
    assert (service.clock, service.fresh_until) == (FileClock.WALL, NOW + 5 * HOUR)


def test_a_retired_service_is_not_shown(began: Store) -> None:
    route = get_route(began, SERVICE)
    assert route is not None
    with began.write() as connection:
        change_route(connection, route, replace(route, retired_at=NOW), "retire", Why(NOW))
    overview = read(began)
    assert (overview.services, overview.services_in_use) == ((), 0)


def test_a_rollout_under_way_shows_its_steps_and_what_its_trials_say(
    began: Store, add: Add
) -> None:
    add(OTHER, 2, status=Status.CHALLENGER)
    with began.write() as connection:
        insert_rollout(connection, replace(ROLLOUT, plan=PLAN), ANNA)
    (rollout,) = read(began).rollouts
    assert (rollout.model_id, rollout.phase, rollout.shares) == (OTHER, "pending", (0.1, 1.0))
    assert "0 faults in 0 trials" in rollout.evidence


def test_a_running_test_is_shown_in_its_callers_words(store: Store) -> None:
    begin_service(store)
    test = ask_test(store, now=NOW)
    overview = read(store)
    assert [(row.id, row.verdict) for row in overview.tests] == [(test.id, None)]
    assert overview.counts.running_tests == 1


def test_alerts_that_last_come_first(began: Store) -> None:
    with began.write() as connection:
        for hour, subject in enumerate(("old", "new")):
            trouble = Trouble(Condition.DATA_DRIFT, SERVICE, subject, "title", "text")
            raise_alert(connection, trouble, at=NOW + hour * HOUR)
        recover_alert(
            connection, condition=Condition.DATA_DRIFT, service=SERVICE, subject="new", at=NOW,
            text="over",
        )  # fmt: skip
    overview = read(began)
    assert [alert.subject for alert in overview.alerts] == ["old", "new"]
    assert overview.lasting_alerts == 1


def test_more_services_take_more_pages_and_no_more_statements(store: Store, add: Add) -> None:
    counts = []
    said: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    for number in range(SERVICES_PER_PAGE + 2):
        service = f"sample.s{number:02}-usd.1h.volatility.24"
        row = add(f"persistence_{number}", service=service)
        with store.write() as connection:
            begin_route(connection, service, row.model_id, Why(NOW))
        if number in (0, SERVICES_PER_PAGE + 1):
            said.clear()
            first = read(store)
            counts.append(len(said))
    assert counts[0] == counts[1]
    assert len(first.services) == SERVICES_PER_PAGE
    second = read(store, after=first.services_after)
    assert ([row.service[7:10] for row in second.services], second.services_after) == (
        ["s50", "s51"],
        None,
    )


def test_the_mark_of_movement_changes_with_what_is_shown(began: Store, add: Add) -> None:
    marks = [read_movement(began)]
    assert read_movement(began) == marks[0]
    add(OTHER, 2, status=Status.CHALLENGER)
    marks.append(read_movement(began))
    with began.write() as connection:
        insert_rollout(connection, ROLLOUT, ANNA)
    marks.append(read_movement(began))
    look(began, 1, official=False)
    marks.append(read_movement(began))
    trouble = Trouble(Condition.DATA_DRIFT, SERVICE, "m", "title", "text")
    for _ in range(2):
        with began.write() as connection:
            raise_alert(connection, trouble, at=NOW)
        marks.append(read_movement(began))
    assert len(set(marks)) == 6
