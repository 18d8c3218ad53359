"""The queue of triggers, which are the reasons to retrain a service.

    waiting -> claimed -> answered
       ^----------+        the training failed, or it came too early
                  +-> dropped after `MAX_ATTEMPTS`

The row counts; the Prefect event only starts a flow that reads the queue. One training claims and
answers all triggers of a service that wait, while it holds the service's training lease. A trigger
that is claimed while nobody holds the lease was left by a training that failed or died: the next
holder lets it wait again.

Cooldown, daily budget and the silence after a refusal count by the caller's time from claim to
claim, so that a year can be rehearsed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from typing import Any

import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store.engine import Connection, Store
from mlops.store.leases import Lease, held_names, require_held
from mlops.store.schema import route, trigger
from mlops.store.sql import insert_new

MAX_ATTEMPTS = 3
"""A trigger is dropped after so many trainings have failed on it."""

DAY = timedelta(days=1)


class Cause(StrEnum):
    """The source of a trigger."""

    DRIFT = "drift"
    PERFORMANCE = "performance"
    SCHEDULE = "schedule"
    PERSON = "person"


class TriggerState(StrEnum):
    """The state of a trigger in the queue."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    ANSWERED = "answered"
    DROPPED = "dropped"


class Answer(StrEnum):
    """The result of the training that claimed a trigger."""

    CHALLENGER = "challenger"
    REFUSED = "refused"
    TOO_EARLY = "too_early"
    FAILED = "failed"


