"""One door to the database: migrated when opened, each change one transaction.

On SQLite writers queue for the whole database; on Postgres they run side by side, so a writer
that decides by what it has read takes the row ``FOR UPDATE`` (SQLite ignores the words). Readers
see one moment for as long as their block lasts, and never wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa
from filelock import FileLock, Timeout

from mlops.errors import StoreError
from mlops.store.connect import EXAMPLES, lift_answer_limit, make_engine
from mlops.store.migrations import HEAD, current_revision, upgrade

PATIENCE_S = 30.0
MIGRATION_S = 60
"""How long to wait for another process that is bringing the schema up to date."""
_MIGRATION_KEY = int.from_bytes(b"mlops")
_ONE_MOMENT: dict[str, dict[str, Any]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    "sqlite": {},
}


Connection: TypeAlias = sa.Connection
"""One transaction, as the functions of this room take it; callers pass it on."""


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """The file of an open SQLite database, by name and by what the name stood for."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, engine: sa.Engine) -> DatabaseFile | None:
        """None where the database is a server's."""
        if engine.dialect.name != "sqlite":
            return None
        path = str(engine.url.database)
        found = os.stat(path)
        return cls(path, found.st_dev, found.st_ino)

    def check(self) -> None:
        """Raises: StoreError: where the name stands for nothing, or for another file by now."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise StoreError(
                f"the store's file {self.path} is not there ({error.strerror}); put it back"
            ) from error
        if (found.st_dev, found.st_ino) != (self.device, self.inode):
            raise StoreError(
                f"the store's file {self.path} was replaced by another while this process had it "
                "open; restart the process"
            )


@dataclass(frozen=True, slots=True)
class Store:
    """The open database; get one from `open_store`.

    ``file`` is looked at before each use, because an open connection does not notice when its
    file is moved away or replaced: it would go on reading and writing what nobody else sees.
    """

    engine: sa.Engine
    file: DatabaseFile | None = None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing written through it is kept, and Postgres refuses it."""
        options = _ONE_MOMENT[self.engine.dialect.name]
        self._look_for_file()
        with (
            _readable_errors(),
            self.engine.connect().execution_options(**options) as connection,
        ):
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: all of it is kept when the block ends, none when it raises."""
        self._look_for_file()
        with (
            _readable_errors(),
            self.engine.connect().execution_options(mlops_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        self.engine.dispose()

    def _look_for_file(self) -> None:
        if self.file is not None:
            self.file.check()


def open_store(url: str, *, patience_s: float = PATIENCE_S) -> Store:
    """Connect, create what is missing, and bring an older schema up to date.

    ``patience_s`` is how long a call may wait for a lock that another process holds, or for a
    connection, before it raises `StoreError`. Postgres takes at least 2 seconds to give up on a
    server that does not answer, and at most 5 for each of its addresses.

    Raises:
        StoreError: when the database cannot be reached or was written by a newer release.
    """
    with _readable_errors():
        engine = make_engine(url, patience_s)
        try:
            _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    return Store(engine, DatabaseFile.of(engine))


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        found = current_revision(connection)
    if found == HEAD:
        return
    with (
        _alone_on_sqlite(engine),
        engine.connect().execution_options(mlops_write=True) as connection,
        connection.begin(),
    ):
        _alone_on_postgres(connection)
        if current_revision(connection) != HEAD:
            upgrade(connection)


@contextmanager
def _alone_on_sqlite(engine: sa.Engine) -> Iterator[None]:
    """Two processes may open a fresh store at once, and switching to WAL ignores busy_timeout."""
    lock: AbstractContextManager[Any] = nullcontext()
    if engine.dialect.name == "sqlite":
        lock = FileLock(f"{engine.url.database}.lock", timeout=MIGRATION_S)
    with lock:
        if engine.dialect.name == "sqlite":
            _use_wal(engine)
        yield


def _alone_on_postgres(connection: sa.Connection) -> None:
    """Wait for whoever is migrating; what is done in this transaction may take its time."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{MIGRATION_S}s'"))
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        lift_answer_limit(connection)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_KEY)))


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
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        raise StoreError(
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
        # A value that a column of ours refused, in words of its own.
        if isinstance(error.orig, StoreError):
            raise error.orig from error
        raise
    except sa.exc.ArgumentError as error:
        raise StoreError(
            f"STORE_URL is not a database URL ({error}); write it like {EXAMPLES}"
        ) from error


def _in_one_line(cause: object) -> str:
    return " ".join(str(cause).split())
