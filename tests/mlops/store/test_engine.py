"""The store opens itself, keeps whole transactions only, and lets writers queue."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store import Store, Why, open_store
from mlops.store.audit import list_audit_entries, record
from mlops.store.connect import POOL_OVERFLOW, POOL_SIZE, make_engine
from mlops.store.engine import _lock_postgres_for_migration, _sqlite_migration_lock
from mlops.store.migrations import HEAD, VERSION_TABLE, current_revision
from mlops.store.schema import audit, metadata, route

from .conftest import NOW, SERVICE

WRITER = """
import sys
from datetime import datetime, UTC
from mlops.store import open_store, Why
from mlops.store.audit import record
store = open_store(sys.argv[1])
for _ in range(20):
    with store.write() as connection:
        why = Why(datetime(2025, 1, 1, tzinfo=UTC))
        record(connection, why, action="a", service="s", subject="x")
"""


def test_the_migrations_build_exactly_the_schema_the_code_uses(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_the_declared_head_is_the_newest_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from mlops.store import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_threads_may_each_create_a_store_of_their_own(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(6)]
    with ThreadPoolExecutor(len(urls)) as pool:
        for opened in pool.map(open_store, urls):
            with closing(opened):
                assert list_audit_entries(opened) == ()


def test_opening_again_keeps_what_was_written(began: Store, url: str) -> None:
    with closing(open_store(url)) as again:
        assert len(list_audit_entries(again, service=SERVICE)) == 2


def test_a_store_that_needs_a_newer_release_is_refused(store: Store, url: str) -> None:
    with store.write() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        connection.execute(sa.text("UPDATE installation SET min_reader = '9998'"))
    with pytest.raises(StoreError, match=r"'9999', which needs a release that knows schema '9998'"):
        open_store(url)


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def write_then_fail() -> None:
        with store.write() as connection:
            record(connection, Why(NOW), action="a", service=SERVICE, subject="x")
            raise RuntimeError("after the write")

    with pytest.raises(RuntimeError):
        write_then_fail()
    assert list_audit_entries(store) == ()


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    with store.write() as connection:
        record(connection, Why(NOW), action="a", service=SERVICE, subject="x")
        assert list_audit_entries(store) == ()


def test_a_reader_sees_one_moment_for_as_long_as_it_reads(store: Store) -> None:
    count = sa.select(sa.func.count()).select_from(audit)
    with store.read() as reader:
        before = reader.execute(count).scalar_one()
        with store.write() as connection:
            record(connection, Why(NOW), action="a", service=SERVICE, subject="x")
        assert reader.execute(count).scalar_one() == before
    assert len(list_audit_entries(store)) == before + 1


def test_a_file_that_was_moved_away_is_missed_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(open_store(f"sqlite:///{path}")) as store:
        path.rename(tmp_path / "away.db")
        for use in (store.read, store.write):
            with pytest.raises(StoreError, match="is not there"), use():
                raise AssertionError("a file that nobody else can open was used")
        (tmp_path / "away.db").rename(path)
        assert list_audit_entries(store) == ()


def test_a_file_that_was_put_in_the_place_of_ours_is_not_mistaken_for_it(tmp_path: Path) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    open_store(f"sqlite:///{other}").close()
    with closing(open_store(f"sqlite:///{path}")) as store:
        other.replace(path)
        with pytest.raises(StoreError, match="replaced by another"):
            list_audit_entries(store)


def test_nothing_written_by_a_reader_is_kept(store: Store) -> None:
    # Postgres says so; SQLite forgets in silence.
    with suppress(StoreError), store.read() as connection:
        record(connection, Why(NOW), action="a", service=SERVICE, subject="x")
    assert list_audit_entries(store) == ()


def test_processes_that_open_and_write_at_once_all_succeed(empty_url: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, empty_url], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    errors = [writer.communicate(timeout=60)[1].decode() for writer in writers]
    assert errors == ["", "", ""]
    with closing(open_store(empty_url)) as opened:
        assert len(list_audit_entries(opened)) == 60


@pytest.mark.timing
def test_a_writer_waits_for_a_locked_row_no_longer_than_its_patience(
    began: Store, url: str
) -> None:
    touch = route.update().values(salt="x")
    with closing(open_store(url, patience_s=0.3)) as impatient, began.write() as holder:
        holder.execute(touch)
        start = time.monotonic()
        with pytest.raises(StoreError, match="lock"), impatient.write() as connection:
            connection.execute(touch)
        assert 0.2 < time.monotonic() - start < 5


def test_a_call_waits_for_a_free_connection_no_longer_than_its_patience(url: str) -> None:
    with closing(open_store(url, patience_s=0.2)) as impatient, ExitStack() as busy:
        for _ in range(POOL_SIZE + POOL_OVERFLOW):
            busy.enter_context(impatient.read())
        with pytest.raises(StoreError, match=r"cannot be used now.*QueuePool"):
            list_audit_entries(impatient)


def test_a_process_that_migrates_for_too_long_is_not_waited_for(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.store.engine.MIGRATION_S", 1)
    with migrating(empty_url), pytest.raises(StoreError, match="cannot be used now"):
        open_store(empty_url)


@contextmanager
def migrating(url: str) -> Iterator[None]:
    """Another process is bringing the schema up to date."""
    engine = make_engine(url, 1)
    with _sqlite_migration_lock(engine), engine.connect() as connection:
        _lock_postgres_for_migration(connection)
        yield
    engine.dispose()


@pytest.mark.parametrize("table", ["audit", "ledger"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET service = 'x'"])
def test_what_was_counted_or_audited_cannot_be_altered(
    began: Store, table: str, statement: str
) -> None:
    from mlops.store import record_trials

    record_trials(began, SERVICE, study="s", numbers=[0], at=NOW)
    with pytest.raises(StoreError, match="append-only"), began.write() as connection:
        connection.execute(sa.text(statement.format(table)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("sqlite://", "names no file"),
        ("not a url", "not a database URL"),
        ("postgresql://user:secret@host:54x2/store", "port that is not a number"),
        ("mysql://host/database", "does not know 'mysql'"),
        ("sqlite:////proc/nowhere/store.db", "cannot|denied|No such"),
    ],
)
def test_a_wrong_url_is_named(wrong: str, message: str) -> None:
    with pytest.raises((StoreError, OSError), match=message):
        open_store(wrong)


def test_a_time_without_zone_is_refused(store: Store) -> None:
    naive = Why(NOW.replace(tzinfo=None))
    with pytest.raises(StoreError, match="has no zone"), store.write() as connection:
        record(connection, naive, action="a", service=SERVICE, subject="x")


def test_an_empty_database_has_no_revision(empty_url: str) -> None:
    engine = make_engine(empty_url, 1)
    with engine.connect() as connection:
        assert current_revision(connection) is None
    engine.dispose()
