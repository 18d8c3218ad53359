"""The queue of triggers, which are the reasons to retrain a service.

    waiting -> claimed -> answered
       ^----------+        the claim expired, the training failed, or it came too early
                  +-> dropped after `MAX_ATTEMPTS`

The row counts; the Prefect event only starts a flow that reads the queue. One training claims and
answers all triggers of a service that wait. A claim is a lease: a holder that let the claim expire
can no longer answer, and another training claims the triggers again.

Cooldown, daily budget and the silence after a refusal count by the caller's time from claim to
claim, so that a year can be rehearsed; claims expire by the database's clock.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from typing import Any

import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store.engine import Connection, Store
from mlops.store.schema import trigger
from mlops.store.sql import db_now, insert_new

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
    """The right to answer these triggers while it is renewed; ``at`` is market time."""

    id: str
    service: str
    holder: str
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


def claim_triggers(
    store: Store,
    service: str,
    holder: str,
    *,
    at: datetime,
    seconds: float,
    limits: TriggerLimits | None = None,
) -> Claim | None:
    """Claim all triggers that wait for a service; None if none waits or a limit forbids it.

    Args:
        store: The store.
        service: Key of the service.
        holder: Name of the run that will train; it must differ between runs.
        at: Market time (UTC), by which the limits count.
        seconds: How long the claim lasts unless it is renewed, by the database's clock.
        limits: How often the service may be trained.
    """
    limits = limits or TriggerLimits()
    with store.write() as connection:
        _requeue_expired(connection, service)
        rows = _read_queue(connection, trigger.c.service == service, lock=True)
        if any(row.state is TriggerState.CLAIMED for row in rows):
            return None
        waiting = [row for row in rows if row.state is TriggerState.WAITING]
        if not waiting or _is_too_soon(rows, at, limits):
            return None
        claim = str(uuid.uuid4())
        connection.execute(
            trigger.update()
            .where(trigger.c.id.in_([row.id for row in waiting]))
            .values(
                state=TriggerState.CLAIMED,
                claim=claim,
                claimed_by=holder,
                claimed_at=at,
                claimed_until=db_now() + seconds,
                attempts=trigger.c.attempts + 1,
            )
        )
        taken = _read_queue(connection, trigger.c.claim == claim)
    return Claim(claim, service, holder, at, taken)


def renew_claim(store: Store, claim: Claim, *, seconds: float) -> None:
    """Renew a claim for ``seconds``.

    Raises:
        StoreError: when the claim expired.
    """
    with store.write() as connection:
        _update_claimed(connection, claim, {"claimed_until": db_now() + seconds})


def postpone_triggers(store: Store, service: str, *, until: datetime) -> int:
    """Postpone a service's waiting triggers until a market time; returns how many.

    No training was tried, so neither the cooldown nor the daily budget counts it.
    """
    waits = (trigger.c.service == service, trigger.c.state == TriggerState.WAITING)
    with store.write() as connection:
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

    After ``FAILED`` the triggers wait for another training, at most `MAX_ATTEMPTS` times; after
    ``TOO_EARLY`` they wait until ``not_before``.

    Args:
        connection: The caller's transaction.
        claim: The claim.
        answer: The result of the training.
        at: Market time of the answer (UTC).
        model_id: The version that was trained, if any.
        not_before: Market time before which the triggers are not claimed again.

    Raises:
        StoreError: when the claim expired; the caller must not write its result.
    """
    values: dict[str, Any] = {
        "answer": answer,
        "model_id": model_id,
        "answered_at": at,
        "not_before": not_before,
    }
    state: Any = TriggerState.ANSWERED
    if answer is Answer.TOO_EARLY:
        state, values["attempts"] = TriggerState.WAITING, 0
    if answer is Answer.FAILED:
        state = sa.case(
            (trigger.c.attempts >= MAX_ATTEMPTS, TriggerState.DROPPED), else_=TriggerState.WAITING
        )
    _update_claimed(connection, claim, {**values, "state": state, "claimed_until": 0.0})


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

    Services whose training died are among them.

    Args:
        store: The store.
        at: Returns the market time of a service, by which the limits count.
        limits: How often a service may be trained.
    """
    limits = limits or TriggerLimits()
    open_ones = trigger.c.state.in_((TriggerState.WAITING, TriggerState.CLAIMED))
    expired = sa.and_(trigger.c.state == TriggerState.CLAIMED, trigger.c.claimed_until <= db_now())
    with store.read() as connection:
        expired_ids = set(connection.execute(sa.select(trigger.c.id).where(expired)).scalars())
        services = connection.execute(
            sa.select(trigger.c.service).where(open_ones).distinct().order_by(trigger.c.service)
        ).scalars()
        queues = [
            (service, _read_queue(connection, trigger.c.service == service)) for service in services
        ]
    return tuple(
        (service, cause)
        for service, rows in queues
        if (cause := _first_open_cause(rows, expired_ids)) is not None
        and not _is_too_soon(rows, at(service), limits)
    )


def _read_queue(
    connection: Connection, *conditions: sa.ColumnElement[bool], lock: bool = False
) -> tuple[TriggerRow, ...]:
    query = sa.select(trigger).where(*conditions).order_by(trigger.c.raised_at, trigger.c.id)
    if lock:
        query = query.with_for_update()
    return tuple(
        TriggerRow(
            **{name: getattr(row, name) for name in TriggerRow.__slots__}
            | {
                "cause": Cause(row.cause),
                "state": TriggerState(row.state),
                "answer": None if row.answer is None else Answer(row.answer),
            }
        )
        for row in connection.execute(query)
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


def _requeue_expired(connection: Connection, service: str) -> None:
    """Let triggers of expired claims wait again, or drop them after `MAX_ATTEMPTS`."""
    spent = trigger.c.attempts >= MAX_ATTEMPTS
    connection.execute(
        trigger.update()
        .where(
            trigger.c.service == service,
            trigger.c.state == TriggerState.CLAIMED,
            trigger.c.claimed_until <= db_now(),
        )
        .values(
            state=sa.case((spent, TriggerState.DROPPED), else_=TriggerState.WAITING),
            answer=Answer.FAILED,
        )
    )


def _first_open_cause(rows: Sequence[TriggerRow], expired_ids: Collection[str]) -> Cause | None:
    """First cause among waiting or expired triggers; None if a live claim exists or none waits."""
    claimed = [row for row in rows if row.state is TriggerState.CLAIMED]
    if any(row.id not in expired_ids for row in claimed):
        return None
    waiting = [row for row in rows if row.state is TriggerState.WAITING]
    return next((row.cause for row in (*claimed, *waiting)), None)


def _is_too_soon(rows: Sequence[TriggerRow], at: datetime, limits: TriggerLimits) -> bool:
    """Whether a postponement or the limits forbid a claim now; failed claims count too."""
    waiting = [row.not_before for row in rows if row.state is TriggerState.WAITING]
    if any(time is not None and time > at for time in waiting):
        return True
    claims = {row.claim: row.claimed_at for row in rows if row.claimed_at is not None}
    times = [time for time in claims.values() if time is not None and time > at - DAY]
    lately = any(time > at - limits.cooldown for time in times)
    return lately or len(times) >= limits.per_day


def _update_claimed(connection: Connection, claim: Claim, values: Mapping[str, Any]) -> None:
    held = (
        trigger.c.claim == claim.id,
        trigger.c.claimed_by == claim.holder,
        trigger.c.state == TriggerState.CLAIMED,
        trigger.c.claimed_until > db_now(),
    )
    updated = connection.execute(trigger.update().where(*held).values(**values)).rowcount
    if updated != len(claim.triggers):
        raise StoreError(
            f"the claim of {claim.holder} on the triggers of {claim.service} ran out; another "
            "training may be at it, and nothing was changed"
        )
