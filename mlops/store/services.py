"""What a list of services and a page about one of them read, in few statements for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.errors import ServiceNotFound
from mlops.store.engine import Connection, Store
from mlops.store.forecasts import Role
from mlops.store.routes import Route, build_route, get_route
from mlops.store.schema import check, forecast, outcome, route, route_history


@dataclass(frozen=True, slots=True)
class ForecastWithOutcome:
    """A forecast made at the close of ``bar`` (its open time, UTC), and what came.

    ``outcome``, ``known_at`` and ``baseline``, the declared baseline's forecast, are None before
    the outcome is known.
    """

    bar: datetime
    model_id: str
    role: Role
    forecast: float
    low: float | None
    high: float | None
    made_at: datetime
    outcome: float | None
    known_at: datetime | None
    baseline: float | None


@dataclass(frozen=True, slots=True)
class NewestForecast:
    """The newest forecast of record of a service."""

    service: str
    bar: datetime
    model_id: str
    value: float
    low: float | None
    high: float | None
    made_at: datetime


@dataclass(frozen=True, slots=True)
class NewestCheck:
    """The newest look at a service's champion; ``bar`` is the newest bar that it used."""

    service: str
    model_id: str
    bar: datetime
    recommendation: str
    official: bool


def require_route(store: Store, service: str) -> Route:
    """The route of a service, also where it was retired.

    Raises:
        ServiceNotFound: before the service has begun.
    """
    row = get_route(store, service)
    if row is None:
        with store.read() as connection:
            newest = sa.select(route.c.service).order_by(route.c.created_at.desc()).limit(3)
            known = ", ".join(connection.execute(newest).scalars()) or "none yet"
        raise ServiceNotFound(
            f"no service {service!r} has begun; the newest are: {known}. Train or register a "
            "version of it"
        )
    return row


def count_services(connection: Connection) -> int:
    """How many services are in use."""
    query = sa.select(sa.func.count()).select_from(route).where(route.c.retired_at.is_(None))
    return int(connection.execute(query).scalar_one())


def list_route_page(
    store: Store, *, after: str | None = None, limit: int, in_use_only: bool = False
) -> tuple[tuple[Route, ...], str | None]:
    """Routes by key, and the key after which the next page begins, None at the end.

    Args:
        store: The store.
        after: Key of the last service of the page before; None for the first page.
        limit: Most rows of the page.
        in_use_only: Leave out retired services.
    """
    query = sa.select(route).order_by(route.c.service).limit(limit + 1)
    if in_use_only:
        query = query.where(route.c.retired_at.is_(None))
    if after is not None:
        query = query.where(route.c.service > after)
    with store.read() as connection:
        rows = tuple(build_route(row) for row in connection.execute(query))
    return rows[:limit], rows[limit - 1].service if len(rows) > limit else None


def list_with_outcomes(
    store: Store,
    service: str,
    *,
    model_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
) -> tuple[ForecastWithOutcome, ...]:
    """The newest forecasts of bars opened in ``[since, until)``, oldest first.

    Args:
        store: The store.
        service: Key of the service.
        model_id: Of this version, whatever the role; None for the forecasts of record.
        since: None for all bars.
        until: None for all bars.
        limit: Most rows.
    """
    known = sa.and_(outcome.c.service == forecast.c.service, outcome.c.bar == forecast.c.bar)
    chosen = forecast.c.role == Role.RECORD if model_id is None else forecast.c.model_id == model_id
    query = (
        sa.select(
            forecast.c.bar,
            forecast.c.model_id,
            forecast.c.role,
            forecast.c.value.label("forecast"),
            forecast.c.low,
            forecast.c.high,
            forecast.c.made_at,
            outcome.c.value.label("outcome"),
            outcome.c.known_at,
            outcome.c.baseline,
        )
        .select_from(forecast.outerjoin(outcome, known))
        .where(forecast.c.service == service, chosen)
        .order_by(forecast.c.bar.desc())
        .limit(limit)
    )
    if since is not None:
        query = query.where(forecast.c.bar >= since)
    if until is not None:
        query = query.where(forecast.c.bar < until)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        ForecastWithOutcome(**dict(row._mapping) | {"role": Role(row.role)})
        for row in reversed(rows)
    )


def read_newest_forecasts(
    connection: Connection, services: Sequence[str]
) -> dict[str, NewestForecast]:
    """The newest forecast of record of each of these services that has one."""
    other = forecast.alias()
    newest = (
        sa.select(other.c.bar)
        .where(other.c.service == route.c.service, other.c.role == Role.RECORD)
        .order_by(other.c.bar.desc())
        .limit(1)
        .scalar_subquery()
    )
    same = sa.and_(forecast.c.service == route.c.service, forecast.c.bar == newest)
    query = (
        sa.select(*(forecast.c[name] for name in NewestForecast.__slots__))
        .select_from(route.join(forecast, same))
        .where(route.c.service.in_(services), forecast.c.role == Role.RECORD)
    )
    return {row.service: NewestForecast(**row._mapping) for row in connection.execute(query)}


def read_champions_since(connection: Connection, services: Sequence[str]) -> dict[str, datetime]:
    """Since when, by the wall clock, the present champion of each service is live."""
    history = route_history
    earlier: Any = history.alias()
    before = (
        sa.select(sa.func.coalesce(sa.func.max(earlier.c.generation), 0))
        .where(earlier.c.service == route.c.service, earlier.c.champion != route.c.champion)
        .scalar_subquery()
    )
    query = (
        sa.select(route.c.service, sa.func.min(history.c.at).label("since"))
        .join(history, history.c.service == route.c.service)
        .where(route.c.service.in_(services), history.c.generation > before)
        .group_by(route.c.service)
    )
    return {row.service: row.since for row in connection.execute(query)}


def read_newest_checks(connection: Connection, services: Sequence[str]) -> dict[str, NewestCheck]:
    """The newest look at the champion of each of these services that was looked at."""
    query = _select_newest_checks(services, NewestCheck.__slots__, official_only=False)
    return {row.service: NewestCheck(**row._mapping) for row in connection.execute(query)}


def read_newest_performance(
    connection: Connection, services: Sequence[str]
) -> dict[str, tuple[datetime, Mapping[str, Any]]]:
    """Bar and live figures of the newest deciding look at the champion of each service."""
    names = ("service", "bar", "performance")
    query = _select_newest_checks(services, names, official_only=True)
    return {
        row.service: (row.bar, row.performance)
        for row in connection.execute(query)
        if row.performance is not None
    }


def _select_newest_checks(
    services: Sequence[str], names: Sequence[str], *, official_only: bool
) -> sa.Select[Any]:
    other = check.alias()
    newest = sa.select(sa.func.max(other.c.bar)).where(
        other.c.service == route.c.service, other.c.model_id == route.c.champion
    )
    if official_only:
        newest = newest.where(other.c.official)
    same = sa.and_(
        check.c.service == route.c.service,
        check.c.model_id == route.c.champion,
        check.c.bar == newest.scalar_subquery(),
    )
    return (
        sa.select(*(check.c[name] for name in names))
        .select_from(route.join(check, same))
        .where(route.c.service.in_(services))
    )
