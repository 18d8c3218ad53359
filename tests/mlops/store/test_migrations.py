"""Migrations keep every row and only add; a store that a newer release migrated still opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store import Store, Why, get_route, list_live_periods, open_store
from mlops.store.audit import record
from mlops.store.connect import make_engine
from mlops.store.migrations import HEAD, VERSION_TABLE, current_revision, run_migrations
from tests.forked import in_child
from tests.further_release import FURTHER, further_release
from tests.mlops.store.schema_change import find_losses
from tests.mlops.store.schema_dump import describe_schema, kept_schema

from .conftest import NOW, SERVICE

APPEND_ONLY = ("audit", "ledger", "route_history", "rollout_event", "ab_look")
REVISIONS = tuple(f"{number:04}" for number in range(9, int(HEAD) + 1))


@contextmanager
def raw_connection(url: str) -> Iterator[sa.Connection]:
    """A connection that writes to a store which no code has opened."""
    engine = make_engine(url, 30.0)
    try:
        with engine.connect().execution_options(mlops_write=True) as connection:
            yield connection
    finally:
        engine.dispose()


def make_store_of_0009(url: str) -> None:
    """A store at 0009 with a version, a route, a rollout with events, a lease and a replica."""
    rows = {
        "version": "'{id}', 's', {number}, 'run', 'linear', 'BTC/USD', 'challenger', 'd', 'file:', "
        "'w', NULL, 'r', FALSE, NULL, '{{}}', '{{}}', '1', '2025-01-01 00:00:00'",
        "rollout": "'r1', 's', 'canary', 'v1', 'v2', '{{}}', 'step', 2, '2025-01-01 00:00:00', "
        "'2025-01-01 00:10:00', 'why', NULL, FALSE, 'ann', 'why', '2025-01-01 00:00:00', NULL",
        "rollout_event": "'r1', {number}, '2025-01-01 00:00:00', NULL, 'step', 2, 1, 1, 'why', "
        "'{{}}'",
        "lease": "'controller', 'host', 3, 17.5",
        "replica": "'host:8005', 'i', 'host:8005', 'ready', 17.5, '1', NULL, '2025-01-01 00:00:00'",
        "replica_model": "'host:8005', 'v1', 'ready', 'd', 1, 1.5, NULL, 0",
    }
    with raw_connection(url) as connection, connection.begin():
        run_migrations(connection, "0009")
        for table, values in rows.items():
            for number in (1, 2) if "{number}" in values else (1,):
                row = values.format(id=f"v{number}", number=number)
                connection.execute(sa.text(f"INSERT INTO {table} VALUES ({row})"))


def read_rows(connection: sa.Connection) -> dict[str, list[dict[str, object]]]:
    """All rows of all tables as the database has them."""
    return {
        table: [dict(row._mapping) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))]
        for table in sorted(sa.inspect(connection).get_table_names())
        if table != VERSION_TABLE
    }


def read_schema(url: str, revision: str) -> str:
    """The schema after the migrations up to a revision."""
    with raw_connection(url) as connection, connection.begin():
        run_migrations(connection, revision)
        return describe_schema(connection)


def test_the_baseline_builds_what_the_nine_migrations_built(empty_url: str) -> None:
    schema = read_schema(empty_url, "0009").splitlines()
    dialect = sa.make_url(empty_url).get_backend_name()
    assert schema == kept_schema(dialect).splitlines()


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
        before = describe_schema(connection)
        connection.execute(sa.text(change))
        assert describe_schema(connection) != before


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_a_guard_that_is_missing_is_noticed(store: Store, table: str) -> None:
    drop = {
        "sqlite": f"DROP TRIGGER {table}_no_DELETE",
        "postgresql": f"DROP TRIGGER {table}_append_only ON {table}",
    }
    with store.write() as connection:
        before = describe_schema(connection)
        connection.execute(sa.text(drop[connection.dialect.name]))
        after = describe_schema(connection)
    assert find_losses(before, after) != []


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        ("ALTER TABLE watch DROP COLUMN stopped_by", "lost: column watch stopped_by"),
        ("ALTER TABLE watch ADD COLUMN n INTEGER NOT NULL DEFAULT 0", None),
        ("ALTER TABLE watch ADD COLUMN n INTEGER", None),
        ("DROP TABLE outcome", "lost: column outcome bar"),
        ("ALTER TABLE lease RENAME COLUMN term TO number", "lost: column lease term"),
        ("DROP INDEX one_open_rollout", "one_open_rollout"),
        ("CREATE UNIQUE INDEX n ON watch (since)", "demanded: "),
        ("CREATE INDEX n ON watch (since)", None),
        ("ALTER TABLE watch ADD COLUMN n TEXT; CREATE UNIQUE INDEX one ON watch (n)", None),
        ("ALTER TABLE watch ADD COLUMN n TEXT; CREATE UNIQUE INDEX one ON watch (n, id)", "one"),
        ("CREATE TABLE n (id INTEGER NOT NULL, CONSTRAINT small CHECK (id < 9))", None),
    ],
)
def test_what_a_change_takes_from_older_code_is_found(
    store: Store, change: str, loss: str | None
) -> None:
    with store.write() as connection:
        before = describe_schema(connection)
        for statement in change.split("; "):
            connection.execute(sa.text(statement))
        losses = find_losses(before, describe_schema(connection))
    if loss is None:
        assert losses == []
    else:
        assert any(loss in line for line in losses)


CHECKED = "constraint rollout CONSTRAINT known_phase CHECK (phase IN ('step', 'done'))"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CHECKED, CHECKED.replace("'step', ", "")),
        (CHECKED, f"{CHECKED}\nconstraint rollout CONSTRAINT few CHECK (step < 9)"),
        ("column route 1 note TEXT", "column route 1 note TEXT NOT NULL"),
        ("column route 1 note VARCHAR(64)", "column route 1 note VARCHAR(32)"),
        ("column route 1 note TEXT", "column route 1 note TEXT\ncolumn route 2 n TEXT NOT NULL"),
    ],
)
def test_a_narrower_check_or_column_is_found(before: str, after: str) -> None:
    assert find_losses(before, after) != []
    assert find_losses(before, before) == []


def test_one_more_word_in_a_check_and_an_index_of_its_rows_take_nothing() -> None:
    wider = CHECKED.replace("('step'", "('waiting', 'step'")
    index = "CREATE UNIQUE INDEX one_waiting ON rollout (service) WHERE phase = 'waiting'"
    assert find_losses(CHECKED, f"{wider}\n{index}") == []


@pytest.mark.parametrize("revision", REVISIONS[1:])
def test_a_migration_only_adds(empty_url: str, revision: str) -> None:
    before = read_schema(empty_url, REVISIONS[REVISIONS.index(revision) - 1])
    assert find_losses(before, read_schema(empty_url, revision)) == []


def test_a_store_with_rows_keeps_them_and_gets_the_schema_of_a_new_one(empty_url: str) -> None:
    with raw_connection(empty_url) as connection, connection.begin() as creation:
        run_migrations(connection, HEAD)
        new_schema = describe_schema(connection)
        creation.rollback()
    make_store_of_0009(empty_url)
    with raw_connection(empty_url) as connection:
        before = read_rows(connection)
    with closing(open_store(empty_url)) as migrated, migrated.read() as connection:
        after = read_rows(connection)
        assert describe_schema(connection) == new_schema
    assert before["rollout_event"]
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]] if rows else []
        assert kept == rows, table


def test_references_and_guards_hold_after_a_migration(empty_url: str) -> None:
    make_store_of_0009(empty_url)
    with closing(open_store(empty_url)) as migrated:
        if migrated.engine.dialect.name == "sqlite":
            with migrated.read() as connection:
                assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []
        for change in (
            "DELETE FROM version",
            "DELETE FROM rollout",
            "DELETE FROM rollout_event",
            "UPDATE rollout_event SET reason = 'other'",
            "UPDATE rollout SET phase = 'unknown'",
        ):
            with pytest.raises(StoreError), migrated.write() as connection:
                connection.execute(sa.text(change))


def migrate_until(url: str, statement: int, strike: Callable[[], None]) -> None:
    """Open a store; before the n-th statement of its migrations, ``strike``."""
    begun: list[str] = []

    def count(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if begun or "CREATE TABLE installation" in sql:
            begun.append(sql)
        if len(begun) == statement:
            strike()

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    open_store(url).close()


def fail() -> None:
    raise StoreError("the disk is full")


@pytest.mark.parametrize("strike", [fail, lambda: os._exit(9)], ids=["raises", "dies"])
@pytest.mark.parametrize(
    "statement", [2, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4, 5, 6, 7, 9))]
)
def test_a_migration_that_breaks_off_leaves_the_store_as_it_was(
    empty_url: str, statement: int, strike: Callable[[], None]
) -> None:
    make_store_of_0009(empty_url)
    with raw_connection(empty_url) as connection:
        before = describe_schema(connection), read_rows(connection)
    assert in_child(lambda: migrate_until(empty_url, statement, strike)) != 0
    with raw_connection(empty_url) as connection:
        assert current_revision(connection) == "0009"
        assert (describe_schema(connection), read_rows(connection)) == before
    with closing(open_store(empty_url)) as migrated, migrated.read() as connection:
        assert current_revision(connection) == HEAD


def test_a_new_store_is_at_the_head(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, store.read() as connection:
        assert current_revision(connection) == HEAD


def test_a_store_at_the_head_opens_as_it_is(began: Store, url: str) -> None:
    with began.read() as connection:
        before = describe_schema(connection)
    with closing(open_store(url)) as again:
        assert get_route(again, SERVICE) == get_route(began, SERVICE)
        assert len(list_live_periods(again, SERVICE)) == 1
        with again.read() as connection:
            assert describe_schema(connection) == before


def test_a_store_that_a_further_release_migrated_is_read_and_written(
    began: Store, url: str, tmp_path: Path
) -> None:
    before = get_route(began, SERVICE)
    with further_release(tmp_path):
        open_store(url).close()
    with closing(open_store(url)) as again:
        assert get_route(again, SERVICE) == before
        with again.write() as connection:
            assert current_revision(connection) == FURTHER
            record(connection, Why(NOW), action="a", service=SERVICE, subject="x")


def test_a_store_that_only_a_further_release_may_read_is_refused(
    began: Store, url: str, tmp_path: Path
) -> None:
    with further_release(tmp_path, min_reader=FURTHER):
        open_store(url).close()
    with pytest.raises(StoreError) as refusal:
        open_store(url)
    assert str(refusal.value) == (
        f"the store is at schema '{FURTHER}', which needs a release that knows schema '{FURTHER}'; "
        f"this one knows '{HEAD}' at most: install the release that migrated the store, or a newer"
    )
    with began.read() as connection:
        assert current_revision(connection) == FURTHER


def test_the_further_migration_of_these_tests_only_adds(url: str, tmp_path: Path) -> None:
    before = read_schema(url, HEAD)
    with further_release(tmp_path):
        assert find_losses(before, read_schema(url, FURTHER)) == []


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
