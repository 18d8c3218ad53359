"""Forecasts of record: one per service and bar, and beside it those of other versions.

The first forecast of record of a bar is kept; writing it again, by another replica or from a
spool, changes nothing. A forecast of record that comes second is kept beside the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from mlops.store.engine import Store
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
    beside = [row | {"role": Role.SHADOW} for row in values if row["role"] is Role.RECORD]
    with store.write() as connection:
        new = insert_new(connection, forecast, values)
        insert_new(connection, forecast, beside)
        return new


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
