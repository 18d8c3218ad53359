"""Alerts, looks and triggers over HTTP, newest first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlops.store.alerts import Condition, Trouble, raise_alert, recover_alert
from mlops.store.monitor_runs import CheckRow, write_check
from mlops.store.triggers import Cause, TriggerReason, raise_trigger
from tests.mlops.api.conftest import FIRST_BAR, HOUR, Client, World, made_world
from tests.mlops.serving.conftest import Library

LASTING, ENDED = "lasting", "ended"


@pytest.fixture(scope="module")
def written(library_once: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two alerts, of which one has ended, two looks and a trigger."""
    with made_world(library_once, tmp_path_factory.mktemp("records")) as world:
        with world.store.write() as connection:
            for hour, subject in enumerate((ENDED, LASTING)):
                at = FIRST_BAR + hour * HOUR
                trouble = Trouble(Condition.DATA_DRIFT, world.service, subject, "drift", "har_1")
                raise_alert(connection, trouble, at=at)
                row = CheckRow(
                    service=world.service, model_id=world.champion, bar=at, at=at,
                    recommendation="RETRAIN_SOON", official=hour == 0,
                    report={"score": float("nan")}, performance=None, state={},
                    bars={"expected": 168, "present": 168, "repeated": 0},
                )  # fmt: skip
                write_check(connection, row)
            recover_alert(
                connection, condition=Condition.DATA_DRIFT, service=world.service, subject=ENDED,
                at=FIRST_BAR + HOUR, text="over",
            )  # fmt: skip
            reason = TriggerReason(
                service=world.service, cause=Cause.DRIFT, watermark="w", champion=world.champion,
                text="har_1 moved", verdict=row.id, columns=("har_1",),
            )  # fmt: skip
            raise_trigger(connection, reason, at=FIRST_BAR)
        yield world


@pytest.fixture(scope="module")
def client(written: World) -> Client:
    return written.client


def test_alerts_say_whether_they_last(written: World, client: Client) -> None:
    alerts = client.get("alerts").json()["alerts"]
    assert [row["subject"] for row in alerts] == [LASTING, ENDED]
    assert [row["recovered_at"] is None for row in alerts] == [True, False]
    lasting = client.get("alerts?lasting=true").json()["alerts"]
    assert [row["subject"] for row in lasting] == [LASTING]


def test_pages_of_alerts_hold_each_once(client: Client) -> None:
    first = client.get("alerts?limit=1").json()
    second = client.get(f"alerts?limit=1&cursor={first['next']}").json()
    assert [page["alerts"][0]["subject"] for page in (first, second)] == [LASTING, ENDED]
    assert second["next"] is None


def test_looks_of_a_version_are_told_with_their_recommendation(
    written: World, client: Client
) -> None:
    looks = client.get("checks", params={"model_id": written.champion}).json()["checks"]
    assert [row["recommendation"] for row in looks] == ["RETRAIN_SOON"] * 2
    assert looks[0]["bars"]["present"] == 168
    assert len(client.get("checks?official=true").json()["checks"]) == 1
    assert client.get("checks?model_id=nobody").json()["checks"] == []


def test_a_trigger_names_the_look_that_raised_it(written: World, client: Client) -> None:
    (trigger,) = client.get("triggers?state=waiting").json()["triggers"]
    assert (trigger["cause"], trigger["text"]) == ("drift", "har_1 moved")
    assert trigger["check_id"].startswith("check-")
    assert client.get("triggers?state=answered").json()["triggers"] == []


@pytest.mark.parametrize(
    "path", ["alerts?lasting=1", "checks?official=yes", "triggers?state=done", "alerts?limit=x"]
)
def test_a_filter_that_is_none_is_refused(client: Client, path: str) -> None:
    assert client.get(path).status_code == 422
