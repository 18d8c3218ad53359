"""On Postgres: the driver, the limits of a session, and what becomes of a lost connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store import Store, Why, list_audit_entries, open_store
from mlops.store.audit import record
from mlops.store.connect import find_database_file, make_engine
from mlops.store.schema import route
from tests.forked import in_child
from tests.lines import line_to

from .conftest import NOW, SERVICE

on_postgres = pytest.mark.parametrize("url", ["postgres"], indirect=True)
LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")


def write_one(store: Store) -> None:
    with store.write() as connection:
        record(connection, Why(NOW), action="a", service=SERVICE, subject="x")


def cut_all_others(connection: sa.Connection) -> None:
    """As a server that restarts does."""
    connection.execute(
        sa.text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Something listens, takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_a_postgres_url_is_taken_by_one_driver(scheme: str) -> None:
    assert make_engine(f"{scheme}://host/store", 1).url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:////a/store.db", Path("/a/store.db")),
        ("sqlite+pysqlite:///store.db?timeout=5", Path("store.db")),
        ("sqlite://", None),
        ("postgresql://ann:secret@host/store", None),
    ],
)
def test_the_file_of_a_url_is_found(url: str, file: Path | None) -> None:
    assert find_database_file(url) == file


def test_what_is_no_url_is_not_repeated() -> None:
    with pytest.raises(StoreError, match="no database URL") as refused:
        find_database_file("ann:secret@host")
    assert "secret" not in str(refused.value)


def test_a_server_that_never_answers_is_given_up_within_seconds(silent_port: int) -> None:
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot be used now.*timeout") as caught:
        open_store(f"postgresql://user:secret@127.0.0.1:{silent_port}/store", patience_s=1)
    assert time.monotonic() - start < 8
    assert "secret" not in str(caught.value)


@on_postgres
def test_patience_limits_locks_and_the_server_limits_what_runs_or_sleeps(url: str) -> None:
    with closing(open_store(url, patience_s=1.5)) as store, store.read() as connection:
        found = [connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in LIMITS]
    assert found == ["1500ms", "7500ms", "1min"]


@on_postgres
def test_a_patient_caller_may_have_a_statement_run_for_a_minute(store: Store) -> None:
    with store.read() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar_one() == "1min"


@pytest.mark.timing
@on_postgres
def test_a_server_that_falls_silent_is_given_up_and_found_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_and_hear_nothing() -> None:
        with store.read() as connection:
            line.set("silent")
            connection.execute(sa.text("SELECT 1"))

    monkeypatch.setattr("mlops.store.connect.ANSWER_MARGIN_S", 0.1)
    with line_to(url) as (line, through), closing(open_store(through, patience_s=0.1)) as store:
        write_one(store)
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"has not answered for 0\.6 s"):
            ask_and_hear_nothing()
        with pytest.raises(StoreError, match="cannot be used now"):
            write_one(store)
        assert time.monotonic() - start < 10
        line.set("open")
        write_one(store)
        assert len(list_audit_entries(store)) == 2


@on_postgres
def test_what_a_url_says_of_its_connection_is_kept(url: str) -> None:
    named = f"{url}&application_name=desk"
    with closing(open_store(named)) as store, store.read() as connection:
        assert connection.execute(sa.text("SHOW application_name")).scalar_one() == "desk"


@on_postgres
def test_readers_keep_to_one_moment_and_writers_see_what_others_did(store: Store) -> None:
    level = sa.text("SHOW transaction_isolation")
    with store.read() as connection:
        assert connection.execute(level).scalar_one() == "repeatable read"
    with store.write() as connection:
        assert connection.execute(level).scalar_one() == "read committed"


@on_postgres
def test_a_reader_that_writes_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="read-only"), store.read() as connection:
        record(connection, Why(NOW), action="a", service=SERVICE, subject="x")


@on_postgres
def test_a_restart_of_the_server_between_two_calls_is_not_noticed(store: Store, url: str) -> None:
    write_one(store)
    with closing(open_store(url)) as other, other.write() as connection:
        cut_all_others(connection)
    write_one(store)
    assert len(list_audit_entries(store)) == 2


@on_postgres
def test_a_connection_lost_within_a_change_leaves_nothing(store: Store, url: str) -> None:
    def write_and_be_cut() -> None:
        with store.write() as connection, closing(open_store(url)) as other:
            record(connection, Why(NOW), action="a", service=SERVICE, subject="x")
            with other.write() as killer:
                cut_all_others(killer)

    with pytest.raises(StoreError, match="cannot be used now"):
        write_and_be_cut()
    assert list_audit_entries(store) == ()


@on_postgres
def test_a_writer_that_falls_asleep_loses_its_locks(
    began: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.store.connect.IDLE_TRANSACTION_S", 0.2)
    touch = route.update().values(salt="x")

    def fall_asleep() -> None:
        with closing(open_store(url)) as sleepy, sleepy.write() as connection:
            connection.execute(touch)
            with began.write() as awake:
                awake.execute(touch)
            connection.execute(touch)

    with pytest.raises(StoreError, match="cannot be used now"):
        fall_asleep()


@on_postgres
def test_a_forked_process_opens_a_connection_of_its_own(store: Store) -> None:
    def backend() -> int:
        with store.read() as connection:
            return connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()

    def use_it() -> None:
        assert backend() != parents

    parents = backend()
    assert in_child(use_it) == 0
    assert backend() == parents
