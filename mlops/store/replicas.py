"""Live serving processes: the route generations and models that each has acknowledged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from mlops.store.engine import Store
from mlops.store.schema import replica, replica_model, replica_route
from mlops.store.sql import db_now, store_time, upsert


class ReplicaState(StrEnum):
    """The state of a replica; a ready replica takes requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class HeldModel:
    """One model in one process.

    ``state`` is fetching, loading, warming, ready, failed or draining.
    """

    model_id: str
    state: str
    digest: str = ""
    bytes: int = 0
    load_ms: float = 0.0
    error: str | None = None
    inflight: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    """A live serving process: route generations by service, models by model_id."""

    id: str
    incarnation: str
    address: str
    state: ReplicaState
    build: str = ""
    memory_free: int | None = None
    generations: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, HeldModel] = field(default_factory=dict)

    def holds(self, model_id: str) -> bool:
        """Whether the model is ready in that process."""
        held = self.models.get(model_id)
        return held is not None and held.state == "ready"

    def failed_to_load(self, model_id: str) -> bool:
        """Whether the process tried to load the model and could not."""
        held = self.models.get(model_id)
        return held is not None and held.state == "failed"


def acknowledge(store: Store, reported: Replica, *, seconds: float) -> None:
    """Write which routes and models this process has; it counts as live for ``seconds``."""
    with store.write() as connection:
        _upsert_replica(connection, reported, seconds)
        connection.execute(replica_route.delete().where(replica_route.c.replica_id == reported.id))
        connection.execute(replica_model.delete().where(replica_model.c.replica_id == reported.id))
        routes = [
            {"replica_id": reported.id, "service": service, "generation": generation}
            for service, generation in reported.generations.items()
        ]
        models = [
            {
                "replica_id": reported.id,
                **{name: getattr(held, name) for name in HeldModel.__slots__},
            }
            for held in reported.models.values()
        ]
        upsert(connection, replica_route, routes)
        upsert(connection, replica_model, models)


def heartbeat(store: Store, replica_id: str, *, seconds: float) -> bool:
    """Renew the replica's lease alone; False if the replica has no row (any more)."""
    with store.write() as connection:
        done = connection.execute(
            replica.update()
            .where(replica.c.id == replica_id)
            .values(lease_until=db_now() + seconds)
        )
    return done.rowcount == 1


def remove_replica(store: Store, replica_id: str) -> None:
    """Delete a replica at its end, so that no rollout waits for it."""
    with store.write() as connection:
        connection.execute(replica.delete().where(replica.c.id == replica_id))


def forget_dead(connection: sa.Connection, *, after: float) -> int:
    """Delete replicas whose lease expired ``after`` seconds ago; returns how many."""
    dead = replica.delete().where(replica.c.lease_until < db_now() - after)
    return connection.execute(dead).rowcount


def live_replicas(connection: sa.Connection) -> tuple[Replica, ...]:
    """All replicas whose lease has not expired, by id."""
    alive = sa.select(replica).where(replica.c.lease_until > db_now()).order_by(replica.c.id)
    rows = connection.execute(alive).all()
    ids = [row.id for row in rows]
    routes = connection.execute(_rows_of(replica_route, ids)).all()
    models = connection.execute(_rows_of(replica_model, ids)).all()
    return tuple(
        Replica(
            id=row.id,
            incarnation=row.incarnation,
            address=row.address,
            state=ReplicaState(row.state),
            build=row.build,
            memory_free=row.memory_free,
            generations={r.service: r.generation for r in routes if r.replica_id == row.id},
            models={
                m.model_id: HeldModel(**{name: getattr(m, name) for name in HeldModel.__slots__})
                for m in models
                if m.replica_id == row.id
            },
        )
        for row in rows
    )


def list_replicas(store: Store) -> tuple[Replica, ...]:
    """As `live_replicas`, in a transaction of its own."""
    with store.read() as connection:
        return live_replicas(connection)


def _upsert_replica(connection: sa.Connection, reported: Replica, seconds: float) -> None:
    now: datetime = store_time(connection)
    values = {
        "incarnation": reported.incarnation,
        "address": reported.address,
        "state": reported.state,
        "build": reported.build,
        "memory_free": reported.memory_free,
    }
    until = db_now() + seconds
    changed = connection.execute(
        replica.update().where(replica.c.id == reported.id).values(**values, lease_until=until)
    )
    if not changed.rowcount:
        connection.execute(
            replica.insert().values(id=reported.id, **values, lease_until=until, started_at=now)
        )


def _rows_of(table: sa.Table, ids: Sequence[str]) -> sa.Select[tuple[object, ...]]:
    return sa.select(table).where(table.c.replica_id.in_(ids))
