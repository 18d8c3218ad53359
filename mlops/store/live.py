"""What is live: one row per service names its champion, the one before, and its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.store import audit
from mlops.store.engine import Store
from mlops.store.schema import route, version


@dataclass(frozen=True, slots=True)
class Route:
    """Where a service's requests go; ``generation`` grows by one with each change."""

    service: str
    generation: int
    champion: str
    previous_champion: str | None
    baseline: str
    created_at: datetime
    updated_at: datetime


def begin_route(connection: sa.Connection, service: str, baseline: str, why: audit.Why) -> Route:
    """Start a service on its baseline, inside the caller's transaction.

    Raises:
        StoreError: when the service is already live or the baseline is no version.
    """
    started = Route(service, 1, baseline, None, baseline, why.at, why.at)
    values = {name: getattr(started, name) for name in Route.__slots__}
    connection.execute(route.insert().values(**values))
    audit.record(
        connection,
        why,
        action="begin_service",
        service=service,
        subject=baseline,
        after={"champion": baseline, "baseline": baseline, "generation": 1},
    )
    return started


def get_route(store: Store, service: str) -> Route | None:
    """The service's route, None before it has begun."""
    with store.read() as connection:
        row = connection.execute(sa.select(route).where(route.c.service == service)).first()
    return None if row is None else _built(row)


def list_routes(store: Store) -> tuple[Route, ...]:
    """Every service there is, by key."""
    with store.read() as connection:
        rows = connection.execute(sa.select(route).order_by(route.c.service)).all()
    return tuple(_built(row) for row in rows)


def aliases(store: Store, service: str) -> dict[str, int]:
    """The MLflow aliases a service should have, by the store: alias to MLflow version.

    ``challenger`` is the newest version that passed the gates and is not live; a version whose
    metrics are only claims never gets it.
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
        for alias in ("champion", "baseline"):
            numbered = (
                sa.select(version.c.mlflow_version)
                .join(route, route.c[alias] == version.c.model_id)
                .where(route.c.service == service)
            )
            found = connection.execute(numbered).scalar()
            if found is not None:
                wanted[alias] = int(found)
    return wanted


def _built(row: sa.Row[Any]) -> Route:
    return Route(**row._mapping)
