"""Alerts, their notices, and the delivery of each notice on each channel.

    alert: raised -> lasting -> recovered           one row per trouble, counted when seen again
    notice: raised, reminder or recovered           one row per event that people are told of
    delivery: waiting -> sent or given up           one row per notice and channel
              waiting -> refused -> sent or given up

A channel that is down holds up no other channel. Rows of an ended alert are kept for ALERT_DAYS
(`mlops.store.retention`). Alerts are timed by the caller, deliveries by the database's clock.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.store.engine import Connection, Store
from mlops.store.schema import alert, alert_delivery, alert_notice
from mlops.store.sql import db_now, insert_new, is_held, is_recent

REMIND_AFTER = timedelta(hours=24)
"""Interval of the reminders while a trouble lasts."""

KEEP_TRYING_S = 3 * 86_400.0
"""A notice older than this is not sent any more."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 900.0
"""Back-off of a failed delivery: the pause doubles from the first to the longest."""

HOUR_S = 3600.0


class Condition(StrEnum):
    """What an alert is about."""

    PERFORMANCE_DEGRADED = "performance_degraded"
    DATA_DRIFT = "data_drift"
    SYSTEM_TROUBLE = "system_trouble"
    DEPLOYMENT_FAILED = "deployment_failed"
    DATA_QUALITY = "data_quality"


class Severity(StrEnum):
    """How soon a person should act: today (warning) or now (critical)."""

    WARNING = "warning"
    CRITICAL = "critical"


class Occasion(StrEnum):
    """The event that a notice reports."""

    RAISED = "raised"
    REMINDER = "reminder"
    RECOVERED = "recovered"


class DeliveryState(StrEnum):
    """The state of a notice on one channel; a refused one is sent again, but alone."""

    WAITING = "waiting"
    REFUSED = "refused"
    SENT = "sent"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong; condition, service and subject together identify a trouble.

    ``subject`` distinguishes troubles of one service: a model_id, a feed, a rollout's service.
    """

    condition: Condition
    service: str
    subject: str
    title: str
    text: str
    severity: Severity = Severity.WARNING
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Identifies the trouble: condition, service and subject."""
        return f"{self.condition}/{self.service}/{self.subject}"


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One trouble; ``recovered_at`` is None while it lasts."""

    id: str
    key: str
    condition: Condition
    severity: Severity
    service: str
    subject: str
    title: str
    text: str
    detail: Mapping[str, Any]
    raised_at: datetime
    last_seen_at: datetime
    times_seen: int
    recovered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice that a channel is to send, with its alert as the row is now.

    ``attempts`` includes the present one; ``age_s`` is the time since the notice was written.
    """

    id: int
    occasion: Occasion
    at: datetime
    text: str
    attempts: int
    age_s: float
    alert: AlertRow


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery of one notice on one channel."""

    notice_id: int
    occasion: Occasion
    channel: str
    state: DeliveryState
    attempts: int
    error: str


def raise_alert(
    connection: Connection, trouble: Trouble, *, at: datetime, remind_after: timedelta | None = None
) -> bool:
    """Record a trouble inside the caller's transaction; True if a notice was written.

    Args:
        connection: The caller's transaction.
        trouble: What is wrong.
        at: When the caller saw the trouble (UTC).
        remind_after: Interval of the reminders; None for `REMIND_AFTER`.
    """
    known = connection.execute(sa.select(alert).where(*_is_open(trouble.key))).first()
    if known is None:
        return _insert_alert(connection, trouble, at)
    # An observation that arrives late must not set the time back.
    last_seen_at = max(at, known.last_seen_at)
    due = known.told_at + (REMIND_AFTER if remind_after is None else remind_after) <= at
    worse = trouble.severity is Severity.CRITICAL and known.severity != Severity.CRITICAL
    changes: dict[str, Any] = {"last_seen_at": last_seen_at, "times_seen": known.times_seen + 1}
    if due or worse:
        changes |= {"told_at": at, **_texts(trouble)}
        _write_notice(connection, known.id, Occasion.REMINDER, at, trouble.text)
    connection.execute(alert.update().where(alert.c.id == known.id).values(**changes))
    return due or worse


def recover_alert(
    connection: Connection,
    *,
    condition: Condition,
    service: str,
    subject: str,
    at: datetime,
    text: str,
) -> bool:
    """End a trouble inside the caller's transaction; False if there was none."""
    key = f"{condition}/{service}/{subject}"
    known = connection.execute(sa.select(alert.c.id).where(*_is_open(key))).first()
    if known is None:
        return False
    connection.execute(alert.update().where(alert.c.id == known.id).values(recovered_at=at))
    _write_notice(connection, known.id, Occasion.RECOVERED, at, text)
    return True


