"""Old rows are deleted a limited number at a time; what others name, and the record, stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlops.errors import LeaseLost, OperationNotFound, RolloutRefused
from mlops.rollout.plan import plan_for
from mlops.rollout.request import request_rollout
from mlops.store import ModelVersion, Status, Store, Why, get_version, open_store
from mlops.store.alerts import Condition, Trouble, list_alerts, raise_alert, recover_alert
from mlops.store.leases import exclusive
from mlops.store.monitor_runs import (
    CheckRow,
    last_check,
    list_checks,
    start_watch,
    stop_watch,
    write_check,
)
from mlops.store.operations import begin_operation, get_operation
from mlops.store.retention import (
    ROWS,
    delete_ended_alerts,
    delete_old_checks,
    delete_old_operations,
    list_marked_bundles,
    mark_old_bundles,
    record_removed_bundle,
)
from mlops.store.schema import alert, alert_notice, check, operation
from mlops.store.triggers import Cause, TriggerReason, raise_trigger
from mlops.store.versions import change_status

from .conftest import NOW, SERVICE

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LATER = NOW + 100 * DAY
ANN = Why(NOW, actor="ann", reason="why")
A_YEAR_S = 365 * 86_400.0
MOST_BYTES = 1_000_000_000
LOOK_BYTES = 6_800
"""A look's size in the demo, whose ensemble has more columns than most versions."""


def look(store: Store, bar: datetime, *, model_id: str = "linear_BTC_1") -> CheckRow:
    row = CheckRow(
        service=SERVICE,
        model_id=model_id,
        bar=bar,
        at=bar,
        recommendation="keep",
        official=False,
        report={"score": 0.0},
        performance=None,
        state={},
    )
    with store.write() as connection:
        write_check(connection, row)
    return row


def ids_of(store: Store) -> set[str]:
    return {row.id for row in list_checks(store, SERVICE)}


def test_old_looks_go_and_those_within_the_retention_stay(store: Store) -> None:
    rows = [look(store, NOW + day * DAY) for day in range(41)]
    assert delete_old_checks(store, days=30, limit=1000) == 10
    assert ids_of(store) == {row.id for row in rows[10:]}
    assert delete_old_checks(store, days=30, limit=1000) == 0


def test_the_last_look_of_a_version_stays_however_old(store: Store) -> None:
    look(store, NOW, model_id="replaced")
    last = look(store, NOW + DAY, model_id="replaced")
    newer = look(store, NOW + 400 * DAY)
    delete_old_checks(store, days=30, limit=1000)
    assert ids_of(store) == {last.id, newer.id}
    assert last_check(store, SERVICE, "replaced") == last


def test_a_look_that_a_trigger_names_stays(store: Store) -> None:
    named = look(store, NOW)
    for day in range(1, 41):
        look(store, NOW + day * DAY)
    reason = TriggerReason(
        service=SERVICE,
        cause=Cause.DRIFT,
        watermark="w",
        champion="linear_BTC_1",
        text="drift",
        verdict=named.id,
    )
    with store.write() as connection:
        raise_trigger(connection, reason, at=NOW)
    assert delete_old_checks(store, days=30, limit=1000) == 9
    assert named.id in ids_of(store)


@pytest.mark.parametrize("limit", [0, 3, ROWS + 3])
def test_a_call_deletes_no_more_looks_than_its_limit(store: Store, limit: int) -> None:
    insert_looks(store, [SERVICE], first=0, hours=ROWS + 10, report="{}")
    look(store, NOW + 400 * DAY)
    assert delete_old_checks(store, days=30, limit=limit) == limit


def test_looks_of_a_replayed_market_are_as_old_as_its_own_clock_says(store: Store) -> None:
    long_ago = NOW - 3000 * DAY
    rows = {look(store, long_ago + day * DAY).id for day in range(20)}
    assert delete_old_checks(store, days=30, limit=1000) == 0
    assert ids_of(store) == rows


