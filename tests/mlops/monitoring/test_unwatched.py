"""Alerts about a version end when another one serves, unless somebody still watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlops.alerts.conditions import close_alerts_of_replaced
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.request import request_rollout
from mlops.store import Status, Store, Why
from mlops.store.alerts import Condition, Trouble, list_alerts, raise_alert
from mlops.store.monitor_runs import start_watch
from mlops.store.routes import change_route, read_route

from .conftest import NOW, SERVICE

OLD, NEW = "linear_BTC_1", "linear_BTC_2"


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


def test_they_last_while_it_serves_and_end_when_another_one_does(drifted: Store) -> None:
    assert lasting(drifted) == {OLD, "replicas", "baseline"}
    promote(drifted, NEW)
    assert lasting(drifted) == {"replicas", "baseline"}


def test_they_last_while_somebody_watches_it(drifted: Store) -> None:
    start_watch(drifted, OLD, 24, Why(NOW))
    promote(drifted, NEW)
    assert OLD in lasting(drifted)


def test_they_last_while_a_rollout_may_be_undone(drifted: Store) -> None:
    request_rollout(drifted, NEW, plan_for(Strategy.BLUE_GREEN), Why(NOW))
    promote(drifted, NEW)
    assert OLD in lasting(drifted)
