"""Every rule that raises or ends an alert, by the condition and subject of the alert.

    condition              subject     raised by                    ended by
    deployment_failed      a model_id  a rollout that was undone,   a version that stays healthy
                                       a champion that failed,
                                       a challenger found worse
    performance_degraded   baseline    a return to the baseline     a version that stays healthy
    performance_degraded   a model_id  a look that finds lost skill a look that finds the skill
    data_drift             a model_id  a look that finds drift      a deciding look without drift
    data_quality           a model_id  a look at unsound data       a look at clearly sound data
    system_trouble         a resource  a failed health check        a quiet time after the last one
    system_trouble         requests    a champion that fails on     fewer faults, another champion
                                       requests alone

An alert about a model_id also ends when another version serves and nobody watches the old one.
Each rule writes in the transaction of the change that it is about, so neither is there alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mlops.store import Phase, Rollout, Route, Store
from mlops.store.ab_tests import AbTest
from mlops.store.alerts import (
    AlertRow,
    Condition,
    Severity,
    Trouble,
    list_alerts,
    raise_alert,
    read_lasting,
    recover_alert,
    services_with_lasting,
)
from mlops.store.engine import Connection
from mlops.store.monitor_runs import CheckRow, list_watches
from mlops.store.rollouts import Arrow, open_rollouts
from mlops.store.routes import read_routes

BASELINE, REQUESTS = "baseline", "requests"
OF_LOOKS = (Condition.DATA_DRIFT, Condition.PERFORMANCE_DEGRADED, Condition.DATA_QUALITY)
"""Conditions that a look raises about a version, and that only another look at it can end."""

_TITLES = {
    Condition.DATA_DRIFT: "The bars have drifted from what {model_id} learned",
    Condition.PERFORMANCE_DEGRADED: "{model_id} has lost its skill",
}


# Rollouts and routes ------------------------------------------------------------------------------


def update_rollout_alerts(connection: Connection, row: Rollout, arrow: Arrow, at: datetime) -> None:
    """Raise an alert for a rollout that failed by itself; end those that a healthy version ends.

    A rollout that ends while it waits, before it has begun, is no failure.

    Args:
        row: The rollout before the arrow.
        arrow: The transition that the controller writes in this transaction.
    """
    begun = row.phase is not Phase.WAITING
    if arrow.to is Phase.FAILED and begun and row.abort_requested is None:
        was_live = row.phase is Phase.REVERTED
        undone = Trouble(
            Condition.DEPLOYMENT_FAILED,
            row.service,
            row.to_version,
            f"The rollout of {row.to_version} was undone",
            f"{arrow.reason}. {row.from_version} serves all requests.",
            Severity.CRITICAL if was_live else Severity.WARNING,
            {"rollout": row.id, "strategy": str(row.strategy), "phase": str(row.phase)},
        )
        raise_alert(connection, undone, at=at)
    # A shadow rollout is done without its version ever having been live.
    if arrow.to is Phase.DONE and row.phase is Phase.PROMOTED:
        _end_alerts_of_service(connection, row.service, healthy=row.to_version, at=at)


def _end_alerts_of_service(
    connection: Connection, service: str, *, healthy: str, at: datetime
) -> None:
    """End the alerts that only a version which went live and stayed healthy can end."""
    for known in read_lasting(connection, service):
        returned = known.condition is Condition.PERFORMANCE_DEGRADED and known.subject == BASELINE
        if returned or known.condition is Condition.DEPLOYMENT_FAILED:
            recover_alert(
                connection,
                condition=known.condition,
                service=service,
                subject=known.subject,
                at=at,
                text=f"{healthy} went live and stayed healthy",
            )


def raise_challenger_worse(
    connection: Connection, test: AbTest, text: str, *, at: datetime
) -> None:
    """Raise an alert that an A/B test found its challenger worse, in the look's transaction.

    The rollout that is undone by the verdict has the same subject, so people are told once.
    """
    trouble = Trouble(
        Condition.DEPLOYMENT_FAILED,
        test.service,
        test.challenger_id,
        f"{test.challenger_id} lost its A/B test",
        f"{text} {test.champion_id} serves all requests.",
        detail={"test": test.id, "champion": test.champion_id, "rollout": test.rollout_id},
    )
    raise_alert(connection, trouble, at=at)


def raise_champion_failed(
    connection: Connection, service: str, *, failed: str, reason: str, at: datetime
) -> None:
    """Raise an alert that a champion failed and another version took its place.

    Args:
        failed: The model_id of the champion that failed.
    """
    trouble = Trouble(
        Condition.DEPLOYMENT_FAILED,
        service,
        failed,
        f"{failed} failed as champion",
        f"{reason}. Requests go to the version before it, or to the baseline.",
        Severity.CRITICAL,
        {"failed": failed},
    )
    raise_alert(connection, trouble, at=at)


def update_failing_requests_alert(
    connection: Connection, route: Route, reason: str | None, at: datetime
) -> bool:
    """Raise an alert for a champion that fails on requests alone, or end it; True where told.

    Args:
        reason: The fault rate, and why the champion stays live; None where that is over.
    """
    if reason is None:
        recover_alert(
            connection,
            condition=Condition.SYSTEM_TROUBLE,
            service=route.service,
            subject=REQUESTS,
            at=at,
            text=f"{route.champion} serves, and does not fail on requests alone any more",
        )
        return False
    trouble = Trouble(
        Condition.SYSTEM_TROUBLE,
        route.service,
        REQUESTS,
        f"{route.champion} fails on what clients send",
        reason,
        detail={"model_id": route.champion},
    )
    return raise_alert(connection, trouble, at=at)


def list_told_of_requests(connection: Connection) -> frozenset[str]:
    """The services for which the alert of `update_failing_requests_alert` lasts."""
    return services_with_lasting(connection, condition=Condition.SYSTEM_TROUBLE, subject=REQUESTS)


def raise_returned_to_baseline(
    connection: Connection, route: Route, *, reason: str, at: datetime
) -> None:
    """Raise an alert that a service is back on its baseline; end the one about its champion.

    Args:
        route: The route before the return; it names the champion that lost its skill.
    """
    trouble = Trouble(
        Condition.PERFORMANCE_DEGRADED,
        route.service,
        BASELINE,
        f"{route.service} is back on its baseline",
        f"{reason}. It stays so until another version goes live.",
        Severity.CRITICAL,
        {"champion": route.champion},
    )
    raise_alert(connection, trouble, at=at)
    recover_alert(
        connection,
        condition=Condition.PERFORMANCE_DEGRADED,
        service=route.service,
        subject=route.champion,
        at=at,
        text=f"it serves no more: {reason}",
    )


# Looks --------------------------------------------------------------------------------------------


def update_version_alert(
    connection: Connection,
    row: CheckRow,
    condition: Condition,
    reason: str,
    *,
    severity: Severity,
    is_over: bool,
) -> None:
    """Raise an alert for drift or lost skill, or end it where a look shows that it is over.

    Args:
        row: The look.
        condition: DATA_DRIFT or PERFORMANCE_DEGRADED.
        reason: What the look found, in sentences; empty where it found nothing.
        is_over: Whether a look that found nothing had the data to rule the condition out.
    """
    if reason:
        title = _TITLES[condition].format(model_id=row.model_id)
        detail = {"check": row.id, "score": row.report["score"]}
        trouble = Trouble(condition, row.service, row.model_id, title, reason, severity, detail)
        raise_alert(connection, trouble, at=row.at)
    elif is_over:
        recover_alert(
            connection,
            condition=condition,
            service=row.service,
            subject=row.model_id,
            at=row.at,
            text="the newest whole window shows nothing of it",
        )


def update_data_quality_alert(
    connection: Connection, row: CheckRow, problems: Sequence[str], *, is_sound: bool
) -> None:
    """Raise an alert for unsound data, or end it where the data of a look is clearly sound.

    Args:
        row: The look.
        problems: What is wrong with its data, a sentence each.
        is_sound: Whether the data is sound by the stricter limits that end an alert.
    """
    bars = {"expected": 0, "present": 0, "repeated": 0, **(row.bars or {})}
    if problems:
        trouble = Trouble(
            Condition.DATA_QUALITY,
            row.service,
            row.model_id,
            f"{row.model_id} is given data that are not sound",
            "; ".join(problems),
            detail={"check": row.id, "problems": list(problems), **bars},
        )
        raise_alert(connection, trouble, at=row.at)
    elif is_sound:
        recover_alert(
            connection,
            condition=Condition.DATA_QUALITY,
            service=row.service,
            subject=row.model_id,
            at=row.at,
            text=f"the newest {bars['present']:,} bars are sound",
        )


def raise_unreadable_data(
    connection: Connection, service: str, model_id: str, *, why: str, at: datetime
) -> None:
    """Raise an alert that a look failed because the bars break the contract of bars."""
    trouble = Trouble(
        Condition.DATA_QUALITY,
        service,
        model_id,
        f"{model_id} is given data that cannot be read",
        why,
        Severity.CRITICAL,
    )
    raise_alert(connection, trouble, at=at)


def close_alerts_of_replaced(
    store: Store, now: datetime, services: Collection[str] | None = None
) -> None:
    """End the alerts about versions that neither serve nor are watched.

    While the promotion of a rollout may still be undone, the alerts of its service stay.

    Args:
        services: Close the alerts of these services only; None means all.
    """
    lasting = [
        row
        for row in list_alerts(store, lasting_only=True)
        if row.condition in OF_LOOKS and row.subject != BASELINE
        if services is None or row.service in services
    ]
    replaced = _find_replaced(store, lasting) if lasting else []
    if not replaced:
        return
    with store.write() as connection:
        for row, champion in replaced:
            recover_alert(
                connection,
                condition=row.condition,
                service=row.service,
                subject=row.subject,
                at=now,
                text=f"{champion} serves in its place, and nobody looks at it any more",
            )


def _find_replaced(store: Store, lasting: Sequence[AlertRow]) -> list[tuple[AlertRow, str]]:
    """Alerts about versions that another champion replaced, each with that champion."""
    watched = {row.model_id for row in list_watches(store)}
    with store.read() as connection:
        unsettled = {
            row.service
            for row in open_rollouts(connection)
            if row.phase in (Phase.PROMOTED, Phase.REVERTED)
        }
        champions = {route.service: route.champion for route in read_routes(connection)}
    return [
        (row, champions[row.service])
        for row in lasting
        if row.service in champions and row.service not in unsettled
        if row.subject != champions[row.service] and row.subject not in watched
    ]


# Health checks ------------------------------------------------------------------------------------


def raise_system_trouble(
    connection: Connection,
    service: str,
    subject: str,
    *,
    title: str,
    text: str,
    severity: Severity,
    detail: Mapping[str, Any],
    at: datetime,
) -> bool:
    """Raise an alert for a failed health check; True where people will be told."""
    trouble = Trouble(Condition.SYSTEM_TROUBLE, service, subject, title, text, severity, detail)
    return raise_alert(connection, trouble, at=at)


def end_system_trouble(
    connection: Connection, alert: AlertRow, *, quiet_for: timedelta, text: str, at: datetime
) -> None:
    """End the alert of a health check once no check has failed for ``quiet_for``."""
    if at - alert.last_seen_at >= quiet_for:
        recover_alert(
            connection,
            condition=Condition.SYSTEM_TROUBLE,
            service=alert.service,
            subject=alert.subject,
            at=at,
            text=text,
        )
