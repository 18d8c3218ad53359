"""How each of the two databases is reached, and how long it may keep a caller waiting.

SQLite: WAL, ``BEGIN IMMEDIATE`` for writers, a busy timeout. Postgres: psycopg 3, a pool, READ
COMMITTED for writers, and limits that the server itself keeps for each of our sessions; a server
that takes a statement and never answers is given up by the client.
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

if TYPE_CHECKING:
    import psycopg

POOL_SIZE, POOL_OVERFLOW = 5, 10
"""Connections kept open, and those that may be opened for a rush."""
POOL_RECYCLE_S = 1800
"""Firewalls and balancers forget connections older than this."""
CONNECT_TIMEOUT_S = 5
SILENCE_S = 10
"""A server that the network has lost is given up after this."""
STATEMENT_TIMEOUT_S = 60
STATEMENT_PATIENCE = 5
"""A caller that waits so long for a lock may have a statement run so many times as long."""
ANSWER_MARGIN_S = 2.0
"""So much later than the server should have done it, the client ends a statement itself."""
IDLE_TRANSACTION_S = 60
"""A transaction whose process sleeps is ended by the server, and its locks with it."""

POSTGRES_DRIVER = "postgresql+psycopg"
EXAMPLES = "sqlite:////absolute/path/store.db or postgresql://user:password@host/database"


def make_engine(url: str, patience_s: float) -> sa.Engine:
    """An engine for the URL; nothing is connected yet.

    Raises:
        StoreError: when the URL names no database that processes could share.
    """
    parsed = sa.make_url(url)
    name = parsed.get_backend_name()
    if name == "sqlite":
        return _sqlite(parsed, patience_s)
    if name in ("postgresql", "postgres"):
        return _postgres(parsed.set(drivername=POSTGRES_DRIVER), patience_s)
    raise StoreError(f"the store does not know {name!r} databases; write its URL like {EXAMPLES}")


def _sqlite(url: sa.URL, patience_s: float) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise StoreError(
            f"store URL {url} names no file, so other processes could not share it; "
            f"write it like {EXAMPLES}"
        )
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        connect_args={"timeout": patience_s},
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=patience_s,
    )
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


def _postgres(url: sa.URL, patience_s: float) -> sa.Engine:
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
    # In whole milliseconds, because zero would mean for ever.
    limits = {
        "lock_timeout": patience_s,
        "statement_timeout": statement_s,
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_S,
    }

    settings = {name: f"{max(1, round(1000 * limit))}" for name, limit in limits.items()}

    def limit_session(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.autocommit = True
        for name, milliseconds in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, milliseconds))
        connection.autocommit = False
        connection.answer_s = statement_s + ANSWER_MARGIN_S

    sa.event.listen(engine, "do_connect", _connect_postgres)
    sa.event.listen(engine, "connect", limit_session)
    _pools.add(engine)
    return engine


def lift_answer_limit(connection: sa.Connection) -> None:
    """For a statement of this connection that has no limit, such as a migration's."""
    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.answer_s = math.inf


def _connect_postgres(_dialect: Any, _entry: Any, args: Any, options: dict[str, Any]) -> Any:
    return _postgres_connection().connect(*args, **options)


@lru_cache(maxsize=1)
def _postgres_connection() -> type[psycopg.Connection[Any]]:
    """A connection that waits for an answer no longer than ``answer_s``."""
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        answer_s = math.inf

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(self._limited(gen), *args, **options)

        def _limited(self, gen: Any) -> Generator[Any, Any, Any]:
            """The same conversation, asked after by psycopg ten times a second."""
            end = monotonic() + self.answer_s
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and monotonic() > end:
                        # Nobody knows what the server makes of it; the connection is no more.
                        self.pgconn.finish()
                        raise psycopg.OperationalError(
                            f"the server has not answered for {self.answer_s:g} s"
                        )
                    wanted = gen.send(ready)
            except StopIteration as end_of_it:
                return end_of_it.value

    return Impatient


_pools: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def _forget_the_parents_connections() -> None:
    """A forked process has copies of its parent's sockets, and must not speak on them."""
    for engine in _pools:
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_the_parents_connections)
