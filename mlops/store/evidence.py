"""How versions did on real requests and replayed bars, counted by each replica.

Rows hold running totals of one process life, so that writing one twice counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.store.dialects import upsert
from mlops.store.engine import Store
from mlops.store.schema import evidence
from mlops.store.sql import db_now


class Source(StrEnum):
    """Where trials come from.

    ``live``: requests dealt by weight. ``mirror``: requests shown to both versions.
    ``replay``: recent bars given to both versions.
    """

    LIVE = "live"
    MIRROR = "mirror"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one replica, source and step; a trial is a key-minute, or a bar.

    A fault counts against a version where another one answered the same input: what no
    version answers is nobody's fault. ``detail`` has the faults by kind.
    """

    scope: str
    step: int
    source: Source
    replica_id: str
    incarnation: str
    weight_bp: int = 0
    champion_trials: int = 0
    champion_faults: int = 0
    challenger_trials: int = 0
    challenger_faults: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)


def record_tallies(store: Store, tallies: Mapping[str, Sequence[Tally]]) -> None:
    """Write running totals by service."""
    rows = [
        {
            "service": service,
            **{name: getattr(one, name) for name in Tally.__slots__},
            "detail": dict(one.detail),
        }
        for service, several in tallies.items()
        for one in several
    ]
    if not rows:
        return
    with store.write() as connection:
        now = connection.execute(sa.select(db_now())).scalar_one()
        upsert(connection, evidence, [row | {"updated_at": now} for row in rows])


def read_tallies(
    connection: sa.Connection, service: str, scope: str, *, newer_than_s: float | None = None
) -> tuple[Tally, ...]:
    """What was counted for a scope: a rollout's id, or a champion's ``model_id``.

    With ``newer_than_s`` only what was written within so many seconds.
    """
    columns = [evidence.c[name] for name in Tally.__slots__]
    query = sa.select(*columns).where(evidence.c.service == service, evidence.c.scope == scope)
    if newer_than_s is not None:
        query = query.where(evidence.c.updated_at > db_now() - newer_than_s)
    found = connection.execute(query.order_by(evidence.c.step)).all()
    return tuple(Tally(**dict(row._mapping) | {"source": Source(row.source)}) for row in found)


def forget_tallies(connection: sa.Connection, *, after: float) -> None:
    """Remove what was last written more than ``after`` seconds ago."""
    connection.execute(evidence.delete().where(evidence.c.updated_at < db_now() - after))