def is_lasting(connection: Connection, *, condition: Condition, service: str, subject: str) -> bool:
    """Whether a trouble has begun and not ended."""
    key = f"{condition}/{service}/{subject}"
    return connection.execute(sa.select(alert.c.id).where(*_is_open(key))).first() is not None


def read_lasting(connection: Connection, service: str) -> tuple[AlertRow, ...]:
    """The service's alerts that have not ended, in the caller's transaction."""
    query = sa.select(alert).where(alert.c.service == service, alert.c.recovered_at.is_(None))
    return tuple(build_alert(row) for row in connection.execute(query.order_by(alert.c.id)))


def services_with_lasting(
    connection: Connection, *, condition: Condition, subject: str
) -> frozenset[str]:
    """The services for which a trouble of this condition and subject has begun and not ended."""
    query = sa.select(alert.c.service).where(
        alert.c.condition == condition, alert.c.subject == subject, alert.c.recovered_at.is_(None)
    )
    return frozenset(connection.execute(query).scalars())


def list_alerts(
    store: Store, *, service: str | None = None, lasting_only: bool = False
) -> tuple[AlertRow, ...]:
    """Alerts, the newest first."""
    query = sa.select(alert).order_by(alert.c.raised_at.desc(), alert.c.id)
    if service is not None:
        query = query.where(alert.c.service == service)
    if lasting_only:
        query = query.where(alert.c.recovered_at.is_(None))
    with store.read() as connection:
        return tuple(build_alert(row) for row in connection.execute(query))


def list_deliveries(store: Store, alert_id: str) -> tuple[Delivery, ...]:
    """The deliveries of an alert's notices, by notice and channel."""
    query = (
        sa.select(alert_notice.c.occasion, *(alert_delivery.c[name] for name in _DELIVERY))
        .join(alert_notice, alert_notice.c.id == alert_delivery.c.notice_id)
        .where(alert_notice.c.alert_id == alert_id)
        .order_by(alert_delivery.c.notice_id, alert_delivery.c.channel)
    )
    with store.read() as connection:
        return tuple(
            Delivery(
                row.notice_id,
                Occasion(row.occasion),
                row.channel,
                DeliveryState(row.state),
                row.attempts,
                row.error,
            )
            for row in connection.execute(query)
        )


