"""What is live: one row per service names its champion, the one before, its baseline, and the
challenger of a rollout with its share.

The row is a complete and always valid routing; each change is one transaction that raises its
generation by one and writes history and audit.
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
from mlops.store.schema import route, route_history, version
from mlops.store.sql import db_now


@dataclass(frozen=True, slots=True)
class Route:
    """Where a service's requests go; ``generation`` grows by one with each change.

    Of all keys ``weight_bp`` in 10,000 go to the challenger and ``mirror_bp`` are shown to it
    beside the champion; ``salt`` deals the keys. ``only_replicas`` names the replicas that take
    part in a rolling rollout (None: all). ``valid_until`` is a second of the database's clock
    after which the challenger's share counts as zero, unless it is renewed.
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


@dataclass(frozen=True, slots=True)
class LivePeriod:
    """From ``at`` on, until the next one, this was live, by this person, for this reason."""

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
_CHANGEABLE = (*_LIVE, "generation", "mirror_bp", "salt", "only_replicas", "updated_at")


def begin_route(connection: sa.Connection, service: str, baseline: str, why: audit.Why) -> Route:
    """Start a service on its baseline, inside the caller's transaction.

    Raises:
        StoreError: when the service is already live or the baseline is no version.
    """
    started = Route(service, 1, baseline, None, baseline, why.at, why.at)
    connection.execute(route.insert().values(**_values(started)))
    _remember(connection, started, "begin_service", why)
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
    """Put ``after`` in the place of ``before``, inside the caller's transaction.

    The generation and the time are set here.

    Raises:
        StoreError: when the route is no longer what ``before`` says.
    """
    changed = replace(after, generation=before.generation + 1, updated_at=why.at)
    values = {name: value for name, value in _values(changed).items() if name in _CHANGEABLE}
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
    _remember(connection, changed, action, why)
    was, now = _values(before), _values(changed)
    differing = [name for name in (*_LIVE, "generation") if was[name] != now[name]]
    audit.record(
        connection,
        why,
        action=action,
        service=before.service,
        subject=changed.challenger or changed.champion,
        before={name: was[name] for name in differing},
        after={name: now[name] for name in differing},
    )
    return changed


def renew_exposure(connection: sa.Connection, service: str, *, seconds: float) -> None:
    """Let the challenger's share count for so many seconds more, by the database's clock."""
    connection.execute(
        route.update()
        .where(route.c.service == service, route.c.challenger.is_not(None))
        .values(valid_until=db_now() + seconds)
    )


def get_route(store: Store, service: str) -> Route | None:
    """The service's route, None before it has begun."""
    with store.read() as connection:
        return read_route(connection, service)


def read_route(connection: sa.Connection, service: str) -> Route | None:
    """As `get_route`, inside the caller's transaction."""
    row = connection.execute(sa.select(route).where(route.c.service == service)).first()
    return None if row is None else _built(row)


def list_routes(store: Store) -> tuple[Route, ...]:
    """Every service there is, by key."""
    with store.read() as connection:
        return read_routes(connection)


def read_routes(connection: sa.Connection) -> tuple[Route, ...]:
    """As `list_routes`, inside the caller's transaction."""
    rows = connection.execute(sa.select(route).order_by(route.c.service)).all()
    return tuple(_built(row) for row in rows)


def live_at(store: Store, service: str, at: datetime) -> LivePeriod | None:
    """Who was live at a moment, since when, by whom and why; None before the service began."""
    query = (
        sa.select(route_history)
        .where(route_history.c.service == service, route_history.c.at <= at)
        .order_by(route_history.c.generation.desc())
        .limit(1)
    )
    found = _reigns(store, query)
    return found[0] if found else None


def champion_since(connection: sa.Connection, service: str) -> datetime | None:
    """When the present champion began, whatever challengers have come and gone since."""
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
    found: datetime | None = connection.execute(began).scalar()
    return found


def list_live_periods(store: Store, service: str) -> tuple[LivePeriod, ...]:
    """Everything that was ever live, oldest first."""
    query = sa.select(route_history).where(route_history.c.service == service)
    return _reigns(store, query.order_by(route_history.c.generation))


def _reigns(store: Store, query: sa.Select[Any]) -> tuple[LivePeriod, ...]:
    with store.read() as connection:
        return tuple(LivePeriod(**row._mapping) for row in connection.execute(query))


def aliases(store: Store, service: str) -> dict[str, int]:
    """The MLflow aliases a service should have, by the store: alias to MLflow version.

    ``challenger`` is the version a rollout is bringing live, else the newest version that passed
    the gates and is not live; a version whose metrics are only claims gets it by a forced
    rollout alone.
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
            found = connection.execute(numbered).scalar()
            if found is not None:
                wanted[alias] = int(found)
    return wanted


def _remember(connection: sa.Connection, live: Route, action: str, why: audit.Why) -> None:
    values = {name: getattr(live, name) for name in ("service", "generation", *_LIVE)}
    connection.execute(
        route_history.insert().values(
            **values, at=live.updated_at, action=action, actor=why.actor, reason=why.reason
        )
    )


def _values(live: Route) -> dict[str, Any]:
    values = {name: getattr(live, name) for name in Route.__slots__}
    only: Sequence[str] | None = live.only_replicas
    return values | {"only_replicas": None if only is None else list(only)}


def _built(row: sa.Row[Any]) -> Route:
    values = dict(row._mapping)
    only = values["only_replicas"]
    return Route(**values | {"only_replicas": None if only is None else tuple(only)})
