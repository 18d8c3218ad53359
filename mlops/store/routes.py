"""Routes: one row per service with champion, previous champion, baseline and challenger.

A row is always a complete and valid route. Each change is one transaction that raises the
generation by one and writes history and audit log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store import audit
from mlops.store.engine import Store
from mlops.store.markets import follow_champion
from mlops.store.schema import route, route_history, version
from mlops.store.sql import db_now

LONGEST_SHARE_S = 60.0
"""A share that counts for longer was renewed before the clock was set back: it counts no more."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a service's requests go; ``generation`` grows by one with each change.

    Of 10,000 keys ``weight_bp`` go to the challenger, and ``mirror_bp`` are sent to both versions;
    ``salt`` seeds the hash that decides which. ``only_replicas`` are the participants of a rolling
    rollout (None: all). After ``valid_until``, in seconds of the database's clock, the challenger's
    share counts as zero. A service that was retired is served and looked at by nobody.
    """

    service: str
    generation: int
    champion: str
    previous_champion: str | None
    baseline: str
    created_at: datetime
    updated_at: datetime
    challenger: str | None = None
    weight_bp: int = 0
    mirror_bp: int = 0
    salt: str = ""
    only_replicas: tuple[str, ...] | None = None
    valid_until: float | None = None
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LivePeriod:
    """A period from ``at`` until the next one, with the versions that were live.

    ``actor``, ``action`` and ``reason`` are those of the change that began the period.
    """

    service: str
    generation: int
    at: datetime
    champion: str
    previous_champion: str | None
    challenger: str | None
    weight_bp: int
    action: str
    actor: str
    reason: str


_LIVE = ("champion", "previous_champion", "challenger", "weight_bp")
_CHANGEABLE = (
    *_LIVE, "generation", "mirror_bp", "salt", "only_replicas", "updated_at", "retired_at"
)  # fmt: skip


def begin_route(connection: sa.Connection, service: str, baseline: str, why: audit.Why) -> Route:
    """Insert the route of a new service on its baseline, inside the caller's transaction.

    Raises:
        StoreError: when the service is already live or the baseline is no version.
    """
    started = Route(service, 1, baseline, None, baseline, why.at, why.at)
    connection.execute(route.insert().values(**_to_columns(started)))
    _insert_history(connection, started, "begin_service", why)
    audit.record(
        connection,
        why,
        action="begin_service",
        service=service,
        subject=baseline,
        after={"champion": baseline, "baseline": baseline, "generation": 1},
    )
    return started


def change_route(
    connection: sa.Connection, before: Route, after: Route, action: str, why: audit.Why
) -> Route:
    """Replace ``before`` by ``after``, inside the caller's transaction.

    Args:
        connection: The caller's transaction.
        before: The route as the caller read it.
        after: The new route; its generation and ``updated_at`` are set here.
        action: Name of the change in history and audit log.
        why: Author, reason and time.

    Raises:
        StoreError: when the route is no longer at the generation of ``before``.
    """
    changed = replace(after, generation=before.generation + 1, updated_at=why.at)
    values = {name: value for name, value in _to_columns(changed).items() if name in _CHANGEABLE}
    done = connection.execute(
        route.update()
        .where(route.c.service == before.service, route.c.generation == before.generation)
        .values(**values)
    )
    if done.rowcount != 1:
        raise StoreError(
            f"the route of {before.service} is no longer at generation {before.generation}; "
            "nothing was changed: read it again and decide anew"
        )
    _insert_history(connection, changed, action, why)
    if changed.champion != before.champion:
        notes = connection.scalar(
            sa.select(version.c.notes).where(version.c.model_id == changed.champion)
        )
        follow_champion(connection, before.service, notes or {}, why)
    old, new = _to_columns(before), _to_columns(changed)
    differing = [name for name in (*_LIVE, "generation") if old[name] != new[name]]
    audit.record(
        connection,
        why,
        action=action,
        service=before.service,
        subject=changed.challenger or changed.champion,
        before={name: old[name] for name in differing},
        after={name: new[name] for name in differing},
    )
    return changed


def renew_exposure(
    connection: sa.Connection, service: str | None = None, *, seconds: float
) -> None:
    """Let the challenger's share count for ``seconds`` from now, by the database's clock.

    Args:
        service: Of this service only; None for every service with a challenger.
    """
    renewed = route.update().where(route.c.challenger.is_not(None))
    if service is not None:
        renewed = renewed.where(route.c.service == service)
    connection.execute(renewed.values(valid_until=db_now() + seconds))


def share_left_s(route: Route, now: float) -> float:
    """Seconds for which the challenger's share still counts.

    Args:
        route: The route.
        now: Seconds of the database's clock.
    """
    left_s = (route.valid_until or 0.0) - now
    return left_s if 0.0 < left_s <= LONGEST_SHARE_S else 0.0


def get_route(store: Store, service: str) -> Route | None:
    """The service's route, also where it was retired; None before the service has begun."""
    with store.read() as connection:
        return read_route(connection, service)