def claim_notices(
    store: Store, channel: str, *, seconds: float, messages_per_hour: int
) -> tuple[Notice, ...]:
    """Claim the waiting notices of a channel, oldest first, so that no other process sends them.

    Empty if no notice is due, or if the channel has sent its messages of this hour; the notices
    are then sent together later. A new notice takes along those that wait for a retry, but for
    those that the channel has refused: they are claimed one by one, when no other notice is due.

    Args:
        store: The store.
        channel: Name of the channel.
        seconds: How long the claim lasts, by the database's clock.
        messages_per_hour: Most messages of this channel in any hour.
    """
    with store.read() as connection:
        # Usually no notice waits, so no write lock is taken.
        if not _has_waiting(connection, channel, seconds):
            return ()
    with store.write() as connection:
        _insert_deliveries(connection, channel)
        waiting = connection.execute(
            sa.select(alert_delivery.c.notice_id, alert_delivery.c.state, _is_due().label("due"))
            .where(
                alert_delivery.c.channel == channel,
                alert_delivery.c.state.in_(_UNSENT),
                ~is_held(alert_delivery.c.claimed_until, seconds),
            )
            .order_by(alert_delivery.c.notice_id)
            .with_for_update(skip_locked=True)
        ).all()
        ids = _choose_notices(waiting)
        if not ids or _messages_of_last_hour(connection, channel) >= messages_per_hour:
            return ()
        connection.execute(
            alert_delivery.update()
            .where(*_deliveries_of(channel, ids))
            .values(claimed_until=db_now() + seconds, attempts=alert_delivery.c.attempts + 1)
        )
        return _read_notices(connection, channel, ids)


def _choose_notices(unsent: Sequence[sa.Row[Any]]) -> list[int]:
    """All that wait, where one of them is due; else the oldest refused one that is due."""
    waiting = [row for row in unsent if row.state == DeliveryState.WAITING]
    if any(row.due for row in waiting):
        return [row.notice_id for row in waiting]
    return [row.notice_id for row in unsent if row.due and row.state == DeliveryState.REFUSED][:1]


def note_sent(store: Store, channel: str, notices: Sequence[Notice]) -> None:
    """Mark notices as sent, together in one message."""
    ids = [notice.id for notice in notices]
    with store.write() as connection:
        connection.execute(
            alert_delivery.update()
            .where(*_deliveries_of(channel, ids))
            .values(state=DeliveryState.SENT, sent_at=db_now(), message=str(uuid.uuid4()), error="")
        )


def note_failed(store: Store, channel: str, notices: Sequence[Notice], error: str) -> None:
    """Schedule a retry of notices, or give up those older than `KEEP_TRYING_S`."""
    _schedule_retry(store, channel, notices, error, DeliveryState.WAITING)


def note_refused(store: Store, channel: str, notices: Sequence[Notice], error: str) -> None:
    """As `note_failed`, for notices that are refused for their text: they are retried alone."""
    _schedule_retry(store, channel, notices, error, DeliveryState.REFUSED)


def _schedule_retry(
    store: Store, channel: str, notices: Sequence[Notice], error: str, state: DeliveryState
) -> None:
    with store.write() as connection:
        for notice in notices:
            too_old = notice.age_s > KEEP_TRYING_S
            connection.execute(
                alert_delivery.update()
                .where(*_deliveries_of(channel, [notice.id]))
                .values(state=DeliveryState.GIVEN_UP if too_old else state, error=error)
                .values(due=db_now() + pause_s(notice.attempts), claimed_until=0.0)
            )


