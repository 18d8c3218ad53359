"""Engines for both databases, with a time limit for every wait.

SQLite: WAL, ``BEGIN IMMEDIATE`` for writers, a busy timeout. Postgres: psycopg 3, a pool, READ
COMMITTED for writers, and time limits that the server enforces for each session; the client
breaks the connection to a server that accepts a statement and never answers.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from mlops.errors import StoreError
from mlops.paths import sqlite_path

if TYPE_CHECKING:
    import psycopg

POOL_SIZE, POOL_OVERFLOW = 5, 10
"""Connections kept open, and how many more may be opened at a peak."""

POOL_RECYCLE_S = 1800
"""Older connections are replaced: firewalls and balancers drop them silently."""

CONNECT_TIMEOUT_S = 5
SILENCE_S = 10
"""A server that the network has lost is given up after so many seconds."""

STATEMENT_TIMEOUT_S = 60
STATEMENT_PATIENCE = 5
"""Limit of a statement, as a multiple of the caller's patience for a lock."""

ANSWER_MARGIN_S = 2.0
"""The client breaks off a statement so long after the server should have."""

IDLE_TRANSACTION_S = 60
"""The server ends a transaction that is idle for so long, and frees its locks."""

POSTGRES_DRIVER = "postgresql+psycopg"
EXAMPLES = "sqlite:////absolute/path/store.db or postgresql://<user>:<password>@<host>/<database>"


def make_engine(url: str, patience_s: float) -> sa.Engine:
    """Make an engine for the URL; it connects when it is first used.

    Args:
        url: An SQLAlchemy URL of a SQLite file or a Postgres database.
        patience_s: How long a call may wait for a lock or a connection.

    Raises:
        StoreError: when the URL names no database that processes could share.
    """
    parsed = _parse_url(url)
    name = parsed.get_backend_name()
    if name == "sqlite":
        return _make_sqlite_engine(parsed, patience_s)
    if name in ("postgresql", "postgres"):
        return _make_postgres_engine(parsed.set(drivername=POSTGRES_DRIVER), patience_s)
    raise StoreError(f"the store does not know {name!r} databases; write its URL like {EXAMPLES}")


def find_database_file(url: str) -> Path | None:
    """The file of an SQLite database; None where the URL names a server, or no file.

    Raises:
        StoreError: when it is no database URL.
    """
    try:
        parsed = _parse_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreError(f"no database URL ({error}); write it like {EXAMPLES}") from error
    return database_file(parsed)


def database_file(url: sa.URL) -> Path | None:
    """As `find_database_file`, of a URL that is parsed already."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return sqlite_path(url.database, url.query)


def _parse_url(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except ValueError as error:
        # SQLAlchemy converts the port without a message of its own.
        raise StoreError(
            f"STORE_URL has a port that is not a number; write it like {EXAMPLES}"
        ) from error


def _make_sqlite_engine(url: sa.URL, patience_s: float) -> sa.Engine:
    file = database_file(url)
    if file is None:
        raise StoreError(
            f"store URL {url} names no file, so other processes could not share it; "
            f"write it like {EXAMPLES}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        connect_args={"timeout": patience_s},
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=patience_s,
    )

    def set_up(connection: Any, _: ConnectionPoolEntry) -> None:
        # The driver's own transaction control would begin too late for BEGIN IMMEDIATE.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    def begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("mlops_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    sa.event.listen(engine, "connect", set_up)
    sa.event.listen(engine, "begin", begin)
    _engines.add(engine)
    return engine


def _make_postgres_engine(url: sa.URL, patience_s: float) -> sa.Engine:
    wanted = {
        "connect_timeout": math.ceil(min(patience_s, CONNECT_TIMEOUT_S)),
        "fallback_application_name": "mlops",
        "keepalives_idle": SILENCE_S // 2,
        "keepalives_interval": 1,
        "keepalives_count": SILENCE_S // 2,
        "tcp_user_timeout": SILENCE_S * 1000,
    }
    engine = sa.create_engine(
        url,
        connect_args={name: value for name, value in wanted.items() if name not in url.query},
        isolation_level="READ COMMITTED",
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=patience_s,
        pool_recycle=POOL_RECYCLE_S,
        pool_pre_ping=True,
    )
    statement_s = max(patience_s, min(STATEMENT_PATIENCE * patience_s, STATEMENT_TIMEOUT_S))
    settings = {
        "lock_timeout": _milliseconds(patience_s),
        "statement_timeout": _milliseconds(statement_s),
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_TRANSACTION_S),
    }

    def connect(_dialect: Any, _entry: Any, args: Any, options: dict[str, Any]) -> Any:
        return _connection_class().connect(*args, **options)

    def limit_session(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.autocommit = True
        for name, milliseconds in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, milliseconds))
        connection.autocommit = False
        connection.answer_s = statement_s + ANSWER_MARGIN_S

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "connect", limit_session)
    _engines.add(engine)
    return engine


def _milliseconds(seconds: float) -> str:
    """Whole milliseconds, at least one, because zero would mean no limit."""
    return f"{max(1, round(1000 * seconds))}"


def lift_answer_limit(connection: sa.Connection) -> None:
    """Let the statements of this connection run without a time limit, as a migration needs."""
    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.answer_s = math.inf


@lru_cache(maxsize=1)
def _connection_class() -> type[psycopg.Connection[Any]]:
    """A psycopg connection that waits for an answer at most ``answer_s`` seconds."""
    import psycopg

    class LimitedConnection(psycopg.Connection[Any]):
        answer_s = math.inf

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(self._limited(gen), *args, **options)

        def _limited(self, gen: Any) -> Generator[Any, Any, Any]:
            """Pass ``gen`` through; psycopg resumes it ten times a second while it waits."""
            end = monotonic() + self.answer_s
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and monotonic() > end:
                        # The server may still run the statement; do not use the connection again.
                        self.pgconn.finish()
                        raise psycopg.OperationalError(
                            f"the server has not answered for {self.answer_s:g} s"
                        )
                    wanted = gen.send(ready)
            except StopIteration as finished:
                return finished.value

    return LimitedConnection


_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
_inherited_pools: list[sa.Pool] = []


def _drop_inherited_pools() -> None:
    """Give every engine of a forked process an empty pool.

    The child has copies of its parent's sockets and must not use them. A SQLite connection must
    not even be closed in the child (sqlite.org/howtocorrupt.html, section 2.6), so the old pools
    are kept, where the garbage collector does not find them.
    """
    for engine in list(_engines):
        _inherited_pools.append(engine.pool)
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_drop_inherited_pools)
