"""SQL that differs between SQLite and Postgres: the server's clock, and inserts with conflicts.

Leases and time limits of all processes count by the database's clock, so that the clocks of their
hosts need not agree.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

CLOCK_TOLERANCE_S = 1.0
"""A clock that is set back by less changes nothing."""


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 (UTC) by the database server; on SQLite, by this host."""

    type = sa.Float()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _on_sqlite(element: db_now, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _on_postgres(element: db_now, compiler: Any, **_: Any) -> str:
    # now() is the start of the transaction, which may have waited for a lock since.
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


def is_held(
    until: sa.ColumnElement[float], seconds: sa.ColumnElement[float] | float
) -> sa.ColumnElement[bool]:
    """SQL condition: what was taken for ``seconds`` until ``until`` has not run out.

    An end that is further away than ``seconds`` was written by a clock that was ahead, or before
    this clock was set back. It does not count, so a jump of the clock holds nothing up.

    Args:
        until: The end, in seconds of the database's clock.
        seconds: How long it was taken for, or the longest that it may have been taken for.
    """
    return sa.and_(until > db_now(), until <= db_now() + seconds + CLOCK_TOLERANCE_S)


def is_recent(at: sa.ColumnElement[float], seconds: float) -> sa.ColumnElement[bool]:
    """SQL condition: ``at`` lies within the last ``seconds`` of the database's clock.

    A time in the future was written by a clock that was ahead, and is not recent.
    """
    return sa.and_(at > db_now() - seconds, at <= db_now() + CLOCK_TOLERANCE_S)


def read_clock(connection: sa.Connection) -> float:
    """The database's time in seconds since 1970 (UTC)."""
    return float(connection.execute(sa.select(db_now())).scalar_one())


def store_time(connection: sa.Connection) -> datetime:
    """The database's time, aware UTC."""
    return datetime.fromtimestamp(read_clock(connection), UTC)


def dialect_insert(connection: sa.Connection, table: sa.Table) -> Any:
    """The dialect's insert, with ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def upsert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, or overwrite those with the same primary key."""
    if not rows:
        return
    insert = dialect_insert(connection, table)
    keys = [column.name for column in table.primary_key]
    others = {name: insert.excluded[name] for name in rows[0] if name not in keys}
    statement = insert.on_conflict_do_update(index_elements=keys, set_=others)
    connection.execute(statement, rows)


def insert_new(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert the rows that violate no unique constraint; returns how many were new."""
    insert = dialect_insert(connection, table).on_conflict_do_nothing()
    # Without this option the row count of an insert is always -1 on psycopg.
    insert = insert.execution_options(preserve_rowcount=True)
    return sum(connection.execute(insert.values(**row)).rowcount for row in rows)
