"""Rollouts: a row is the request and the present phase, its events are the history.

A service has at most one open rollout, and beside it one that waits until that has ended. Each
arrow writes rollout, event, route and statuses in one transaction, fenced by the controller's
lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mlops.errors import RolloutError, RolloutNotFound, StoreError
from mlops.store import audit
from mlops.store.ab_tests import conclude_test, lock_test_of, stop_test_of
from mlops.store.engine import Store
from mlops.store.requests import RequestKey
from mlops.store.routes import Route, change_route
from mlops.store.schema import (
    OPEN,
    WAITING,
    Phase,
    Status,
    Verdict,
    rollout,
    rollout_event,
    version,
)
from mlops.store.sql import CLOCK_TOLERANCE_S
from mlops.store.versions import change_status

CLOCK_TOLERANCE = timedelta(seconds=CLOCK_TOLERANCE_S)

ENDING = (Phase.ROLLBACK, Phase.REVERTED, Phase.FAILED, Phase.DONE)
"""Phases in which a rollout carries no running A/B test."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of a version.

    ``from_version`` is the champion when it was requested, or for one that waited, when it began.
    ``since`` is when its phase and step began, ``deadline`` when the phase is given up (one that
    waits is never given up); ``plan`` is a `mlops.rollout.plan.RolloutPlan` as JSON,
    ``abort_requested`` names who asked for the abort, and the reason. ``request_key`` names the
    request, and ``request_digest`` is the SHA-256 of what it asked for.
    """

    id: str
    service: str
    strategy: str
    from_version: str
    to_version: str
    plan: Mapping[str, Any]
    phase: Phase
    step: int
    since: datetime
    deadline: datetime
    reason: str
    abort_requested: str | None
    forced: bool
    requested_by: str
    requested_why: str
    requested_at: datetime
    ended_at: datetime | None = None
    request_key: str | None = None
    request_digest: str | None = None


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """One arrow that a rollout has taken; ``term`` is that of the controller's lease."""

    rollout_id: str
    seq: int
    at: datetime
    from_phase: Phase | None
    to_phase: Phase
    step: int
    generation: int
    term: int
    reason: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """A transition of a rollout: its next phase and step, and what changes with it.

    ``patience`` is the time until the new phase's deadline, ``route`` the new route (None: the same
    as before), ``statuses`` the new statuses by model_id, ``detail`` the evidence. ``abort`` is a
    request to end the rollout that comes with it, and ``verdict_of_test`` what was known of the
    rollout's A/B test.
    """

    to: Phase
    step: int
    patience: timedelta
    reason: str
    route: Route | None = None
    statuses: Mapping[str, Status] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    abort: str | None = None
    verdict_of_test: Verdict | None = None


def insert_rollout(connection: sa.Connection, row: Rollout, why: audit.Why) -> None:
    """Insert a rollout and its first event, inside the caller's transaction.

    Raises:
        StoreError: when the service has an open rollout already.
    """
    values = {name: getattr(row, name) for name in Rollout.__slots__}
    connection.execute(rollout.insert().values(**values | {"plan": dict(row.plan)}))
    first = {"seq": 0, "from_phase": None, "to_phase": row.phase, "generation": 0, "term": 0}
    connection.execute(
        rollout_event.insert().values(
            rollout_id=row.id, at=row.since, step=0, reason=row.reason, detail={}, **first
        )
    )
    audit.record(
        connection,
        why,
        action="request_rollout",
        service=row.service,
        subject=row.to_version,
        after={"rollout": row.id, "strategy": row.strategy, "forced": row.forced},
    )


def move_rollout(
    connection: sa.Connection,
    row: Rollout,
    before: Route,
    arrow: Arrow,
    *,
    term: int | None,
    at: datetime,
) -> Route:
    """Take one arrow, inside the caller's fenced transaction; returns the route after it.

    An arrow that ends the rollout stops its A/B test, where that still runs.

    Args:
        connection: The caller's transaction.
        row: The rollout as the caller read it.
        before: The route as the caller read it.
        arrow: The transition.
        term: The term of the controller's lease; None for an arrow that a request takes.
        at: Time of the transition (UTC).

    Raises:
        StoreError: when rollout or route have changed since they were read, an abort was
            requested since, or the rollout's A/B test got its verdict since.
    """
    why = audit.Why(at, actor="controller", reason=arrow.reason)
    done = connection.execute(
        rollout.update()
        .where(rollout.c.id == row.id, rollout.c.phase == row.phase, rollout.c.step == row.step)
        .where(rollout.c.abort_requested.is_not_distinct_from(row.abort_requested))
        .values(
            phase=arrow.to,
            from_version=before.champion if arrow.to is Phase.PENDING else row.from_version,
            step=arrow.step,
            since=at,
            deadline=at + arrow.patience,
            reason=arrow.reason,
            abort_requested=arrow.abort or row.abort_requested,
            ended_at=at if arrow.to.final else None,
        )
    )
    if done.rowcount != 1:
        raise StoreError(f"rollout {row.id} has moved from {row.phase}; nothing was changed")
    _settle_test(connection, row, arrow, why)
    after = before
    if arrow.route is not None:
        after = change_route(connection, before, arrow.route, f"rollout_{arrow.to}", why)
    for model_id, status in arrow.statuses.items():
        change_status(connection, model_id, status, why)
    number, newest_term = _next_event_number(connection, row.id)
    connection.execute(
        rollout_event.insert().values(
            rollout_id=row.id,
            seq=number,
            at=at,
            from_phase=row.phase,
            to_phase=arrow.to,
            step=arrow.step,
            generation=after.generation,
            term=newest_term if term is None else term,
            reason=arrow.reason,
            detail=dict(arrow.detail),
        )
    )
    return after


