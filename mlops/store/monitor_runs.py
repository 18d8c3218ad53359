"""What watching a version found, bar by bar: one row a look, with the state it left behind."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.store.dialects import insert_new
from mlops.store.engine import Connection, Store
from mlops.store.schema import check


def _new_id() -> str:
    return f"check-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One look at a version: ``bar`` is the newest bar it saw, ``official`` a window that decides.

    ``report`` is the drift report, ``performance`` the live figures where they were judged,
    ``state`` what the next look begins with, and ``bars`` how complete the bars of the window
    were (None in rows of before that was kept).
    """

    id: str = field(default_factory=_new_id)
    service: str
    model_id: str
    bar: datetime
    at: datetime
    recommendation: str
    official: bool
    report: Mapping[str, Any]
    performance: Mapping[str, Any] | None
    state: Mapping[str, Any]
    bars: Mapping[str, Any] | None = None


def write_check(connection: Connection, row: CheckRow) -> bool:
    """Keep a look, inside the caller's transaction; False where this bar was looked at already."""
    values = {name: getattr(row, name) for name in CheckRow.__slots__}
    return bool(insert_new(connection, check, [values]))


def last_check(store: Store, service: str, model_id: str) -> CheckRow | None:
    """The newest look at a version."""
    query = (
        sa.select(check)
        .where(check.c.service == service, check.c.model_id == model_id)
        .order_by(check.c.bar.desc())
        .limit(1)
    )
    with store.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else CheckRow(**row._mapping)


def get_check(store: Store, check_id: str) -> CheckRow | None:
    """One look, None where there is no such row."""
    with store.read() as connection:
        row = connection.execute(sa.select(check).where(check.c.id == check_id)).first()
    return None if row is None else CheckRow(**row._mapping)


def last_looked(store: Store, service: str) -> datetime | None:
    """The market time of the newest look at any version of a service."""
    query = sa.select(sa.func.max(check.c.at)).where(check.c.service == service)
    with store.read() as connection:
        found: datetime | None = connection.execute(query).scalar()
    return found


def list_checks(store: Store, service: str, *, official_only: bool = False) -> tuple[CheckRow, ...]:
    """The looks at a service's versions, oldest first."""
    query = sa.select(check).where(check.c.service == service).order_by(check.c.bar)
    if official_only:
        query = query.where(check.c.official)
    with store.read() as connection:
        return tuple(CheckRow(**row._mapping) for row in connection.execute(query))