def raise_and_end(store: Store, subject: str, *, end: bool = True) -> None:
    trouble = Trouble(Condition.DATA_DRIFT, SERVICE, subject, "Drift", "moved")
    with store.write() as connection:
        raise_alert(connection, trouble, at=NOW)
        if end:
            recover_alert(
                connection,
                condition=trouble.condition,
                service=SERVICE,
                subject=subject,
                at=NOW + HOUR,
                text="over",
            )


def test_an_ended_alert_goes_with_its_notices_and_a_lasting_one_stays(store: Store) -> None:
    raise_and_end(store, "ended")
    raise_and_end(store, "lasting", end=False)
    assert delete_ended_alerts(store, days=365, limit=10) == 0
    with store.write() as connection:
        age = {"written_at": alert_notice.c.written_at - A_YEAR_S - 10}
        connection.execute(alert_notice.update().values(**age))
    raise_and_end(store, "new")
    assert delete_ended_alerts(store, days=365, limit=10) == 1
    assert {row.subject for row in list_alerts(store)} == {"lasting", "new"}
    with store.read() as connection:
        assert len(connection.execute(sa.select(alert_notice)).all()) == 3


def test_an_ended_alert_without_a_notice_is_as_old_as_its_end(store: Store) -> None:
    now = datetime.now(UTC)
    for subject, end in (("old", now - 366 * DAY), ("new", now - 364 * DAY)):
        raise_and_end(store, subject)
        with store.write() as connection:
            ended = alert.update().where(alert.c.subject == subject)
            connection.execute(ended.values(recovered_at=end))
            connection.execute(alert_notice.delete())
    assert delete_ended_alerts(store, days=365, limit=10) == 1
    assert {row.subject for row in list_alerts(store)} == {"new"}


def marked(store: Store) -> list[str]:
    with exclusive(store, "registration", "test", timeout_s=0.0) as lease:
        mark_old_bundles(store, lease, before=LATER, limit=100, at=LATER)
    return [row.model_id for row in list_marked_bundles(store, limit=100)]


@pytest.mark.parametrize("status", Status)
def test_only_bundles_of_versions_that_may_not_answer_are_marked(
    began: Store, add: Callable[..., ModelVersion], status: Status
) -> None:
    add("linear_BTC_1", 2, status=status)
    removable = status in (Status.REFUSED, Status.RETIRED, Status.FAILED)
    assert marked(began) == (["linear_BTC_1"] if removable else [])


def test_a_version_trained_elsewhere_is_never_marked(
    began: Store, add: Callable[..., ModelVersion]
) -> None:
    add("claimed_BTC_1", 2, status=Status.REFUSED, claims_only=True)
    add("judged_BTC_1", 3, status=Status.REFUSED, judged_on={"kind": "word"})
    assert marked(began) == []


def test_a_version_that_a_route_or_rollout_or_watch_names_is_not_marked(
    began: Store, add: Callable[..., ModelVersion]
) -> None:
    for number, name in enumerate(("watched", "rolled_out", "unused"), start=2):
        add(name, number, status=Status.RETIRED)
    # The baseline is the champion, and its status says that it could go.
    with began.write() as connection:
        change_status(connection, "persistence_BTC_1", Status.RETIRED, ANN)
    start_watch(began, "watched", 6, ANN)
    request_rollout(began, "rolled_out", plan_for("canary"), ANN)
    assert marked(began) == ["unused"]
    stop_watch(began, "watched", ANN)
    assert sorted(marked(began)) == ["unused", "watched"]


def test_who_lost_the_lease_marks_nothing(began: Store, add: Callable[..., ModelVersion]) -> None:
    add("unused", 2, status=Status.RETIRED)
    with exclusive(began, "registration", "stalled", timeout_s=0.0) as stalled:
        pass
    with pytest.raises(LeaseLost):
        mark_old_bundles(began, stalled, before=LATER, limit=100, at=LATER)
    assert get_version(began, "unused").bundle_removed_at is None


