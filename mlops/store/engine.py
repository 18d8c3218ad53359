"""The store: the only access to the database, migrated when opened.

Each change is one transaction. On SQLite writers queue for the whole database; on Postgres they
run side by side, so a writer that decides by a row it has read takes that row ``FOR UPDATE``
(SQLite ignores this clause). Readers see one snapshot for as long as their block lasts, and never
wait for writers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa
from filelock import FileLock, Timeout

from mlops.errors import RowRefused, StoreError
from mlops.store.connect import EXAMPLES, database_file, lift_answer_limit, make_engine
from mlops.store.migrations import current_revision, is_readable, upgrade
from mlops.store.sqlite_files import keep_copy_before_migration

PATIENCE_S = 30.0
MIGRATION_S = 60
"""How long to wait for another process that migrates the schema."""

_MIGRATION_KEY = int.from_bytes(b"mlops")
_SNAPSHOT_OPTIONS: dict[str, dict[str, Any]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    "sqlite": {},
}


Connection: TypeAlias = sa.Connection
"""One transaction; the functions of `mlops.store` that write take the caller's."""


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """The file of an open SQLite database: its path, and the inode when it was opened."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, engine: sa.Engine) -> DatabaseFile | None:
        """The engine's file; None for a server's database."""
        path = database_file(engine.url)
        if path is None:
            return None
        status = os.stat(path)
        return cls(str(path), status.st_dev, status.st_ino)

    def check(self) -> None:
        """Check that the path still leads to the file that was opened.

        Raises:
            StoreError: when the file is gone, or another file has replaced it.
        """
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise StoreError(
                f"the store's file {self.path} is not there ({error.strerror}); put it back"
            ) from error
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            raise StoreError(
                f"the store's file {self.path} was replaced by another while this process had it "
                "open; restart the process"
            )


@dataclass(frozen=True, slots=True)
class Store:
    """The open database; get one from `open_store`.

    ``file`` is checked before each use: an open connection does not notice that its file was moved
    or replaced, and would go on with a file that no other process sees.
    """

    engine: sa.Engine
    file: DatabaseFile | None = None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A block that reads one snapshot; writes in it are rolled back, or refused by Postgres."""
        options = _SNAPSHOT_OPTIONS[self.engine.dialect.name]
        self._check_file()
        with (
            _as_store_errors(),
            self.engine.connect().execution_options(**options) as connection,
        ):
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A block that is one transaction: committed at its end, rolled back when it raises."""
        self._check_file()
        with (
            _as_store_errors(),
            self.engine.connect().execution_options(mlops_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()

    def _check_file(self) -> None:
        if self.file is not None:
            self.file.check()


def open_store(url: str, *, patience_s: float = PATIENCE_S) -> Store:
    """Connect to the database, and create or migrate its schema.

    Args:
        url: An SQLAlchemy URL of a SQLite file or a Postgres database.
        patience_s: How long a call may wait for a lock that another process holds, or for a
            connection, before it raises `StoreError`. Postgres takes at least 2 seconds to give up
            on a server that does not answer, and at most 5 for each of its addresses.

    Raises:
        StoreError: when the database cannot be reached or was written by a newer release.
    """
    with _as_store_errors():
        engine = make_engine(url, patience_s)
        try:
            _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    return Store(engine, DatabaseFile.of(engine))


def needs_migration(url: str) -> bool:
    """Whether `open_store` would create or migrate the schema; a missing file is created empty.

    Raises:
        StoreError: as `open_store`.
    """
    with _as_store_errors():
        engine = make_engine(url, PATIENCE_S)
        try:
            return not _is_readable(engine)
        finally:
            engine.dispose()


def _is_readable(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return is_readable(connection, current_revision(connection))


def _migrate(engine: sa.Engine) -> None:
    if _is_readable(engine):
        return
    with (
        _sqlite_migration_lock(engine),
        engine.connect().execution_options(mlops_write=True) as connection,
        _unchecked_sqlite_references(connection),
        connection.begin(),
    ):
        _lock_postgres_for_migration(connection)
        if not is_readable(connection, current_revision(connection)):
            upgrade(connection)


@contextmanager
def _unchecked_sqlite_references(connection: sa.Connection) -> Iterator[None]:
    """Let a migration rebuild a table that others refer to (sqlite.org/lang_altertable.html).

    SQLite ignores this setting inside a transaction.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.cursor().execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        raw.cursor().execute("PRAGMA foreign_keys = ON")


@contextmanager
def _sqlite_migration_lock(engine: sa.Engine) -> Iterator[None]:
    """Hold a lock file while switching to WAL, which ignores busy_timeout, and migrating.

    A store that has rows is copied first.
    """
    path = database_file(engine.url)
    if path is None:
        yield
        return
    with FileLock(f"{path}.lock", timeout=MIGRATION_S):
        # A restore may have put another file in the place of the one that was connected to.
        engine.dispose()
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            raw.close()
        _keep_copy_before_migration(engine, path)
        yield


def _keep_copy_before_migration(engine: sa.Engine, path: Path) -> None:
    with engine.connect() as connection:
        revision = current_revision(connection)
        if revision is None or is_readable(connection, revision):
            return
    keep_copy_before_migration(path, revision)


def _lock_postgres_for_migration(connection: sa.Connection) -> None:
    """Wait for another migration to end, and lift this transaction's statement limits."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{MIGRATION_S}s'"))
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        lift_answer_limit(connection)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_KEY)))


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        raise RowRefused(
            f"the store refused a change that breaks its rules: {_in_one_line(error.orig)}"
        ) from error
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, Timeout) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise StoreError(
            f"the store cannot be used now: {_in_one_line(cause)}; check that the database of "
            "STORE_URL (or MLOPS_BASE_PATH) is reachable, writable and not locked by another "
            "program"
        ) from error
    except sa.exc.StatementError as error:
        # One of our column types refused a value, with a message of its own.
        if isinstance(error.orig, StoreError):
            raise error.orig from error
        raise
    except sa.exc.ArgumentError as error:
        raise StoreError(
            f"STORE_URL is not a database URL ({error}); write it like {EXAMPLES}"
        ) from error


def _in_one_line(cause: object) -> str:
    return " ".join(str(cause).split())