def _settle_test(connection: sa.Connection, row: Rollout, arrow: Arrow, why: audit.Why) -> None:
    """Stop the test that an ended rollout carries; let only a better challenger be promoted."""
    test = lock_test_of(connection, row.id)
    if test is None:
        return
    if test.verdict is not arrow.verdict_of_test:
        raise StoreError(
            f"test {test.id} of {row.id} ended as {test.verdict} since it was read; nothing was "
            "changed: read it again and decide anew"
        )
    if arrow.to is Phase.PROMOTED and test.verdict is not Verdict.BETTER:
        raise StoreError(
            f"{row.to_version} is not promoted: its A/B test {test.id} has not found it better"
        )
    if arrow.to in ENDING and test.verdict is None:
        conclude_test(connection, test.id, Verdict.STOPPED, arrow.reason, why)


def restart_future_phases(connection: sa.Connection, now: datetime) -> None:
    """Let phases that began in the future begin now; their deadlines keep the distance.

    They were begun by a clock that was ahead, or before the clock was set back. Without this they
    would dwell, and count no evidence, until the clock has caught up.
    """
    ahead = sa.select(rollout.c.id, rollout.c.since, rollout.c.deadline).where(
        sa.text(OPEN), rollout.c.since > now + CLOCK_TOLERANCE
    )
    for row in connection.execute(ahead).all():
        restarted = {"since": now, "deadline": row.deadline - (row.since - now)}
        connection.execute(rollout.update().where(rollout.c.id == row.id).values(**restarted))


def request_abort(store: Store, rollout_id: str, why: audit.Why) -> Rollout:
    """Request that the controller undo a rollout, in whatever phase it is.

    Raises:
        RolloutError: when there is no such rollout, or it has ended.
    """
    with store.write() as connection:
        row = _read_rollout(connection, rollout_id)
        if row.phase.final:
            raise RolloutError(
                f"rollout {rollout_id} ended as {row.phase}; to take {row.to_version} back, "
                "roll back the service"
            )
        write_abort(connection, row, why)
        return _read_rollout(connection, rollout_id)


def write_abort(connection: sa.Connection, row: Rollout, why: audit.Why) -> None:
    """Write the request that a rollout be undone, inside the caller's transaction.

    Its A/B test, where it carries one that runs, stops with it.
    """
    asked = f"{why.actor}: {why.reason}" if why.reason else why.actor
    connection.execute(rollout.update().where(rollout.c.id == row.id).values(abort_requested=asked))
    stop_test_of(connection, row.id, f"stopped by {asked}", why)
    audit.record(
        connection,
        why,
        action="abort_rollout",
        service=row.service,
        subject=row.to_version,
        after={"rollout": row.id},
    )


def get_rollout(store: Store, rollout_id: str) -> Rollout:
    """The rollout with this id.

    Raises:
        RolloutNotFound: when there is no such rollout.
    """
    with store.read() as connection:
        return _read_rollout(connection, rollout_id)


def read_rollout_of_request(connection: sa.Connection, request: RequestKey) -> Rollout | None:
    """The rollout that a request made; None where it has made none.

    Raises:
        RequestKeyReused: when the key is that of another request.
    """
    query = sa.select(rollout).where(rollout.c.request_key == request.key)
    row = connection.execute(query).first()
    if row is None:
        return None
    request.check_repeat(row.id, row.request_digest)
    return build_rollout(row)


def open_rollouts(connection: sa.Connection, service: str | None = None) -> tuple[Rollout, ...]:
    """Every rollout that has begun or is about to, and has not ended, oldest first."""
    return _read_in_phase(connection, OPEN, service)


def open_rollout(connection: sa.Connection, service: str) -> Rollout | None:
    """The open rollout of a service."""
    return next(iter(open_rollouts(connection, service)), None)


def lock_open_rollout(connection: sa.Connection, service: str) -> Rollout | None:
    """The open rollout of a service, locked until the caller's transaction ends."""
    query = sa.select(rollout).where(sa.text(OPEN), rollout.c.service == service)
    row = connection.execute(query.with_for_update()).first()
    return None if row is None else build_rollout(row)


