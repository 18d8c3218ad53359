"""The database's own clock: leases and time limits of all processes are read off one dial."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 (UTC) by the database server; on SQLite, by this host."""

    type = sa.Float()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _on_sqlite(element: db_now, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _on_postgres(element: db_now, compiler: Any, **_: Any) -> str:
    # now() stands still within a transaction, which may have waited for a lock.
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


def read_clock(connection: sa.Connection) -> float:
    """The database's time in seconds since 1970 (UTC)."""
    return float(connection.execute(sa.select(db_now())).scalar_one())


def store_time(connection: sa.Connection) -> datetime:
    """The database's time, aware UTC."""
    return datetime.fromtimestamp(read_clock(connection), UTC)