_ALARMS = (Cause.DRIFT, Cause.PERFORMANCE)
_OPEN = (TriggerState.WAITING, TriggerState.CLAIMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerReason:
    """Why a service should be retrained.

    ``watermark`` is the newest bar of the verdict: a cause and watermark have at most one trigger,
    ever. ``champion`` is the version that was judged, ``verdict`` the id of the row with the
    verdict, ``columns`` the columns that a drift alarm names.
    """

    service: str
    cause: Cause
    watermark: str
    champion: str
    text: str
    verdict: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerLimits:
    """How often triggers may train a service.

    ``cooldown`` is the shortest time between two claims, ``per_day`` the most claims in 24 hours.
    An alarm whose training was refused raises no trigger for ``deaf`` while the champion is the
    same; an alarm about another column is another alarm.
    """

    cooldown: timedelta = timedelta(hours=6)
    per_day: int = 2
    deaf: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A trigger with its state and answer."""

    id: str
    service: str
    cause: Cause
    watermark: str
    champion: str
    text: str
    verdict: str | None
    detail: Mapping[str, Any]
    raised_at: datetime
    state: TriggerState
    attempts: int
    claim: str | None
    claimed_by: str | None
    claimed_at: datetime | None
    answer: Answer | None
    model_id: str | None
    answered_at: datetime | None
    not_before: datetime | None

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the alarm names."""
        return frozenset(self.detail.get("columns", ()))


@dataclass(frozen=True, slots=True)
class Claim:
    """The triggers that one training answers; ``at`` is the market time of the claim."""

    id: str
    service: str
    at: datetime
    triggers: tuple[TriggerRow, ...]


def raise_trigger(
    connection: Connection,
    reason: TriggerReason,
    *,
    at: datetime,
    limits: TriggerLimits | None = None,
) -> str | None:
    """Put a reason into the queue, inside the caller's transaction; its id.

    None where it was there before, what waits asks for the same, or its cause led to a refusal
    lately.
    """
    limits = limits or TriggerLimits()
    if reason.cause in _ALARMS and (
        _is_queued(connection, reason) or _was_refused(connection, reason, since=at - limits.deaf)
    ):
        return None
    row = {
        "id": str(uuid.uuid4()),
        "service": reason.service,
        "cause": reason.cause,
        "watermark": reason.watermark,
        "champion": reason.champion,
        "text": reason.text,
        "verdict": reason.verdict,
        "detail": {"columns": list(reason.columns)},
        "raised_at": at,
        "state": TriggerState.WAITING,
        "attempts": 0,
    }
    return str(row["id"]) if insert_new(connection, trigger, [row]) else None


def training_lease(service: str) -> str:
    """The name of the lease that a training of the service holds."""
    return f"training:{service}"


def claim_triggers(
    store: Store,
    service: str,
    run: str,
    *,
    lease: Lease,
    at: datetime,
    limits: TriggerLimits | None = None,
) -> Claim | None:
    """Claim all triggers that wait for a service; None if none waits or a limit forbids it.

    Args:
        store: The store.
        service: Key of the service.
        run: Id of the run that will train; stored with the triggers.
        lease: The service's training lease.
        at: Market time (UTC), by which the limits count.
        limits: How often the service may be trained.

    Raises:
        LeaseLost: when another training has held the lease.
    """
    limits = limits or TriggerLimits()
    with store.write() as connection:
        _requeue_abandoned(connection, service, lease)
        rows = _read_queue(connection, trigger.c.service == service, lock=True)
        waiting = [row.id for row in rows if row.state is TriggerState.WAITING]
        if not waiting or _is_too_soon(rows, at, limits):
            return None
        claim = str(uuid.uuid4())
        connection.execute(
            trigger.update()
            .where(trigger.c.id.in_(waiting))
            .values(
                state=TriggerState.CLAIMED,
                claim=claim,
                claimed_by=run,
                claimed_at=at,
                attempts=trigger.c.attempts + 1,
            )
        )
        taken = _read_queue(connection, trigger.c.claim == claim)
    return Claim(claim, service, at, taken)


def postpone_triggers(store: Store, service: str, *, lease: Lease, until: datetime) -> int:
    """Postpone a service's waiting triggers until a market time; returns how many.

    No training was tried, so neither the cooldown nor the daily budget counts it.

    Raises:
        LeaseLost: when another training has held the service's training lease.
    """
    waits = (trigger.c.service == service, trigger.c.state == TriggerState.WAITING)
    with store.write() as connection:
        _requeue_abandoned(connection, service, lease)
        done = connection.execute(
            trigger.update().where(*waits).values(answer=Answer.TOO_EARLY, not_before=until)
        )
    return int(done.rowcount)


def answer_triggers(
    connection: Connection,
    claim: Claim,
    answer: Answer,
    *,
    at: datetime,
    model_id: str | None = None,
    not_before: datetime | None = None,
) -> None:
    """Answer the triggers of a claim, inside the transaction that writes the result.

    After ``TOO_EARLY`` the triggers wait for another training until ``not_before``.

    Args:
        connection: The caller's transaction, fenced by the service's training lease.
        claim: The claim.
        answer: The result of the training.
        at: Market time of the answer (UTC).
        model_id: The version that was trained, if any.
        not_before: Market time before which the triggers are not claimed again.

    Raises:
        StoreError: when another training has claimed the triggers since.
    """
    values: dict[str, Any] = {
        "state": TriggerState.ANSWERED,
        "answer": answer,
        "model_id": model_id,
        "answered_at": at,
        "not_before": not_before,
    }
    if answer is Answer.TOO_EARLY:
        values |= {"state": TriggerState.WAITING, "attempts": 0}
    claimed = (trigger.c.claim == claim.id, trigger.c.state == TriggerState.CLAIMED)
    answered = connection.execute(trigger.update().where(*claimed).values(**values)).rowcount
    if answered != len(claim.triggers):
        raise StoreError(
            f"the triggers of {claim.service} that this training would answer were claimed by "
            "another one since; nothing was changed"
        )


def get_trigger(store: Store, trigger_id: str) -> TriggerRow | None:
    """The trigger with this id; None if there is no such row."""
    with store.read() as connection:
        return next(iter(_read_queue(connection, trigger.c.id == trigger_id)), None)


def list_triggers(store: Store, service: str | None = None) -> tuple[TriggerRow, ...]:
    """Triggers, the oldest first."""
    with store.read() as connection:
        return _read_queue(connection, *([] if service is None else [trigger.c.service == service]))


def read_triggers(connection: Connection, service: str) -> tuple[TriggerRow, ...]:
    """A service's triggers, the oldest first, inside the caller's transaction."""
    return _read_queue(connection, trigger.c.service == service)


def list_trainable_services(
    store: Store, *, at: Callable[[str], datetime], limits: TriggerLimits | None = None
) -> tuple[tuple[str, Cause], ...]:
    """Services with triggers that a training could claim now, and the first cause of each.

    Services whose training died are among them, those that are being trained are not.

    Args:
        store: The store.
        at: Returns the market time of a service, by which the limits count.
        limits: How often a service may be trained.
    """
    limits = limits or TriggerLimits()
    retired = sa.select(route.c.service).where(route.c.retired_at.is_not(None))
    with store.read() as connection:
        training = held_names(connection)
        services = connection.execute(
            sa.select(trigger.c.service)
            .where(trigger.c.state.in_(_OPEN), trigger.c.service.not_in(retired))
            .distinct()
            .order_by(trigger.c.service)
        ).scalars()
        queues = {
            service: _read_queue(connection, trigger.c.service == service)
            for service in services
            if training_lease(service) not in training
        }
    return tuple(
        (service, next(row.cause for row in rows if row.state in _OPEN))
        for service, rows in queues.items()
        if not _is_too_soon(rows, at(service), limits)
    )


def _read_queue(
    connection: Connection, *conditions: sa.ColumnElement[bool], lock: bool = False
) -> tuple[TriggerRow, ...]:
    query = sa.select(trigger).where(*conditions).order_by(trigger.c.raised_at, trigger.c.id)
    if lock:
        query = query.with_for_update()
    return tuple(build_trigger(row) for row in connection.execute(query))


def build_trigger(row: sa.Row[Any]) -> TriggerRow:
    """The trigger of a whole row of the table."""
    return TriggerRow(
        **{name: getattr(row, name) for name in TriggerRow.__slots__}
        | {
            "cause": Cause(row.cause),
            "state": TriggerState(row.state),
            "answer": None if row.answer is None else Answer(row.answer),
        }
    )


def _is_queued(connection: Connection, reason: TriggerReason) -> bool:
    """Whether triggers about all its columns wait already: a lasting alarm is queued once."""
    waiting = _read_queue(connection, *_same_alarm(reason), trigger.c.state == TriggerState.WAITING)
    return bool(waiting) and _all_columns(waiting).issuperset(reason.columns)


def _was_refused(connection: Connection, reason: TriggerReason, *, since: datetime) -> bool:
    """Whether the last answers since then were refusals that cover all its columns."""
    rows = _read_queue(
        connection,
        *_same_alarm(reason),
        trigger.c.state == TriggerState.ANSWERED,
        trigger.c.claimed_at > since,
    )
    refused = list(takewhile(lambda row: row.answer is Answer.REFUSED, reversed(rows)))
    return bool(refused) and _all_columns(refused).issuperset(reason.columns)


def _same_alarm(reason: TriggerReason) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        trigger.c.service == reason.service,
        trigger.c.cause == reason.cause,
        trigger.c.champion == reason.champion,
    )


