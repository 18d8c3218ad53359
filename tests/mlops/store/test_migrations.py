"""The baseline migration builds what nine migrations built before it, and stands in for them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store import Store, get_route, list_live_periods, open_store
from mlops.store import migrations as migrating
from mlops.store.migrations import HEAD, VERSION_TABLE, current_revision
from tests.mlops.store.schema_dump import describe_schema, kept_schema

from .conftest import SERVICE

APPEND_ONLY = ("audit", "ledger", "route_history", "rollout_event")


def test_the_baseline_builds_what_the_nine_migrations_built(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, store.read() as connection:
        found = describe_schema(connection).splitlines()
        assert found == kept_schema(connection.dialect.name).splitlines()


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE watch ADD COLUMN note TEXT",
        "DROP INDEX one_open_rollout",
        "CREATE INDEX another ON watch (since)",
    ],
)
def test_a_schema_that_differs_is_described_differently(store: Store, change: str) -> None:
    with store.write() as connection:
        connection.execute(sa.text(change))
    with store.read() as connection:
        assert describe_schema(connection) != kept_schema(connection.dialect.name)


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_a_guard_that_is_missing_is_noticed(store: Store, table: str) -> None:
    drop = {
        "sqlite": f"DROP TRIGGER {table}_no_DELETE",
        "postgresql": f"DROP TRIGGER {table}_append_only ON {table}",
    }
    with store.write() as connection:
        connection.execute(sa.text(drop[connection.dialect.name]))
    with store.read() as connection:
        assert describe_schema(connection) != kept_schema(connection.dialect.name)


def test_there_is_one_migration() -> None:
    versions = Path(migrating.__file__).parent / "versions"
    assert [path.name for path in versions.glob("m*.py")] == ["m0009_baseline.py"]


def test_a_new_store_is_at_the_head(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, store.read() as connection:
        assert current_revision(connection) == HEAD == "0009"


def test_a_store_at_the_head_opens_as_it_is(began: Store, url: str) -> None:
    with began.read() as connection:
        before = describe_schema(connection)
    with closing(open_store(url)) as again:
        assert get_route(again, SERVICE) == get_route(began, SERVICE)
        assert len(list_live_periods(again, SERVICE)) == 1
        with again.read() as connection:
            assert describe_schema(connection) == before


@pytest.mark.parametrize("revision", [f"000{number}" for number in range(1, 9)])
def test_a_store_from_before_the_baseline_is_refused(began: Store, url: str, revision: str) -> None:
    with began.write() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
    with pytest.raises(StoreError) as refusal:
        open_store(url)
    message = str(refusal.value)
    assert message.startswith(f"the store is at schema '{revision}', which this release cannot")
    assert "commit 9ae3cdf migrates it" in message
    assert "come back" in message
    with began.read() as connection:
        assert current_revision(connection) == revision
    assert get_route(began, SERVICE) is not None
