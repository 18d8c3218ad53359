"""Each setting of retention decides how long its own kind is kept."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops.store import ModelVersion, Status, Store, Why
from mlops.store.alerts import Condition, Trouble, raise_alert, recover_alert
from mlops.store.monitor_runs import CheckRow, write_check
from mlops.store.schema import alert_notice
from mlops.store.versions import insert_version
from tasks.context import current_installation
from tasks.retention import remove_old_records
from tests.project import SERVICE, Place

NOW = datetime.now(UTC)
AGE = timedelta(days=3)
KINDS = {
    "MONITOR_RUN_DAYS": "drift check(s)",
    "ALERT_DAYS": "ended alert(s)",
    "BUNDLE_DAYS": "bundle(s)",
    "STUDY_DAYS": "study folder(s)",
    "DRIFT_REPORT_DAYS": "drift page(s)",
    "CACHE_DAYS": "cached file(s)",
}


def write_old_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    written = time.time() - AGE.total_seconds()
    os.utime(path, (written, written))
    return path


def write_old_rows(store: Store, home: Path) -> None:
    """Two looks, an ended alert, and a retired version, each but the second look of the age."""
    version = ModelVersion(
        model_id="old",
        service=SERVICE,
        mlflow_version=1,
        run_id="run",
        model_type="linear",
        symbol="BTC/USD",
        status=Status.RETIRED,
        digest="d",
        bundle_uri=write_old_file(home / "artifacts" / "weights").parent.as_uri(),
        watermark="",
        trained_until=None,
        recipe_digest="",
        claims_only=False,
        code_version="",
        created_at=NOW - AGE,
    )
    trouble = Trouble(Condition.DATA_DRIFT, SERVICE, "old", "Drift", "moved")
    with store.write() as connection:
        insert_version(connection, version, Why(NOW - AGE))
        for bar in (NOW - AGE, NOW):
            check = CheckRow(
                service=SERVICE,
                model_id="old",
                bar=bar,
                at=bar,
                recommendation="keep",
                official=False,
                report={},
                performance=None,
                state={},
            )
            write_check(connection, check)
        raise_alert(connection, trouble, at=NOW - AGE)
        recover_alert(
            connection,
            condition=trouble.condition,
            service=SERVICE,
            subject="old",
            at=NOW - AGE,
            text="over",
        )
        age = {"written_at": alert_notice.c.written_at - AGE.total_seconds()}
        connection.execute(alert_notice.update().values(**age))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_removed_after_the_days_of_its_setting(project: Place, name: str) -> None:
    write_old_rows(project.registry.store, project.base)
    write_old_file(project.base / "studies" / SERVICE / "study" / "journal.log")
    write_old_file(project.base / "reports" / "old-20250401T0000.html")
    write_old_file(project.base / "features" / "old.npy")
    assert remove_old_records.fn(current_installation()) == ()
    project.set(**{name: 2})
    assert remove_old_records.fn(current_installation()) == (f"removed 1 old {KINDS[name]}",)