def pause_s(attempts: int) -> float:
    """The back-off in seconds after so many failed attempts."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 30)))


_UNSENT = (DeliveryState.WAITING, DeliveryState.REFUSED)
_DELIVERY = ("notice_id", "channel", "state", "attempts", "error")


def _is_open(key: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (alert.c.key == key, alert.c.recovered_at.is_(None))


def _texts(trouble: Trouble) -> dict[str, Any]:
    return {
        "severity": trouble.severity,
        "title": trouble.title,
        "text": trouble.text,
        "detail": dict(trouble.detail),
    }


def _insert_alert(connection: Connection, trouble: Trouble, at: datetime) -> bool:
    row = {
        "id": str(uuid.uuid4()),
        "key": trouble.key,
        "condition": trouble.condition,
        "service": trouble.service,
        "subject": trouble.subject,
        **_texts(trouble),
        "raised_at": at,
        "last_seen_at": at,
        "told_at": at,
        "times_seen": 1,
    }
    if not insert_new(connection, alert, [row]):
        # Another process has just recorded the same trouble.
        return False
    _write_notice(connection, str(row["id"]), Occasion.RAISED, at, trouble.text)
    return True


def _write_notice(
    connection: Connection, alert_id: str, occasion: Occasion, at: datetime, text: str
) -> None:
    connection.execute(
        alert_notice.insert().values(
            alert_id=alert_id, occasion=occasion, at=at, text=text, written_at=db_now()
        )
    )


def _is_due() -> sa.ColumnElement[bool]:
    return ~is_held(alert_delivery.c.due, LONGEST_PAUSE_S)


def _has_waiting(connection: Connection, channel: str, claim_s: float) -> bool:
    of_channel = alert_notice.outerjoin(
        alert_delivery,
        sa.and_(
            alert_delivery.c.notice_id == alert_notice.c.id, alert_delivery.c.channel == channel
        ),
    )
    unknown = sa.and_(
        alert_delivery.c.notice_id.is_(None),
        alert_notice.c.written_at >= db_now() - KEEP_TRYING_S,
    )
    due = sa.and_(
        alert_delivery.c.state.in_(_UNSENT),
        ~is_held(alert_delivery.c.claimed_until, claim_s),
        _is_due(),
    )
    query = sa.select(sa.literal(1)).select_from(of_channel).where(sa.or_(unknown, due)).limit(1)
    return connection.execute(query).first() is not None


def _insert_deliveries(connection: Connection, channel: str) -> None:
    """Insert the channel's deliveries of notices that are new to it and not too old."""
    known = sa.select(alert_delivery.c.notice_id).where(alert_delivery.c.channel == channel)
    new = connection.execute(
        sa.select(alert_notice.c.id).where(
            alert_notice.c.written_at >= db_now() - KEEP_TRYING_S, alert_notice.c.id.not_in(known)
        )
    ).scalars()
    rows = [
        {
            "notice_id": notice_id,
            "channel": channel,
            "state": DeliveryState.WAITING,
            "attempts": 0,
            "due": 0.0,
            "claimed_until": 0.0,
            "error": "",
        }
        for notice_id in new
    ]
    insert_new(connection, alert_delivery, rows)


def _deliveries_of(channel: str, ids: Sequence[int]) -> tuple[sa.ColumnElement[bool], ...]:
    return (alert_delivery.c.channel == channel, alert_delivery.c.notice_id.in_(ids))


def _messages_of_last_hour(connection: Connection, channel: str) -> int:
    query = sa.select(sa.func.count(sa.distinct(alert_delivery.c.message))).where(
        alert_delivery.c.channel == channel, is_recent(alert_delivery.c.sent_at, HOUR_S)
    )
    return int(connection.execute(query).scalar_one())


def _read_notices(connection: Connection, channel: str, ids: Sequence[int]) -> tuple[Notice, ...]:
    query = (
        sa.select(
            alert_notice.c.id.label("notice_id"),
            alert_notice.c.occasion,
            alert_notice.c.at,
            alert_notice.c.text.label("said"),
            (db_now() - alert_notice.c.written_at).label("age_s"),
            alert_delivery.c.attempts,
            alert,
        )
        .join(alert, alert.c.id == alert_notice.c.alert_id)
        .join(alert_delivery, alert_delivery.c.notice_id == alert_notice.c.id)
        .where(*_deliveries_of(channel, ids))
        .order_by(alert_notice.c.id)
    )
    return tuple(
        Notice(
            row.notice_id,
            Occasion(row.occasion),
            row.at,
            row.said,
            row.attempts,
            row.age_s,
            build_alert(row),
        )
        for row in connection.execute(query)
    )


def build_alert(row: sa.Row[Any]) -> AlertRow:
    """The alert of a whole row of the table."""
    values = {name: getattr(row, name) for name in AlertRow.__slots__}
    values["condition"] = Condition(values["condition"])
    values["severity"] = Severity(values["severity"])
    return AlertRow(**values)
