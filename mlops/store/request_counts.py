"""Counts of requests, written by each replica: hourly traffic, and evidence for rollouts.

    Traffic: requests, faults and latencies of a version, by hour of the wall clock
    Tally:   trials and faults of champion and challenger, by rollout, step and source

Rows hold the running totals of one process, so writing a row twice counts no request twice. Rows
of several processes or hours are added up by the reader.
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
from mlops.store.schema import OPEN, evidence, rollout, route, traffic
from mlops.store.sql import db_now, is_recent, upsert

FASTEST_S, SLOWEST_S, RATIO = 1e-4, 10.0, 1.5
EDGES_S: tuple[float, ...] = tuple(
    FASTEST_S * RATIO ** float(power)
    for power in range(math.ceil(math.log(SLOWEST_S / FASTEST_S, RATIO)) + 1)
)
"""Upper edges of the latency buckets in seconds; one more bucket has no upper edge.

Stored counts depend on these edges: other edges would need other columns.
"""

BUCKETS = len(EDGES_S) + 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests to a version, by result; ``a + b`` adds two counts.

    ``faults`` are the version's own: errors, time-outs, forecasts that are not finite.
    ``turned_away`` were refused, because the queue was full or no version was loaded. ``seconds``
    is the summed latency of all others, and ``latencies`` counts them by bucket: one for each of
    `EDGES_S`, then one for slower requests.
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
        """Requests whose latency was measured."""
        return sum(self.latencies)

    @property
    def failed(self) -> int:
        """Requests without an answer: faults and requests turned away."""
        return self.faults + self.turned_away

    def quantile_s(self, share: float) -> float | None:
        """A quantile of the latency in seconds; None if no latency was measured.

        Exact to its bucket and interpolated inside it on a log scale. Latencies outside the edges
        are reported as within one bucket of them.

        Args:
            share: The quantile's share, above 0 and at most 1.
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
        """How many requests were surely slower: all of the buckets from ``seconds`` on."""
        return sum(
            count
            for count, faster in zip(self.latencies[1:], EDGES_S, strict=True)
            if faster >= seconds
        )


@dataclass(frozen=True, slots=True)
class TrafficRow:
    """One hour of one version in one process; ``hour`` is the start of the hour."""

    service: str
    model_id: str
    replica_id: str
    incarnation: str
    hour: datetime
    traffic: Traffic


def sum_traffic(rows: Sequence[TrafficRow]) -> Traffic:
    """Add up the traffic of several rows."""
    return sum((row.traffic for row in rows), start=Traffic())


def write_traffic(store: Store, rows: Sequence[TrafficRow]) -> None:
    """Write running totals over those written before."""
    values = [
        {name: getattr(row, name) for name in _KEYS}
        | {name: getattr(row.traffic, name) for name in _COUNTED}
        for row in rows
    ]
    if values:
        with store.write() as connection:
            upsert(connection, traffic, values)


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
    return tuple(_build_traffic_row(row) for row in connection.execute(query))


def forget_traffic(connection: sa.Connection, *, before: datetime) -> None:
    """Delete the hours that began before ``before``."""
    connection.execute(traffic.delete().where(traffic.c.hour < before))


_KEYS = ("service", "model_id", "replica_id", "incarnation", "hour")
_COUNTED = tuple(column.name for column in fields(Traffic))


def _build_traffic_row(row: sa.Row[Any]) -> TrafficRow:
    counted = {name: getattr(row, name) for name in _COUNTED}
    keys = {name: getattr(row, name) for name in _KEYS}
    return TrafficRow(
        **keys, traffic=Traffic(**counted | {"latencies": tuple(counted["latencies"])})
    )


class Source(StrEnum):
    """The source of trials.

    ``live``: requests split by weight. ``mirror``: requests given to both versions.
    ``replay``: recent bars given to both versions.
    """

    LIVE = "live"
    MIRROR = "mirror"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one replica, source and step; a trial is a key-minute, or a bar.

    A fault counts against a version only if another version answered the same input.
    ``detail`` has the faults by kind; in a `dealt_scope` also the bars that a request offered
    last, and how many the challenger needs.
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


