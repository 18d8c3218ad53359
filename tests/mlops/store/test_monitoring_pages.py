"""Alerts, checks and triggers come by pages, newest first, those of one service if wanted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mlops.store import Store
from mlops.store.alerts import Condition, Trouble, raise_alert, recover_alert
from mlops.store.monitor_runs import CheckRow, write_check
from mlops.store.monitoring_pages import list_alert_page, list_check_page, list_trigger_page
from mlops.store.triggers import Cause, TriggerReason, TriggerState, raise_trigger

from .conftest import NOW, SERVICE

HOUR = timedelta(hours=1)
OTHER = "sample.eth-usd.1h.volatility.24"


def trouble(service: str, subject: str) -> Trouble:
    return Trouble(Condition.DATA_DRIFT, service, subject, "title", "text")


@pytest.fixture
def written(store: Store) -> Store:
    """Three alerts, checks and triggers, an hour apart; the newest is of another service."""
    with store.write() as connection:
        for hour, service in enumerate((SERVICE, SERVICE, OTHER)):
            at = NOW + hour * HOUR
            raise_alert(connection, trouble(service, f"m{hour}"), at=at)
            row = CheckRow(
                id=f"check-{hour}", service=service, model_id=f"m{hour}", bar=at, at=at,
                recommendation="NO_ACTION_NEEDED", official=hour != 1, report={"score": 0.0},
                performance=None, state={},
            )  # fmt: skip
            assert write_check(connection, row)
            reason = TriggerReason(
                service=service, cause=Cause.PERSON, watermark=f"w{hour}", champion="c", text="why"
            )
            assert raise_trigger(connection, reason, at=at)
    return store


def watermark_of(row: Any) -> str:
    return str(row.watermark)


@pytest.mark.parametrize(
    ("read", "name_of", "names"),
    [
        (list_alert_page, lambda row: row.subject, ["m2", "m1", "m0"]),
        (list_check_page, lambda row: row.model_id, ["m2", "m1", "m0"]),
        (list_trigger_page, watermark_of, ["w2", "w1", "w0"]),
    ],
)
def test_pages_go_on_where_the_last_one_ended(
    written: Store, read: Callable[..., Any], name_of: Callable[[Any], str], names: list[str]
) -> None:
    first = read(written, limit=2)
    second = read(written, limit=2, after=first.next)
    assert [name_of(row) for row in (*first.rows, *second.rows)] == names
    assert (len(first.rows), second.next) == (2, None)
    assert [name_of(row) for row in read(written, service=SERVICE, limit=9).rows] == names[1:]


def test_alerts_that_have_ended_are_left_out_if_wanted(written: Store) -> None:
    with written.write() as connection:
        assert recover_alert(
            connection, condition=Condition.DATA_DRIFT, service=SERVICE, subject="m1", at=NOW,
            text="over",
        )  # fmt: skip
    page = list_alert_page(written, lasting_only=True, limit=9)
    assert [row.subject for row in page.rows] == ["m2", "m0"]


def test_checks_are_found_by_version_and_by_whether_they_decide(written: Store) -> None:
    assert [row.id for row in list_check_page(written, model_id="m1", limit=9).rows] == ["check-1"]
    deciding = list_check_page(written, official_only=True, limit=9)
    assert [row.id for row in deciding.rows] == ["check-2", "check-0"]


def test_triggers_are_found_by_their_state(written: Store) -> None:
    assert len(list_trigger_page(written, state=TriggerState.WAITING, limit=9).rows) == 3
    assert list_trigger_page(written, state=TriggerState.ANSWERED, limit=9).rows == ()
