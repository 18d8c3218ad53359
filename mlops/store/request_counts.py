"""What versions were asked for and how long that took, by replica and hour.

Like `evidence`, rows hold running totals of one process life, so that writing one twice counts
nothing twice; rows of several lives, replicas or hours are added up where they are read. Hours
are those of the wall clock: how long an answer took has no market time.

[[How versions did on real requests and replayed bars, counted by each replica.

Rows hold running totals of one process life, so that writing one twice counts nothing twice.]]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.store.engine import Store
from mlops.store.schema import evidence, traffic
from mlops.store.sql import db_now, upsert

FASTEST_S, SLOWEST_S, RATIO = 1e-4, 10.0, 1.5
EDGES_S: tuple[float, ...] = tuple(
    FASTEST_S * RATIO ** float(power)
    for power in range(math.ceil(math.log(SLOWEST_S / FASTEST_S, RATIO)) + 1)
)
"""Upper edges of the buckets that latencies are counted in; one more bucket is open above.

They are part of what is stored: other edges would need other columns.
"""

BUCKETS = len(EDGES_S) + 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that a version was asked, and what became of them; ``a + b`` adds two counts.

    ``faults`` are its own: errors, time-outs, forecasts that are not finite. ``turned_away``
    found no turn, because too much waited or nothing was loaded. ``seconds`` is the time that all
    others took together, from question to answer or fault, and ``latencies`` counts them by
    bucket, faster than each of `EDGES_S`, then slower than all.
    """

    requests: int = 0
    faults: int = 0
    turned_away: int = 0
    seconds: float = 0.0
    latencies: tuple[int, ...] = (0,) * BUCKETS

    def __add__(self, other: Traffic) -> Traffic:
        both = zip(self.latencies, other.latencies, strict=True)
        return Traffic(
            self.requests + other.requests,
            self.faults + other.faults,
            self.turned_away + other.turned_away,
            self.seconds + other.seconds,
            tuple(own + its for own, its in both),
        )

    @property
    def timed(self) -> int:
        """Requests whose time was taken."""
        return sum(self.latencies)

    @property
    def failed(self) -> int:
        """Requests the version did not answer, whoever's fault that was."""
        return self.faults + self.turned_away

    def quantile_s(self, share: float) -> float | None:
        """The time within which that share of the requests was over; None where none was timed.

        Exact to its bucket, and interpolated there on a log scale; what lies outside the edges is
        given as within a step of them.
        """
        if not self.timed:
            return None
        rank = share * self.timed
        bucket, above = next(
            (place, sum_traffic)
            for place, sum_traffic in enumerate(itertools.accumulate(self.latencies))
            if sum_traffic >= rank and sum_traffic > 0
        )
        if bucket >= len(EDGES_S):
            return EDGES_S[-1]
        inside = self.latencies[bucket]
        return float(EDGES_S[bucket] * RATIO ** ((rank - above) / inside))

    def slower_than(self, seconds: float) -> int:
        """How many requests surely took longer: those of a bucket that begins there or later."""
        return sum(
            count
            for count, faster in zip(self.latencies[1:], EDGES_S, strict=True)
            if faster >= seconds
        )


@dataclass(frozen=True, slots=True)
class TrafficRow:
    """One hour of one version in one process life; ``hour`` is when it began."""

    service: str
    model_id: str
    replica_id: str
    incarnation: str
    hour: datetime
    traffic: Traffic


def sum_traffic(rows: Sequence[TrafficRow]) -> Traffic:
    """All of them together."""
    return sum((row.traffic for row in rows), start=Traffic())


def write_traffic(store: Store, rows: Sequence[TrafficRow]) -> None:
    """Write running totals over those written before."""
    if rows:
        with store.write() as connection:
            upsert(connection, traffic, [_values(row) for row in rows])


def read_traffic(
    connection: sa.Connection,
    *,
    since: datetime,
    until: datetime | None = None,
    service: str | None = None,
    model_id: str | None = None,
) -> tuple[TrafficRow, ...]:
    """The hours that began in ``[since, until)``, oldest first."""
    query = sa.select(traffic).where(traffic.c.hour >= since).order_by(traffic.c.hour)
    if until is not None:
        query = query.where(traffic.c.hour < until)
    if service is not None:
        query = query.where(traffic.c.service == service)
    if model_id is not None:
        query = query.where(traffic.c.model_id == model_id)
    return tuple(_row(row) for row in connection.execute(query))


def forget_traffic(connection: sa.Connection, *, before: datetime) -> None:
    """Remove the hours that began earlier."""
    connection.execute(traffic.delete().where(traffic.c.hour < before))


_OWN = ("service", "model_id", "replica_id", "incarnation", "hour")
_COUNTED = tuple(one.name for one in fields(Traffic))


def _values(row: TrafficRow) -> dict[str, Any]:
    counted = {name: getattr(row.traffic, name) for name in _COUNTED}
    return {name: getattr(row, name) for name in _OWN} | counted


def _row(row: sa.Row[Any]) -> TrafficRow:
    counted = {name: getattr(row, name) for name in _COUNTED}
    own = {name: getattr(row, name) for name in _OWN}
    return TrafficRow(
        **own, traffic=Traffic(**counted | {"latencies": tuple(counted["latencies"])})
    )


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
