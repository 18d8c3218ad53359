"""How each of the two databases is reached, and how long it may keep a caller waiting.

SQLite: WAL, ``BEGIN IMMEDIATE`` for writers, a busy timeout. Postgres: psycopg 3, a pool, READ
COMMITTED for writers, and limits that the server itself keeps for each of our sessions.
"""

from __future__ import annotations

import math
import os
import weakref
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from mlops.errors import StoreError

POOL_SIZE, POOL_OVERFLOW = 5, 10
"""Connections kept open, and those that may be opened for a rush."""
POOL_RECYCLE_S = 1800
"""Firewalls and balancers forget connections older than this."""
CONNECT_TIMEOUT_S = 5
SILENCE_S = 10
"""A server that the network has lost is given up after this."""
STATEMENT_TIMEOUT_S = 60
IDLE_TRANSACTION_S = 60
"""A transaction whose process sleeps is ended by the server, and its locks with it."""

POSTGRES_DRIVER = "postgresql+psycopg"
EXAMPLES = "sqlite:////absolute/path/store.db or postgresql://user:password@host/database"


def connectable(url: str, patience_s: float) -> sa.Engine:
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
    # In whole milliseconds, because zero would mean for ever.
    limits = {
        "lock_timeout": patience_s,
        "statement_timeout": max(patience_s, STATEMENT_TIMEOUT_S),
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_S,
    }

    settings = {name: f"{max(1, round(1000 * limit))}" for name, limit in limits.items()}

    def limit_session(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.autocommit = True
        for name, milliseconds in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, milliseconds))
        connection.autocommit = False

    sa.event.listen(engine, "connect", limit_session)
    _pools.add(engine)
    return engine


_pools: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def _forget_the_parents_connections() -> None:
    """A forked process has copies of its parent's sockets, and must not speak on them."""
    for engine in _pools:
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_the_parents_connections)
