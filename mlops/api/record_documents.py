"""What monitoring wrote, as answers: alerts, checks, triggers and watches."""

from __future__ import annotations

from mlops.api.documents import Document, Id, Json, Utc
from mlops.store.alerts import AlertRow, Condition, Severity
from mlops.store.monitor_runs import WatchRow
from mlops.store.monitoring_pages import CheckSummary
from mlops.store.triggers import Answer, Cause, TriggerRow, TriggerState


class AlertDocument(Document):
    """A trouble; ``recovered_at`` is null while it lasts."""

    alert_id: Id
    condition: Condition
    severity: Severity
    service: str
    subject: str
    title: str
    text: str
    detail: Json
    raised_at: Utc
    last_seen_at: Utc
    times_seen: int
    recovered_at: Utc | None

    @classmethod
    def of(cls, row: AlertRow) -> AlertDocument:
        return cls(
            alert_id=row.id,
            condition=row.condition,
            severity=row.severity,
            service=row.service,
            subject=row.subject,
            title=row.title,
            text=row.text,
            detail=dict(row.detail),
            raised_at=row.raised_at,
            last_seen_at=row.last_seen_at,
            times_seen=row.times_seen,
            recovered_at=row.recovered_at,
        )


class AlertPage(Document):
    """Alerts, newest first; ``next`` is the cursor of the next page."""

    alerts: list[AlertDocument]
    next: str | None


class CheckDocument(Document):
    """A look at a version; ``bar`` is the newest bar it used, ``official`` that it decides.

    ``bars`` counts the bars of its window.
    """

    check_id: Id
    service: Id
    model_id: Id
    bar: Utc
    at: Utc
    recommendation: str
    official: bool
    bars: Json | None

    @classmethod
    def of(cls, row: CheckSummary) -> CheckDocument:
        return cls(
            check_id=row.id,
            service=row.service,
            model_id=row.model_id,
            bar=row.bar,
            at=row.at,
            recommendation=row.recommendation,
            official=row.official,
            bars=None if row.bars is None else dict(row.bars),
        )


class CheckPage(Document):
    """Looks, newest first; ``next`` is the cursor of the next page."""

    checks: list[CheckDocument]
    next: str | None


class TriggerDocument(Document):
    """A reason to retrain a service, and what became of it.

    ``check_id`` is the look that raised it, ``flow_run`` the Prefect run that claimed it,
    ``model_id`` the version that was trained. ``not_before`` is the market time before which it is
    not claimed again.
    """

    trigger_id: Id
    service: Id
    cause: Cause
    champion: str
    text: str
    check_id: str | None
    state: TriggerState
    answer: Answer | None
    model_id: str | None
    flow_run: str | None
    raised_at: Utc
    claimed_at: Utc | None
    answered_at: Utc | None
    not_before: Utc | None

    @classmethod
    def of(cls, row: TriggerRow) -> TriggerDocument:
        return cls(
            trigger_id=row.id,
            service=row.service,
            cause=row.cause,
            champion=row.champion,
            text=row.text,
            check_id=row.verdict,
            state=row.state,
            answer=row.answer,
            model_id=row.model_id,
            flow_run=row.claimed_by,
            raised_at=row.raised_at,
            claimed_at=row.claimed_at,
            answered_at=row.answered_at,
            not_before=row.not_before,
        )


class TriggerPage(Document):
    """Triggers, newest first; ``next`` is the cursor of the next page."""

    triggers: list[TriggerDocument]
    next: str | None


class WatchDocument(Document):
    """A version that the hourly monitor looks at until the watch is stopped."""

    watch_id: Id
    service: Id
    model_id: Id
    interval_hours: float
    since: Utc
    started_by: str

    @classmethod
    def of(cls, row: WatchRow) -> WatchDocument:
        return cls(
            watch_id=row.id,
            service=row.service,
            model_id=row.model_id,
            interval_hours=row.interval_hours,
            since=row.since,
            started_by=row.started_by,
        )


class WatchList(Document):
    """The watches that go on, oldest first."""

    watches: list[WatchDocument]


class StoppedWatch(Document):
    """Whether there was a watch to stop."""

    model_id: Id
    stopped: bool
