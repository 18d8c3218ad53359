"""Rollouts, champions and looks raise alerts, and what followed them ends the alerts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlops.alerts.conditions import close_alerts_of_replaced, raise_champion_failed
from mlops.rollout.controller import Controller
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.request import request_rollout
from mlops.store import Phase, Status, Store, Why
from mlops.store.alerts import AlertRow, Condition, Severity, Trouble, list_alerts, raise_alert
from mlops.store.monitor_runs import start_watch
from mlops.store.rollouts import request_abort
from mlops.store.routes import change_route, read_route
from mlops.store.schema import rollout as rollout_table
from tests.mlops.rollout.rows import (
    ASKED,
    BASELINE,
    CHALLENGER,
    CHAMPION,
    NOW,
    SERVICE,
    Clock,
    RowReplica,
    add_version,
    ask,
    carry,
    count,
    count_champion,
    route_of,
)

ANOTHER = "another"
OLD, NEW = "linear_BTC_1", "linear_BTC_2"


def alerts(store: Store) -> list[AlertRow]:
    return list(list_alerts(store))


def undo_one(service: Store, model_id: str = CHALLENGER) -> None:
    """A challenger that fails in its first step."""
    one, controller = RowReplica(service), Controller(service, "one")
    asked = request_rollout(service, model_id, plan_for(Strategy.CANARY), ASKED)
    carry(controller, [one])
    count(service, asked, challenger_faults=100)
    carry(controller, [one])


def test_a_rollout_that_was_undone_raises_an_alert_with_the_reason(service: Store) -> None:
    undo_one(service)
    [told] = alerts(service)
    assert told.title == f"The rollout of {CHALLENGER} was undone"
    assert "worse than the champion" in told.text
    assert told.severity is Severity.WARNING
    assert told.recovered_at is None


def test_each_version_whose_rollout_was_undone_is_told(service: Store) -> None:
    add_version(service, ANOTHER, 4, status=Status.CHALLENGER)
    undo_one(service)
    undo_one(service, ANOTHER)
    assert {told.title for told in alerts(service)} == {
        f"The rollout of {version} was undone" for version in (CHALLENGER, ANOTHER)
    }


def test_each_champion_that_failed_is_told(service: Store) -> None:
    with service.write() as connection:
        for failed in (OLD, NEW):
            raise_champion_failed(connection, SERVICE, failed=failed, reason="it fails", at=NOW)
    assert {told.subject for told in alerts(service)} == {OLD, NEW}


def test_a_rollout_that_a_person_ended_raises_no_alert(service: Store) -> None:
    one, controller = RowReplica(service), Controller(service, "one")
    asked = ask(service)
    carry(controller, [one])
    request_abort(service, asked.id, Why(NOW, actor="anna", reason="a mistake"))
    carry(controller, [one])
    assert alerts(service) == []


def test_a_promotion_that_was_taken_back_raises_a_critical_alert(service: Store) -> None:
    clock, one = Clock(), RowReplica(service)
    controller = Controller(service, "one", now=clock)
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    carry(controller, [one])
    clock.at += timedelta(minutes=2)
    carry(controller, [one])
    assert route_of(service).champion == CHALLENGER
    count_champion(service, trials=1000, faults=200)
    clock.at += timedelta(minutes=1)
    carry(controller, [one])
    assert [one.severity for one in alerts(service)] == [Severity.CRITICAL]


def test_the_alert_of_a_failed_champion_lasts_until_another_version_stays_healthy(
    service: Store, replica: RowReplica
) -> None:
    clock = Clock()
    count_champion(service, trials=1000, faults=200)
    Controller(service, "one", now=clock).tick()
    assert route_of(service).champion == BASELINE
    [told] = alerts(service)
    assert (told.title, told.severity) == (f"{CHAMPION} failed as champion", Severity.CRITICAL)

    controller = Controller(service, "one", now=clock)
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    for _ in range(9):
        carry(controller, [replica])
        clock.at += timedelta(minutes=5)
    assert route_of(service).champion == CHALLENGER
    assert [one.recovered_at is None for one in alerts(service)] == [False]


@pytest.fixture
def drifted(began: Store, add: Callable[..., Any]) -> Store:
    """The champion's bars drifted; another service is in trouble of another kind."""
    add(OLD, 2)
    add(NEW, 3, status=Status.CHALLENGER, report={"passed": True})
    promote(began, OLD)
    with began.write() as connection:
        for condition, subject in (
            (Condition.DATA_DRIFT, OLD),
            (Condition.SYSTEM_TROUBLE, "replicas"),
            (Condition.PERFORMANCE_DEGRADED, "baseline"),
        ):
            raise_alert(connection, Trouble(condition, SERVICE, subject, "-", "-"), at=NOW)
    return began


def promote(store: Store, model_id: str) -> None:
    with store.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        change_route(connection, route, replace(route, champion=model_id), "up", Why(NOW))


def lasting(store: Store) -> set[str]:
    close_alerts_of_replaced(store, NOW)
    return {row.subject for row in list_alerts(store, lasting_only=True)}


def test_alerts_about_a_version_end_when_another_version_serves(drifted: Store) -> None:
    assert lasting(drifted) == {OLD, "replicas", "baseline"}
    promote(drifted, NEW)
    assert lasting(drifted) == {"replicas", "baseline"}


def test_alerts_about_a_replaced_version_last_while_somebody_watches_it(drifted: Store) -> None:
    start_watch(drifted, OLD, 24, Why(NOW))
    promote(drifted, NEW)
    assert OLD in lasting(drifted)


@pytest.mark.parametrize(
    ("phase", "lasts"), [(Phase.PROMOTED, True), (Phase.REVERTED, True), (Phase.STEP, False)]
)
def test_alerts_about_a_version_last_while_a_promotion_may_be_undone(
    drifted: Store, phase: Phase, lasts: bool
) -> None:
    """A rollout that has not replaced the champion, such as a long shadow, keeps no alert."""
    request_rollout(drifted, NEW, plan_for(Strategy.BLUE_GREEN), Why(NOW))
    with drifted.write() as connection:
        connection.execute(rollout_table.update().values(phase=phase))
    promote(drifted, NEW)
    assert (OLD in lasting(drifted)) is lasts
