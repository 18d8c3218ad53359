"""Reasons to retrain, in one queue: whoever trains claims them, and what is claimed is answered.

The event that rings in Prefect is only a doorbell; what counts is the row. All that waits for a
service is answered by one training. A claim is a lease: who lets it run out can no longer
answer, and the next one claims it again.

Cooldown, daily budget and deafness count by the caller's time from claim to claim, so that a year
can be rehearsed; that a claim lasts is the database's clock.
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
"""Trainings that may die over a trigger before it is dropped."""

DAY = timedelta(days=1)


class Cause(StrEnum):
    """What wants a retraining."""

    DRIFT = "drift"
    PERFORMANCE = "performance"
    SCHEDULE = "schedule"
    PERSON = "person"


class TriggerState(StrEnum):
    """Where a trigger is."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    ANSWERED = "answered"
    DROPPED = "dropped"


class Answer(StrEnum):
    """What a training made of its triggers."""

    CHALLENGER = "challenger"
    REFUSED = "refused"
    TOO_EARLY = "too_early"
    FAILED = "failed"


_ALARMS = (Cause.DRIFT, Cause.PERFORMANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerReason:
    """Why a service should be trained anew.

    ``watermark`` is the newest bar the verdict rests on: of one cause and watermark there is one
    trigger for ever. ``champion`` is the version the verdict is about, ``verdict`` the id of the
    row that holds it. ``columns`` are those the alarm is about, where it is about any.
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
    """How often a service may be trained because of triggers.

    A cause whose last training was refused is deaf for ``deaf`` where the champion is the same:
    the alarm that led to nothing must not ring on. One that is about another column is another
    alarm.
    """

    cooldown: timedelta = timedelta(hours=6)
    per_day: int = 2
    deaf: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A trigger and what became of it."""

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
        """The columns it is about."""
        return frozenset(self.detail.get("columns", ()))


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer these triggers, for as long as it is renewed; ``at`` is market time."""

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
    if _waits(connection, reason) or _deaf(connection, reason, since=at - limits.deaf):
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
    """Take everything that waits for a service; None where nothing does, or it is too soon.

    ``seconds`` is how long the claim lasts unless it is renewed.
    """
    limits = limits or TriggerLimits()
    with store.write() as connection:
        _give_back_dead(connection, service)
        rows = _read(connection, trigger.c.service == service, lock=True)
        if any(row.state is TriggerState.CLAIMED for row in rows):
            return None
        waiting = [row for row in rows if row.state is TriggerState.WAITING]
        if not waiting or _too_soon(rows, at, limits):
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
        taken = _read(connection, trigger.c.claim == claim)
    return Claim(claim, service, holder, at, taken)


def renew_claim(store: Store, claim: Claim, *, seconds: float) -> None:
    """Keep a claim for ``seconds`` more.

    Raises:
        StoreError: when it ran out, or another process has it.
    """
    with store.write() as connection:
        done = connection.execute(
            trigger.update().where(*_held(claim)).values(claimed_until=db_now() + seconds)
        )
        _refuse_unless(done.rowcount == len(claim.triggers), claim)


def postpone_triggers(store: Store, service: str, *, until: datetime) -> int:
    """Let what waits for a service wait until then (market time); how many triggers do.

    Nothing was tried, so neither the cooldown nor the budget of a day counts it.
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
    """Say what came of a claim, inside the transaction that makes it so.

    A training that failed leaves its triggers to the next one, `MAX_ATTEMPTS` times; one that
    came too early leaves them too, and nobody trains before ``not_before`` (market time).

    Raises:
        StoreError: when the claim ran out: the caller is late, and nothing may be changed.
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
    done = connection.execute(
        trigger.update().where(*_held(claim)).values(state=state, claimed_until=0.0, **values)
    )
    _refuse_unless(done.rowcount == len(claim.triggers), claim)


def get_trigger(store: Store, trigger_id: str) -> TriggerRow | None:
    """One trigger, None where there is no such row."""
    with store.read() as connection:
        return next(iter(_read(connection, trigger.c.id == trigger_id)), None)


def list_triggers(store: Store, service: str | None = None) -> tuple[TriggerRow, ...]:
    """Triggers, the oldest first."""
    with store.read() as connection:
        return _read(connection, *([] if service is None else [trigger.c.service == service]))


def read_triggers(connection: Connection, service: str) -> tuple[TriggerRow, ...]:
    """A service's triggers, the oldest first, inside the caller's transaction."""
    return _read(connection, trigger.c.service == service)


def list_trainable_services(
    store: Store, *, at: Callable[[str], datetime], limits: TriggerLimits | None = None
) -> tuple[tuple[str, Cause], ...]:
    """Services that could be trained now and are not, with why: somebody should ring for them.

    Those whose training died are among them. ``at`` is the time a service is asked at.
    """
    limits = limits or TriggerLimits()
    open_ones = trigger.c.state.in_((TriggerState.WAITING, TriggerState.CLAIMED))
    lost = sa.and_(trigger.c.state == TriggerState.CLAIMED, trigger.c.claimed_until <= db_now())
    with store.read() as connection:
        gone = set(connection.execute(sa.select(trigger.c.id).where(lost)).scalars())
        services = connection.execute(
            sa.select(trigger.c.service).where(open_ones).distinct().order_by(trigger.c.service)
        ).scalars()
        found = [(service, _read(connection, trigger.c.service == service)) for service in services]
    return tuple(
        (service, cause)
        for service, rows in found
        if (cause := _rings(rows, gone)) is not None and not _too_soon(rows, at(service), limits)
    )


# Parts -------------------------------------------------------------------------------------------


def _read(
    connection: Connection, *conditions: sa.ColumnElement[bool], lock: bool = False
) -> tuple[TriggerRow, ...]:
    query = sa.select(trigger).where(*conditions).order_by(trigger.c.raised_at, trigger.c.id)
    if lock:
        query = query.with_for_update()
    return tuple(_row(row) for row in connection.execute(query))


def _row(row: sa.Row[Any]) -> TriggerRow:
    values = {name: getattr(row, name) for name in TriggerRow.__slots__}
    values["cause"] = Cause(values["cause"])
    values["state"] = TriggerState(values["state"])
    values["answer"] = None if values["answer"] is None else Answer(values["answer"])
    return TriggerRow(**values)


def _waits(connection: Connection, reason: TriggerReason) -> bool:
    """Whether all it is about waits already: an alarm that lasts asks once, not every hour."""
    if reason.cause not in _ALARMS:
        return False
    waiting = _read(connection, *_of_kind(reason), trigger.c.state == TriggerState.WAITING)
    return bool(waiting) and _columns(waiting).issuperset(reason.columns)


def _deaf(connection: Connection, reason: TriggerReason, *, since: datetime) -> bool:
    """Whether all it is about led to refusals since, and to nothing else after them."""
    if reason.cause not in _ALARMS:
        return False
    rows = _read(
        connection,
        *_of_kind(reason),
        trigger.c.state == TriggerState.ANSWERED,
        trigger.c.claimed_at > since,
    )
    refused = list(takewhile(lambda row: row.answer is Answer.REFUSED, reversed(rows)))
    return bool(refused) and _columns(refused).issuperset(reason.columns)


def _of_kind(reason: TriggerReason) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        trigger.c.service == reason.service,
        trigger.c.cause == reason.cause,
        trigger.c.champion == reason.champion,
    )


def _columns(rows: Iterable[TriggerRow]) -> frozenset[str]:
    return frozenset[str]().union(*(row.columns for row in rows))


def _give_back_dead(connection: Connection, service: str) -> None:
    """Claims that ran out wait again, or are dropped where too many trainings died over them."""
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


def _rings(rows: Sequence[TriggerRow], gone: Collection[str]) -> Cause | None:
    """The first cause that nobody is at; None where a training is, or nothing waits."""
    claimed = [row for row in rows if row.state is TriggerState.CLAIMED]
    if any(row.id not in gone for row in claimed):
        return None
    waiting = [row for row in rows if row.state is TriggerState.WAITING]
    return next((row.cause for row in (*claimed, *waiting)), None)


def _too_soon(rows: Sequence[TriggerRow], at: datetime, limits: TriggerLimits) -> bool:
    """By what came too early, and by earlier claims; a failed one cost as much as any."""
    waiting = [row.not_before for row in rows if row.state is TriggerState.WAITING]
    if any(time is not None and time > at for time in waiting):
        return True
    claims = {row.claim: row.claimed_at for row in rows if row.claimed_at is not None}
    times = [time for time in claims.values() if time is not None and time > at - DAY]
    lately = any(time > at - limits.cooldown for time in times)
    return lately or len(times) >= limits.per_day


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        trigger.c.claim == claim.id,
        trigger.c.claimed_by == claim.holder,
        trigger.c.state == TriggerState.CLAIMED,
        trigger.c.claimed_until > db_now(),
    )


def _refuse_unless(right: bool, claim: Claim) -> None:
    if not right:
        raise StoreError(
            f"the claim of {claim.holder} on the triggers of {claim.service} ran out; another "
            "training may be at it, and nothing was changed"
        )
