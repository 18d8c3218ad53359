"""Live serving processes: the route generations and models that each has acknowledged.

A process is known by its name and its incarnation. Of two living processes of one name the store
takes the word of the first only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.errors import ReplicaNameTaken
from mlops.store.column_types import CheckedText
from mlops.store.engine import Store
from mlops.store.schema import replica, replica_model, replica_route
from mlops.store.sql import db_now, is_held, store_time, upsert


class ReplicaState(StrEnum):
    """The state of a replica; a ready replica takes requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class LoadCause(StrEnum):
    """The cause of a failed load.

    ``replica``: its process cannot fetch or open the model now, and another one may. ``version``:
    the model's own files are wrong. Only the second speaks against the version.
    """

    REPLICA = "replica"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class HeldModel:
    """One model in one process.

    ``state`` is fetching, loading, warming, ready, failed or draining; of a failed model, ``cause``
    is a `LoadCause`.
    """

    model_id: str
    state: str
    digest: str = ""
    bytes: int = 0
    load_ms: float = 0.0
    error: str | None = None
    inflight: int = 0
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """A live serving process: route generations by service, models by model_id.

    ``started_at`` is when the store first saw this incarnation (UTC); the store writes it.
    """

    id: str
    incarnation: str
    address: str
    state: ReplicaState
    build: str = ""
    memory_free: int | None = None
    started_at: datetime | None = field(default=None, compare=False)
    generations: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, HeldModel] = field(default_factory=dict)

    def holds(self, model_id: str) -> bool:
        """Whether the model is ready in that process."""
        held = self.models.get(model_id)
        return held is not None and held.state == "ready"

    def failed_to_load(self, model_id: str, cause: LoadCause | None = None) -> bool:
        """Whether the process tried to load the model and could not, from that cause or any."""
        held = self.models.get(model_id)
        if held is None or held.state != "failed":
            return False
        return cause is None or held.cause == cause


@dataclass(frozen=True, slots=True)
class Namesake:
    """Another process with a replica's name; ``lease_until`` is in the database's seconds."""

    address: str
    state: ReplicaState
    lease_until: float


def check_replica(name: str, address: str) -> None:
    """Check that the store can keep a replica's name and address, before one uses them.

    Raises:
        StoreError: naming the column, the text and its limit.
    """
    for column, text in ((replica.c.id, name), (replica.c.address, address)):
        assert isinstance(column.type, CheckedText)
        column.type.check(text)


def acknowledge(store: Store, reported: Replica, *, seconds: float) -> None:
    """Write which routes and models this process has; it counts as live for ``seconds``.

    Raises:
        ReplicaNameTaken: when another living process has its name; nothing was written.
    """
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


def heartbeat(store: Store, replica_id: str, incarnation: str, *, seconds: float) -> bool:
    """Renew the replica's lease alone; False if this incarnation has no row (any more)."""
    with store.write() as connection:
        done = connection.execute(
            replica.update()
            .where(replica.c.id == replica_id, replica.c.incarnation == incarnation)
            .values(lease_until=db_now() + seconds, lease_s=seconds)
        )
    return done.rowcount == 1


def remove_replica(store: Store, replica_id: str, incarnation: str) -> None:
    """Delete a replica at its end, so that no rollout waits for it; another one's row stays."""
    with store.write() as connection:
        connection.execute(
            replica.delete().where(replica.c.id == replica_id, replica.c.incarnation == incarnation)
        )


def find_namesake(store: Store, replica_id: str, incarnation: str) -> Namesake | None:
    """The living process of that name with another incarnation, if any."""
    with store.read() as connection:
        return _find_namesake(connection, replica_id, incarnation)


def forget_dead(connection: sa.Connection, *, after: float) -> int:
    """Delete replicas whose lease expired ``after`` seconds ago; returns how many."""
    dead = replica.delete().where(replica.c.lease_until < db_now() - after)
    return connection.execute(dead).rowcount


def live_replicas(connection: sa.Connection) -> tuple[Replica, ...]:
    """All replicas whose lease has not expired, by id."""
    alive = sa.select(replica).where(_is_live()).order_by(replica.c.id)
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
            started_at=row.started_at,
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
    namesake = _find_namesake(connection, reported.id, reported.incarnation)
    if namesake is not None:
        raise ReplicaNameTaken(reported.id, namesake.address)
    values: dict[str, Any] = {
        "address": reported.address,
        "state": reported.state,
        "build": reported.build,
        "memory_free": reported.memory_free,
        "lease_until": db_now() + seconds,
        "lease_s": seconds,
    }
    same = sa.and_(replica.c.id == reported.id, replica.c.incarnation == reported.incarnation)
    if not connection.execute(replica.update().where(same).values(**values)).rowcount:
        connection.execute(replica.delete().where(replica.c.id == reported.id))
        values |= {"incarnation": reported.incarnation, "started_at": store_time(connection)}
        connection.execute(replica.insert().values(id=reported.id, **values))


def _find_namesake(connection: sa.Connection, replica_id: str, incarnation: str) -> Namesake | None:
    query = sa.select(replica.c.address, replica.c.state, replica.c.lease_until).where(
        replica.c.id == replica_id, replica.c.incarnation != incarnation, _is_live()
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    return Namesake(row.address, ReplicaState(row.state), row.lease_until)


def _is_live() -> sa.ColumnElement[bool]:
    """The lease has not expired, nor does it last longer than it was taken for."""
    # A release that wrote no length is believed.
    left = replica.c.lease_until - db_now()
    return is_held(replica.c.lease_until, sa.func.coalesce(replica.c.lease_s, left))


def _rows_of(table: sa.Table, ids: Sequence[str]) -> sa.Select[tuple[object, ...]]:
    return sa.select(table).where(table.c.replica_id.in_(ids))
