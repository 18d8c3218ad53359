"""One door to the database: migrated when opened, each change one serialised transaction.

SQLite runs in WAL mode with ``BEGIN IMMEDIATE`` for writers, so readers never wait and two
writers queue instead of failing half way. A Postgres URL takes the same statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.pool import ConnectionPoolEntry

from mlops.errors import StoreError
from mlops.store.migrations import HEAD, current_revision, upgrade

BUSY_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Store:
    """The open database; get one from `open_store`."""

    engine: sa.Engine

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing written through it is kept."""
        with _readable_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: all of it is kept when the block ends, none when it raises."""
        with (
            _readable_errors(),
            self.engine.connect().execution_options(mlops_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def open_store(url: str) -> Store:
    """Connect, create what is missing, and bring an older schema up to date.

    Raises:
        StoreError: when the database cannot be reached or was written by a newer release.
    """
    with _readable_errors():
        engine = _connectable(sa.make_url(url))
        _migrate(engine)
    return Store(engine)


def _connectable(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    if not url.database or url.database == ":memory:":
        raise StoreError(
            f"store URL {url} names no file, so other processes could not share it; "
            "write it like sqlite:////absolute/path/store.db"
        )
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(engine, "connect", _on_sqlite_connect)
    sa.event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: Any, _: ConnectionPoolEntry) -> None:
    # The driver's own transaction control would begin too late for BEGIN IMMEDIATE.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _on_sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("mlops_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        found = current_revision(connection)
    if found == HEAD:
        return
    database = engine.url.database
    sqlite = engine.dialect.name == "sqlite" and database
    # Two processes may open a fresh store at once, and switching to WAL ignores busy_timeout.
    lock = FileLock(f"{database}.lock", timeout=BUSY_TIMEOUT_S) if sqlite else nullcontext()
    with lock:
        if sqlite:
            _use_wal(engine)
        with engine.connect().execution_options(mlops_write=True) as connection, connection.begin():
            if current_revision(connection) != HEAD:
                upgrade(connection)


def _use_wal(engine: sa.Engine) -> None:
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        raw.close()


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise StoreError(
            f"the store refused a change that breaks its rules: {error.orig}"
        ) from error
    except sa.exc.OperationalError as error:
        raise StoreError(
            f"the store cannot be used now: {error.orig}; check that the database of STORE_URL "
            "(or MLOPS_BASE_PATH) is reachable, writable and not locked by another program"
        ) from error
    except sa.exc.ArgumentError as error:
        raise StoreError(
            f"STORE_URL is not a database URL ({error}); "
            "write it like sqlite:////absolute/path/store.db"
        ) from error