def test_the_newest_search_of_each_request_is_not_marked(
    began: Store, add: Callable[..., ModelVersion]
) -> None:
    """Its refits continue the record in its bundle, however old it is."""
    for number, (name, request, refit) in enumerate(
        [
            ("older", "daily", False),
            ("daily", "daily", False),
            ("refit", "daily", True),
            ("weekly", "weekly", False),
        ],
        start=2,
    ):
        notes = {"request": request, "refit": refit}
        created = NOW + number * DAY
        add(name, number, status=Status.REFUSED, notes=notes, created_at=created)
    assert marked(began) == ["older", "refit"]


def test_a_version_that_changed_lately_is_not_marked(
    began: Store, add: Callable[..., ModelVersion]
) -> None:
    add("linear_BTC_1", 2, status=Status.DEPLOYED)
    with began.write() as connection:
        change_status(connection, "linear_BTC_1", Status.RETIRED, Why(LATER))
    assert marked(began) == []


def test_a_marked_version_may_not_go_live_and_is_listed_until_its_files_are_gone(
    began: Store, add: Callable[..., ModelVersion]
) -> None:
    add("linear_BTC_1", 2, status=Status.RETIRED)
    assert marked(began) == ["linear_BTC_1"]
    row = get_version(began, "linear_BTC_1")
    assert row.bundle_removed_at == LATER
    with pytest.raises(RolloutRefused, match="was removed on 2025-04-11, BUNDLE_DAYS after"):
        request_rollout(began, row.model_id, plan_for("canary"), ANN, force=True)
    record_removed_bundle(began, row, ANN)
    assert list_marked_bundles(began, limit=100) == ()


def insert_looks(store: Store, services: list[str], *, first: int, hours: int, report: str) -> None:
    """Hourly looks of each service, as text: coding the JSON of so many would take minutes."""
    columns = ", ".join(name for name in check.c.keys() if name not in ("performance", "bars"))  # noqa: SIM118
    statement = sa.text(
        f"INSERT INTO drift_check ({columns}) VALUES "
        "(:id, :service, 'linear_BTC_1', :bar, :bar, 'keep', FALSE, :report, '{}')"
    )
    rows = [
        {
            "id": f"check-{service}-{hour}",
            "service": service,
            "bar": f"{NOW + hour * HOUR:%Y-%m-%d %H:%M:%S.%f}",
            "report": report,
        }
        for service in services
        for hour in range(first, first + hours)
    ]
    with store.write() as connection:
        connection.execute(statement, rows)


def write_without_waiting_for_the_disk(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


@pytest.mark.slow
def test_a_year_of_hourly_looks_on_fifty_services_stays_below_a_gigabyte(tmp_path: Path) -> None:
    services = [f"sample.s{number}.1h.volatility.24" for number in range(50)]
    path, days, week = tmp_path / "store.db", 30, 7 * 24
    report = f'{{"columns": "{"x" * LOOK_BYTES}"}}'
    with closing(open_store(f"sqlite:///{path}")) as store:
        store.engine.dispose()
        sa.event.listen(store.engine, "connect", write_without_waiting_for_the_disk)
        for first in range(0, 365 * 24, week):
            insert_looks(store, services, first=first, hours=week, report=report)
            delete_old_checks(store, days=days, limit=50 * week)
            files = [path, path.with_name("store.db-wal")]
            assert sum(os.path.getsize(file) for file in files) < MOST_BYTES
        counted = sa.select(sa.func.count()).select_from(check)
        with store.read() as connection:
            # The bars of 30 days, and the one that is exactly so old.
            assert connection.execute(counted).scalar_one() == 50 * (days * 24 + 1)


def test_operations_are_known_for_their_days(store: Store) -> None:
    old, young = (
        begin_operation(store, "judge", owner="ann", holder="here", seconds=60.0) for _ in range(2)
    )
    with store.write() as connection:
        before = datetime.now(UTC) - 31 * DAY
        connection.execute(
            operation.update().where(operation.c.id == old.id).values(created_at=before)
        )
    assert delete_old_operations(store, days=30.0, limit=10) == 1
    assert get_operation(store, young.id).kind == "judge"
    with pytest.raises(OperationNotFound):
        get_operation(store, old.id)