_CHAMPION, _DEALT = "champion:", "dealt:"


def champion_scope(model_id: str) -> str:
    """The scope of a champion's trials, apart from any rollout.

    Of source ``replay`` are those on inputs of our own: its golden examples and the newest bars.
    """
    return f"{_CHAMPION}{model_id}"


def dealt_scope(rollout_id: str) -> str:
    """The scope of the requests dealt to a challenger; those with too few bars are its faults."""
    return f"{_DEALT}{rollout_id}"


def record_tallies(store: Store, tallies: Mapping[str, Sequence[Tally]]) -> None:
    """Write running totals, given by service, over those written before."""
    rows = [
        {
            "service": service,
            **{name: getattr(tally, name) for name in Tally.__slots__},
            "detail": dict(tally.detail),
        }
        for service, of_service in tallies.items()
        for tally in of_service
    ]
    if not rows:
        return
    with store.write() as connection:
        now = connection.execute(sa.select(db_now())).scalar_one()
        upsert(connection, evidence, [row | {"updated_at": now} for row in rows])


def read_tallies(
    connection: sa.Connection, service: str, scope: str, *, newer_than_s: float | None = None
) -> tuple[Tally, ...]:
    """The tallies of a scope: a rollout, or a champion outside of rollouts.

    Args:
        connection: The caller's transaction.
        service: Key of the service.
        scope: A rollout's id, a `champion_scope` or a `dealt_scope`.
        newer_than_s: Only tallies written within the last so many seconds.
    """
    columns = [evidence.c[name] for name in Tally.__slots__]
    query = sa.select(*columns).where(evidence.c.service == service, evidence.c.scope == scope)
    if newer_than_s is not None:
        query = query.where(is_recent(evidence.c.updated_at, newer_than_s))
    rows = connection.execute(query.order_by(evidence.c.step)).all()
    return tuple(_build_tally(row) for row in rows)


def read_tallies_in_use(
    connection: sa.Connection, service: str | None = None, *, newer_than_s: float
) -> dict[str, tuple[Tally, ...]]:
    """The tallies of all open rollouts and of all present champions, by scope; one statement.

    Args:
        connection: The caller's transaction.
        service: Of this service only; None for all.
        newer_than_s: Of champions, and of requests dealt to a challenger, only the tallies written
            within the last so many seconds. Those of a rollout count from its beginning.
    """
    recent = is_recent(evidence.c.updated_at, newer_than_s)
    of_rollout = _select_tallies(rollout, "", rollout.c.id, service).where(sa.text(OPEN))
    dealt = _select_tallies(rollout, _DEALT, rollout.c.id, service)
    champion = _select_tallies(route, _CHAMPION, route.c.champion, service)
    query = sa.union_all(of_rollout, dealt.where(sa.text(OPEN), recent), champion.where(recent))
    found: dict[str, list[Tally]] = {}
    for row in connection.execute(query.order_by("step")):
        found.setdefault(row.scope, []).append(_build_tally(row))
    return {scope: tuple(tallies) for scope, tallies in found.items()}


def _select_tallies(
    owner: sa.Table, prefix: str, name: sa.ColumnElement[str], service: str | None
) -> sa.Select[Any]:
    """The tallies whose scope is a prefix and a name in another table, by the primary key."""
    # Compared with bare columns, SQLite would scan all evidence and look its owner up instead.
    same_service = evidence.c.service == sa.literal("") + owner.c.service
    same_scope = evidence.c.scope == sa.literal(prefix) + name
    columns = [evidence.c[name] for name in Tally.__slots__]
    query = sa.select(*columns).where(same_service, same_scope)
    return query if service is None else query.where(owner.c.service == service)


def _build_tally(row: sa.Row[Any]) -> Tally:
    return Tally(**dict(row._mapping) | {"source": Source(row.source)})


def forget_tallies(connection: sa.Connection, *, after: float) -> None:
    """Delete tallies that were last written more than ``after`` seconds ago."""
    connection.execute(evidence.delete().where(evidence.c.updated_at < db_now() - after))