def waiting_rollouts(connection: sa.Connection, service: str | None = None) -> tuple[Rollout, ...]:
    """Every rollout that waits until it may begin, oldest first."""
    return _read_in_phase(connection, WAITING, service)


def lock_waiting_rollout(connection: sa.Connection, service: str) -> Rollout | None:
    """The waiting rollout of a service, locked until the caller's transaction ends."""
    query = sa.select(rollout).where(sa.text(WAITING), rollout.c.service == service)
    row = connection.execute(query.with_for_update()).first()
    return None if row is None else build_rollout(row)


def newest_rollout_of(store: Store, model_id: str) -> Rollout | None:
    """The newest rollout of a version; None where nobody has requested one."""
    query = sa.select(rollout).where(rollout.c.to_version == model_id)
    with store.read() as connection:
        row = connection.execute(query.order_by(rollout.c.requested_at.desc())).first()
    return None if row is None else build_rollout(row)


def newest_of_strategy(connection: sa.Connection, service: str, strategy: str) -> Rollout | None:
    """The newest rollout of a service by this strategy; None before the first."""
    query = (
        sa.select(rollout)
        .where(rollout.c.service == service, rollout.c.strategy == strategy)
        .order_by(rollout.c.requested_at.desc(), rollout.c.id)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else build_rollout(row)


def was_promoted(store: Store, rollout_id: str) -> bool:
    """Whether a rollout made its version the champion, which may have been reverted since."""
    promoted = sa.select(sa.func.count()).where(
        rollout_event.c.rollout_id == rollout_id, rollout_event.c.to_phase == Phase.PROMOTED
    )
    with store.read() as connection:
        return bool(connection.execute(promoted).scalar_one())


def began_at(connection: sa.Connection, rollout_id: str) -> datetime:
    """When a rollout was requested, or for one that waited, when it began."""
    first = sa.select(sa.func.min(rollout_event.c.at)).where(
        rollout_event.c.rollout_id == rollout_id, rollout_event.c.to_phase != Phase.WAITING
    )
    began: datetime = connection.execute(first).scalar_one()
    return began


def open_targets(connection: sa.Connection) -> dict[str, str]:
    """The version that an open rollout brings live, by service."""
    query = sa.select(rollout.c.service, rollout.c.to_version).where(sa.text(OPEN))
    return {row.service: row.to_version for row in connection.execute(query)}


def list_rollouts(store: Store, *, service: str | None = None) -> tuple[Rollout, ...]:
    """Rollouts of one service or of all, newest first."""
    query = sa.select(rollout).order_by(rollout.c.requested_at.desc(), rollout.c.id)
    if service is not None:
        query = query.where(rollout.c.service == service)
    with store.read() as connection:
        return tuple(build_rollout(row) for row in connection.execute(query))


def list_events(store: Store, rollout_id: str) -> tuple[RolloutEvent, ...]:
    """The events of a rollout, oldest first."""
    query = sa.select(rollout_event).where(rollout_event.c.rollout_id == rollout_id)
    with store.read() as connection:
        rows = connection.execute(query.order_by(rollout_event.c.seq)).all()
    return tuple(
        RolloutEvent(
            **dict(row._mapping)
            | {
                "from_phase": None if row.from_phase is None else Phase(row.from_phase),
                "to_phase": Phase(row.to_phase),
            }
        )
        for row in rows
    )


def status_of(connection: sa.Connection, model_ids: set[str]) -> dict[str, Status]:
    """The statuses of these versions by model_id."""
    query = sa.select(version.c.model_id, version.c.status).where(version.c.model_id.in_(model_ids))
    return {row.model_id: Status(row.status) for row in connection.execute(query)}


def _read_in_phase(
    connection: sa.Connection, condition: str, service: str | None
) -> tuple[Rollout, ...]:
    query = sa.select(rollout).where(sa.text(condition))
    if service is not None:
        query = query.where(rollout.c.service == service)
    rows = connection.execute(query.order_by(rollout.c.requested_at, rollout.c.id))
    return tuple(build_rollout(row) for row in rows)


def _read_rollout(connection: sa.Connection, rollout_id: str) -> Rollout:
    row = connection.execute(sa.select(rollout).where(rollout.c.id == rollout_id)).first()
    if row is None:
        raise RolloutNotFound(f"no rollout {rollout_id!r}; list them with list_rollouts()")
    return build_rollout(row)


def _next_event_number(connection: sa.Connection, rollout_id: str) -> tuple[int, int]:
    """The number of a rollout's next event, and the newest term of the controller so far."""
    newest = sa.select(sa.func.max(rollout_event.c.seq), sa.func.max(rollout_event.c.term)).where(
        rollout_event.c.rollout_id == rollout_id
    )
    number, term = connection.execute(newest).one()
    return int(number) + 1, int(term)


def build_rollout(row: sa.Row[Any]) -> Rollout:
    values = dict(row._mapping)
    return Rollout(**values | {"phase": Phase(values["phase"])})
