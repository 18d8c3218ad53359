"""Pages of what monitoring wrote: alerts, checks and triggers, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.store.alerts import AlertRow, build_alert
from mlops.store.engine import Connection, Store
from mlops.store.pages import Page, Position, read_page
from mlops.store.schema import alert, check, trigger
from mlops.store.triggers import TriggerRow, TriggerState, build_trigger


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What a list shows of a check; the fields are those of `CheckRow`."""

    id: str
    service: str
    model_id: str
    bar: datetime
    at: datetime
    recommendation: str
    official: bool
    bars: Mapping[str, Any] | None


def list_alert_page(
    store: Store,
    *,
    service: str | None = None,
    lasting_only: bool = False,
    after: Position | None = None,
    limit: int,
) -> Page[AlertRow]:
    """A page of alerts; ``lasting_only`` leaves out those that have ended."""
    query = sa.select(alert)
    if service is not None:
        query = query.where(alert.c.service == service)
    if lasting_only:
        query = query.where(alert.c.recovered_at.is_(None))
    columns = {"time": alert.c.raised_at, "id_": alert.c.id}
    with store.read() as connection:
        return read_page(connection, query, build_alert, **columns, after=after, limit=limit)


def read_lasting_first(connection: Connection, *, limit: int) -> tuple[tuple[AlertRow, ...], int]:
    """The newest alerts, before all others those that have not ended, and how many of these."""
    lasting = alert.c.recovered_at.is_(None)
    ended = sa.case((lasting, 0), else_=1)
    query = sa.select(alert).order_by(ended, alert.c.raised_at.desc(), alert.c.id).limit(limit)
    count = sa.select(sa.func.count()).select_from(alert).where(lasting)
    rows = tuple(build_alert(row) for row in connection.execute(query))
    return rows, int(connection.execute(count).scalar_one())


def list_check_page(
    store: Store,
    *,
    service: str | None = None,
    model_id: str | None = None,
    official_only: bool = False,
    after: Position | None = None,
    limit: int,
) -> Page[CheckSummary]:
    """A page of checks; ``official_only`` leaves out those between decision windows."""
    query = sa.select(*(check.c[name] for name in CheckSummary.__slots__))
    for name, value in {"service": service, "model_id": model_id}.items():
        if value is not None:
            query = query.where(check.c[name] == value)
    if official_only:
        query = query.where(check.c.official)
    columns = {"time": check.c.at, "id_": check.c.id}
    with store.read() as connection:
        return read_page(
            connection,
            query,
            lambda row: CheckSummary(**row._mapping),
            **columns,
            after=after,
            limit=limit,
        )


def list_trigger_page(
    store: Store,
    *,
    service: str | None = None,
    state: TriggerState | None = None,
    after: Position | None = None,
    limit: int,
) -> Page[TriggerRow]:
    """A page of the queue of triggers."""
    query = sa.select(trigger)
    for name, value in {"service": service, "state": state}.items():
        if value is not None:
            query = query.where(trigger.c[name] == value)
    columns = {"time": trigger.c.raised_at, "id_": trigger.c.id}
    with store.read() as connection:
        return read_page(connection, query, build_trigger, **columns, after=after, limit=limit)