def _all_columns(rows: Iterable[TriggerRow]) -> frozenset[str]:
    return frozenset[str]().union(*(row.columns for row in rows))


def _requeue_abandoned(connection: Connection, service: str, lease: Lease) -> None:
    """Let triggers that a failed training left claimed wait again, or drop them at last."""
    require_held(connection, lease)
    spent = trigger.c.attempts >= MAX_ATTEMPTS
    connection.execute(
        trigger.update()
        .where(trigger.c.service == service, trigger.c.state == TriggerState.CLAIMED)
        .values(
            state=sa.case((spent, TriggerState.DROPPED), else_=TriggerState.WAITING),
            answer=Answer.FAILED,
        )
    )


def _is_too_soon(rows: Sequence[TriggerRow], at: datetime, limits: TriggerLimits) -> bool:
    """Whether a postponement or the limits forbid a claim now; failed claims count too.

    A claim of the future does not count: it was made before the clock was set back.
    """
    waiting = [row.not_before for row in rows if row.state is TriggerState.WAITING]
    if any(time is not None and time > at for time in waiting):
        return True
    claims = {row.claim: row.claimed_at for row in rows if row.claimed_at is not None}
    times = [time for time in claims.values() if at - DAY < time <= at]
    lately = any(time > at - limits.cooldown for time in times)
    return lately or len(times) >= limits.per_day
