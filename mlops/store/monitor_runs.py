"""Monitor runs: the checks of versions (`CheckRow`) and which versions to check (`WatchRow`).

A check judges a version at one bar: its result, and the state with which the next check begins. A
watch is a person's order to check a version, champion or not, until a person ends it. A watch
holds the interval, not the next time: the newest check gives that. So a restart loses nothing, and
the run after a failed one makes up for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mlops.errors import SettingsError, StoreError, WatchRefused
from mlops.store import audit
from mlops.store.engine import Connection, Store
from mlops.store.routes import get_route
from mlops.store.schema import check, watch
from mlops.store.sql import insert_new
from mlops.store.versions import get_version


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One check of a version.

    ``bar`` is the newest bar it used, ``official`` says that its window decides. ``report`` is the
    drift report, ``performance`` the live figures if they were judged, ``state`` what the next
    check begins with, and ``bars`` the completeness of the window's bars (None in old rows).
    """

    id: str = field(default_factory=lambda: f"check-{uuid.uuid4().hex[:12]}")
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
    """Insert a check inside the caller's transaction; False if the bar has a check already."""
    values = {name: getattr(row, name) for name in CheckRow.__slots__}
    return bool(insert_new(connection, check, [values]))


def last_check(store: Store, service: str, model_id: str) -> CheckRow | None:
    """The newest check of a version; None before the first."""
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
    """The check with this id; None if there is no such row."""
    with store.read() as connection:
        row = connection.execute(sa.select(check).where(check.c.id == check_id)).first()
    return None if row is None else CheckRow(**row._mapping)


def last_check_time(store: Store, service: str) -> datetime | None:
    """The market time of the newest check of any version of a service."""
    query = sa.select(sa.func.max(check.c.at)).where(check.c.service == service)
    with store.read() as connection:
        newest: datetime | None = connection.execute(query).scalar()
    return newest


def list_checks(store: Store, service: str, *, official_only: bool = False) -> tuple[CheckRow, ...]:
    """The checks of a service's versions, oldest first."""
    query = sa.select(check).where(check.c.service == service).order_by(check.c.bar)
    if official_only:
        query = query.where(check.c.official)
    with store.read() as connection:
        return tuple(CheckRow(**row._mapping) for row in connection.execute(query))


SHORTEST_HOURS, LONGEST_HOURS = 1.0, 8760.0
"""Monitor runs start every hour; beyond a year nobody means to watch."""


@dataclass(frozen=True, slots=True)
class WatchRow:
    """A version that is checked at an interval; ``stopped_at`` is None until that ends."""

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
        """Whether a whole interval of bars has come since the last check.

        Open times of bars are compared, in market time: delays of the runs do not add up, and a
        replayed market is checked by its own clock.

        Args:
            newest: Open time of the newest bar (UTC).
            looked: Open time of the newest bar at the last check; None before the first.
        """
        return looked is None or newest - looked >= self.interval


def start_watch(store: Store, model_id: str, interval_hours: float, why: audit.Why) -> WatchRow:
    """Begin to check a version, or change the interval of its watch.

    Raises:
        SettingsError: for an interval shorter than that of the monitor runs, or longer than a year.
        VersionNotFound: when there is no such version.
        WatchRefused: for a baseline.
    """
    # Not a number is in no range.
    if not SHORTEST_HOURS <= interval_hours <= LONGEST_HOURS:
        raise SettingsError(
            f"interval_hours={interval_hours!r}: versions are looked at every hour (deployment "
            f"monitor/hourly); choose {SHORTEST_HOURS:g} or more, at most {LONGEST_HOURS:g}"
        )
    version = get_version(store, model_id)
    route = get_route(store, version.service)
    if route is not None and route.baseline == model_id:
        raise WatchRefused(
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
        known = _read_watch(connection, model_id)
        if known is not None and known.interval_hours == row.interval_hours:
            return known
        if known is not None:
            _end_watch(connection, known, why)
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
    """End the watch of a version; False if the version was not watched.

    Raises:
        VersionNotFound: when there is no such version.
    """
    version = get_version(store, model_id)
    with store.write() as connection:
        known = _read_watch(connection, model_id)
        if known is None:
            return False
        _end_watch(connection, known, why)
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
    """The watches that go on, or all there ever were, oldest first."""
    query = sa.select(watch).order_by(watch.c.since, watch.c.id)
    if not stopped_too:
        query = query.where(watch.c.stopped_at.is_(None))
    with store.read() as connection:
        return tuple(_build_watch(row) for row in connection.execute(query))


def _read_watch(connection: Connection, model_id: str) -> WatchRow | None:
    query = (
        sa.select(watch)
        .where(watch.c.model_id == model_id, watch.c.stopped_at.is_(None))
        .with_for_update()
    )
    row = connection.execute(query).first()
    return None if row is None else _build_watch(row)


def _end_watch(connection: Connection, row: WatchRow, why: audit.Why) -> None:
    values = {"stopped_at": why.at, "stopped_by": why.actor}
    connection.execute(watch.update().where(watch.c.id == row.id).values(**values))


def _build_watch(row: sa.Row[Any]) -> WatchRow:
    return WatchRow(**row._mapping)