def read_route(connection: sa.Connection, service: str) -> Route | None:
    """As `get_route`, inside the caller's transaction."""
    row = connection.execute(sa.select(route).where(route.c.service == service)).first()
    return None if row is None else build_route(row)


def lock_route(connection: sa.Connection, service: str) -> Route | None:
    """As `get_route`, locked until the caller's transaction ends; versions are locked after it."""
    query = sa.select(route).where(route.c.service == service).with_for_update()
    row = connection.execute(query).first()
    return None if row is None else build_route(row)


def list_routes(store: Store) -> tuple[Route, ...]:
    """The routes of all services that were not retired, by key."""
    with store.read() as connection:
        return read_routes(connection)


def read_routes(connection: sa.Connection) -> tuple[Route, ...]:
    """As `list_routes`, inside the caller's transaction."""
    in_use = sa.select(route).where(route.c.retired_at.is_(None)).order_by(route.c.service)
    rows = connection.execute(in_use).all()
    return tuple(build_route(row) for row in rows)


def live_at(store: Store, service: str, at: datetime) -> LivePeriod | None:
    """The period of a moment: which versions were live; None before the service began."""
    query = (
        sa.select(route_history)
        .where(route_history.c.service == service, route_history.c.at <= at)
        .order_by(route_history.c.generation.desc())
        .limit(1)
    )
    periods = _read_periods(store, query)
    return periods[0] if periods else None


def champion_since(connection: sa.Connection, service: str) -> datetime | None:
    """Since when the present champion is live, whatever challengers there were meanwhile."""
    history = sa.select(route_history).where(route_history.c.service == service)
    newest = history.order_by(route_history.c.generation.desc()).limit(1)
    present = connection.execute(newest).first()
    if present is None:
        return None
    another = sa.select(sa.func.max(route_history.c.generation)).where(
        route_history.c.service == service, route_history.c.champion != present.champion
    )
    before = connection.execute(another).scalar() or 0
    began = sa.select(sa.func.min(route_history.c.at)).where(
        route_history.c.service == service, route_history.c.generation > before
    )
    since: datetime | None = connection.execute(began).scalar()
    return since


def list_live_periods(store: Store, service: str) -> tuple[LivePeriod, ...]:
    """All periods of a service, oldest first."""
    query = sa.select(route_history).where(route_history.c.service == service)
    return _read_periods(store, query.order_by(route_history.c.generation))


def _read_periods(store: Store, query: sa.Select[Any]) -> tuple[LivePeriod, ...]:
    with store.read() as connection:
        return tuple(LivePeriod(**row._mapping) for row in connection.execute(query))


def aliases(store: Store, service: str) -> dict[str, int]:
    """The MLflow aliases that a service should have by the store, with their MLflow versions.

    ``challenger`` is the version of the open rollout, else the newest version that passed the gates
    and is not live; a version whose metrics are claims becomes challenger by a forced rollout only.
    """
    newest = (
        sa.select(version.c.mlflow_version)
        .where(version.c.service == service, version.c.status == "challenger")
        .where(version.c.claims_only.is_(False))
        .order_by(version.c.created_at.desc(), version.c.mlflow_version.desc())
        .limit(1)
    )
    with store.read() as connection:
        challenger = connection.execute(newest).scalar()
        wanted = {} if challenger is None else {"challenger": int(challenger)}
        for alias in ("champion", "baseline", "challenger"):
            numbered = (
                sa.select(version.c.mlflow_version)
                .join(route, route.c[alias] == version.c.model_id)
                .where(route.c.service == service)
            )
            number = connection.execute(numbered).scalar()
            if number is not None:
                wanted[alias] = int(number)
    return wanted


def _insert_history(connection: sa.Connection, live: Route, action: str, why: audit.Why) -> None:
    values = {name: getattr(live, name) for name in ("service", "generation", *_LIVE)}
    connection.execute(
        route_history.insert().values(
            **values, at=live.updated_at, action=action, actor=why.actor, reason=why.reason
        )
    )


def _to_columns(live: Route) -> dict[str, Any]:
    values = {name: getattr(live, name) for name in Route.__slots__}
    only: Sequence[str] | None = live.only_replicas
    return values | {"only_replicas": None if only is None else list(only)}


def build_route(row: sa.Row[Any]) -> Route:
    """The route of a whole row of the table."""
    # A newer release may have added columns.
    values = {name: getattr(row, name) for name in Route.__slots__}
    only = values["only_replicas"]
    return Route(**values | {"only_replicas": None if only is None else tuple(only)})
