"""Forecasts of record: one per service and bar, and beside it those of other versions.

The first forecast of record of a bar is kept; writing it again, by another replica or from a
spool, changes nothing. A forecast of record that comes second is kept beside the first one. A
version that forecast a bar as a challenger, and is the champion when the bar goes on record, has
one row: that of the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.store.engine import Connection, Store
from mlops.store.schema import forecast
from mlops.store.sql import insert_new


class Role(StrEnum):
    """Whether a forecast is the service's forecast of record, or another version's beside it."""

    RECORD = "record"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class ForecastRow:
    """A forecast made at the close of ``bar`` (its open time, UTC), in the target's unit.

    ``low`` and ``high`` bound 90 % of the version's errors on its reference bars;
    ``bars_digest`` is the content hash of the bars it was made from.
    """

    service: str
    bar: datetime
    model_id: str
    role: Role
    value: float
    low: float | None
    high: float | None
    made_at: datetime
    generation: int
    replica_id: str
    bars_digest: str


def record_forecasts(store: Store, rows: Sequence[ForecastRow]) -> int:
    """Insert the forecasts that have no row yet; returns how many kept their role.

    A forecast of record that comes second is stored as one beside the record.
    """
    if not rows:
        return 0
    values = [{name: getattr(row, name) for name in ForecastRow.__slots__} for row in rows]
    with store.write() as connection:
        return sum(_record_one(connection, row) for row in values)


def _record_one(connection: Connection, row: dict[str, Any]) -> int:
    """Insert one forecast; 1 if it is stored as what it is, 0 if it came second."""
    if insert_new(connection, forecast, [row]):
        return 1
    if row["role"] is not Role.RECORD:
        return 0
    if _put_on_record(connection, row):
        return 1
    insert_new(connection, forecast, [row | {"role": Role.SHADOW}])
    return 0


def _put_on_record(connection: Connection, row: dict[str, Any]) -> bool:
    """Let a version's row beside the record become the record, where its bar has none."""
    own, other = forecast.c, forecast.alias().c
    same_bar = (other.service == row["service"], other.bar == row["bar"])
    on_record = sa.exists().where(*same_bar, other.role == Role.RECORD)
    change = (
        forecast.update()
        .where(own.service == row["service"], own.bar == row["bar"])
        .where(own.model_id == row["model_id"], own.role == Role.SHADOW, ~on_record)
        .values(**row)
    )
    try:
        with connection.begin_nested():
            return connection.execute(change).rowcount == 1
    except sa.exc.IntegrityError:
        # Another process has just put its own forecast on record.
        return False


def list_forecasts(
    store: Store,
    service: str,
    *,
    role: Role | None = Role.RECORD,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[ForecastRow, ...]:
    """Forecasts of bars opened in ``[since, until)``, oldest first; a role of None means both."""
    query = sa.select(forecast).where(forecast.c.service == service)
    if role is not None:
        query = query.where(forecast.c.role == role)
    if since is not None:
        query = query.where(forecast.c.bar >= since)
    if until is not None:
        query = query.where(forecast.c.bar < until)
    with store.read() as connection:
        rows = connection.execute(query.order_by(forecast.c.bar, forecast.c.model_id)).all()
    return tuple(ForecastRow(**dict(row._mapping) | {"role": Role(row.role)}) for row in rows)
