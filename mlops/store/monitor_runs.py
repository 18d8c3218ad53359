"""What watching a version found, bar by bar: one row a look, with the state it left behind.

[[Versions that are watched because somebody said so, champion or not, until somebody ends it.

A row holds how often, not when next: that follows from the version's newest look, so a restart
loses nothing and a look that failed is made up for by the next run.]]
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mlops.errors import SettingsError, StoreError
from mlops.store import audit
from mlops.store.engine import Connection, Store
from mlops.store.routes import get_route
from mlops.store.schema import check, watch
from mlops.store.sql import insert_new
from mlops.store.versions import get_version


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


def last_check_time(store: Store, service: str) -> datetime | None:
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


SHORTEST_HOURS = 1.0
"""What looks runs every hour."""


@dataclass(frozen=True, slots=True)
class WatchRow:
    """A version and how often it is looked at; ``stopped_at`` is None while it is."""

    id: str
    service: str
    model_id: str
    interval_hours: float
    since: datetime
    started_by: str
    stopped_at: datetime | None = None
    stopped_by: str | None = None

    @property
    def interval(self) -> timedelta:
        return timedelta(hours=self.interval_hours)

    def due(self, newest: datetime, looked: datetime | None) -> bool:
        """Whether bars of a whole interval have come since the newest one that was looked at.

        Both are opens of bars, in market time: minutes by which a run is late do not add up,
        and a replayed market is watched by its own clock.
        """
        return looked is None or newest - looked >= self.interval


def start_watch(store: Store, model_id: str, interval_hours: float, why: audit.Why) -> WatchRow:
    """Have a version looked at; what is watched already goes on, at the interval given last.

    Raises:
        SettingsError: for an interval that nothing could keep.
        VersionNotFound: when there is no such version.
        StoreError: for a baseline.
    """
    if not (math.isfinite(interval_hours) and interval_hours >= SHORTEST_HOURS):
        raise SettingsError(
            f"interval_hours={interval_hours!r}: versions are looked at every hour (deployment "
            f"monitor/hourly); choose {SHORTEST_HOURS:g} or more"
        )
    version = get_version(store, model_id)
    route = get_route(store, version.service)
    if route is not None and route.baseline == model_id:
        raise StoreError(
            f"{model_id} is the baseline of {version.service}: it learned nothing that could "
            "drift away or be lost; watch a trained version"
        )
    row = WatchRow(
        f"watch-{uuid.uuid4().hex[:12]}",
        version.service,
        model_id,
        float(interval_hours),
        why.at,
        why.actor,
    )
    with store.write() as connection:
        known = _watched(connection, model_id)
        if known is not None and known.interval_hours == row.interval_hours:
            return known
        if known is not None:
            _stop(connection, known, why)
        values = {name: getattr(row, name) for name in WatchRow.__slots__}
        if not insert_new(connection, watch, [values]):
            raise StoreError(f"somebody else has just begun to watch {model_id}; list what is")
        audit.record(
            connection,
            why,
            action="start_monitoring",
            service=row.service,
            subject=model_id,
            before=None if known is None else {"interval_hours": known.interval_hours},
            after={"interval_hours": row.interval_hours},
        )
    return row


def stop_watch(store: Store, model_id: str, why: audit.Why) -> bool:
    """End it; False where the version was not watched.

    Raises:
        VersionNotFound: when there is no such version.
    """
    version = get_version(store, model_id)
    with store.write() as connection:
        known = _watched(connection, model_id)
        if known is None:
            return False
        _stop(connection, known, why)
        audit.record(
            connection,
            why,
            action="stop_monitoring",
            service=version.service,
            subject=model_id,
            before={"interval_hours": known.interval_hours},
        )
    return True


def list_watches(store: Store, *, stopped_too: bool = False) -> tuple[WatchRow, ...]:
    """What is watched, or ever was, oldest first."""
    query = sa.select(watch).order_by(watch.c.since, watch.c.id)
    if not stopped_too:
        query = query.where(watch.c.stopped_at.is_(None))
    with store.read() as connection:
        return tuple(_built(row) for row in connection.execute(query))


def _watched(connection: Connection, model_id: str) -> WatchRow | None:
    query = (
        sa.select(watch)
        .where(watch.c.model_id == model_id, watch.c.stopped_at.is_(None))
        .with_for_update()
    )
    row = connection.execute(query).first()
    return None if row is None else _built(row)


def _stop(connection: Connection, row: WatchRow, why: audit.Why) -> None:
    values = {"stopped_at": why.at, "stopped_by": why.actor}
    connection.execute(watch.update().where(watch.c.id == row.id).values(**values))


def _built(row: sa.Row[Any]) -> WatchRow:
    return WatchRow(**row._mapping)
