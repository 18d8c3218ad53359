"""What the first release wrote is still there after an upgrade, and means the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from mlops.errors import StoreError
from mlops.store import (
    LivePeriod,
    Status,
    Store,
    get_route,
    get_version,
    history,
    list_live_periods,
    live_at,
    open_store,
)
from mlops.store import migrations as migrating
from mlops.store.connect import connectable
from mlops.store.migrations import HEAD, current_revision

from .conftest import NOW, SERVICE

OLD_VERSION = {
    "model_id": "persistence_BTC_1", "service": SERVICE, "mlflow_version": 1, "run_id": "run",
    "model_type": "persistence", "symbol": "BTC/USD", "status": "deployed", "digest": "d" * 64,
    "bundle_uri": "file:///bundle", "watermark": "w" * 64, "trained_until": None,
    "recipe_digest": "r" * 64, "claims_only": False, "report": None, "metrics": '{"mse": NaN}',
    "notes": "{}", "code_version": "0.1.0", "created_at": NOW.replace(tzinfo=None),
}  # fmt: skip
OLD_ROUTE = {
    "service": SERVICE, "generation": 1, "champion": "persistence_BTC_1",
    "previous_champion": None, "baseline": "persistence_BTC_1",
    "created_at": NOW.replace(tzinfo=None), "updated_at": NOW.replace(tzinfo=None),
}  # fmt: skip
OLD_AUDIT = {
    "at": NOW.replace(tzinfo=None), "actor": "anna", "action": "register", "service": SERVICE,
    "subject": "persistence_BTC_1", "reason": "", "before": None, "after": '{"status": "deployed"}',
}  # fmt: skip


@pytest.fixture
def first_release(empty_url: str) -> str:
    """A database as the first release left it."""
    engine = connectable(empty_url, 30.0)
    config = Config()
    config.set_main_option("script_location", str(migrating._HERE))
    with engine.connect().execution_options(mlops_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for table, row in (("version", OLD_VERSION), ("route", OLD_ROUTE), ("audit", OLD_AUDIT)):
            names = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
    engine.dispose()
    return empty_url


@pytest.fixture
def upgraded(first_release: str) -> Iterator[Store]:
    """The same, opened by this release."""
    with closing(open_store(first_release)) as store:
        yield store


def test_opening_brings_the_schema_up_to_date(upgraded: Store) -> None:
    with upgraded.read() as connection:
        assert current_revision(connection) == HEAD


def test_versions_keep_everything(upgraded: Store) -> None:
    version = get_version(upgraded, "persistence_BTC_1")
    assert (version.status, version.created_at) == (Status.DEPLOYED, NOW)
    assert str(version.metrics) == "{'mse': nan}"
    assert [entry.actor for entry in history(upgraded)] == ["anna"]


def test_a_route_goes_on_without_a_challenger(upgraded: Store) -> None:
    route = get_route(upgraded, SERVICE)
    assert route is not None
    assert (route.champion, route.generation) == ("persistence_BTC_1", 1)
    assert (route.challenger, route.weight_bp, route.mirror_bp, route.salt) == (None, 0, 0, "")
    assert (route.only_replicas, route.valid_until) == (None, None)


def test_the_history_begins_with_what_is_live(upgraded: Store) -> None:
    (reign,) = list_live_periods(upgraded, SERVICE)
    assert (reign.champion, reign.at, reign.action) == ("persistence_BTC_1", NOW, "begin_service")
    assert isinstance(live_at(upgraded, SERVICE, NOW), LivePeriod)


def test_new_rules_hold_for_old_rows(upgraded: Store) -> None:
    for wrong in ("weight_bp = 10001", "weight_bp = 1", "challenger = champion"):
        with pytest.raises(StoreError, match="breaks its rules"), upgraded.write() as connection:
            connection.execute(sa.text(f"UPDATE route SET {wrong}"))


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"])
def test_the_audit_stays_append_only(upgraded: Store, statement: str) -> None:
    with pytest.raises(StoreError, match="append-only"), upgraded.write() as connection:
        connection.execute(sa.text(statement))


def test_opening_again_changes_nothing(upgraded: Store, first_release: str) -> None:
    with closing(open_store(first_release)) as again:
        assert get_route(again, SERVICE) == get_route(upgraded, SERVICE)
        assert len(list_live_periods(again, SERVICE)) == 1
