"""What people are told of what is live: a version that did not stay so, a champion that failed, a
service that is back on its baseline.

Written in the transaction of the change itself, so that neither is without the other.

[[What was wrong with a version ends when nobody looks at it any more: another one serves.]]
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from mlops.store.alerts import (
    AlertRow,
    Condition,
    Severity,
    Trouble,
    list_alerts,
    raise_alert,
    recover_alert,
)
from mlops.store.engine import Connection, Store
from mlops.store.monitor_runs import list_watches
from mlops.store.rollouts import Arrow, Rollout, open_rollouts
from mlops.store.routes import Route, read_routes
from mlops.store.schema import Phase

ROLLOUT, CHAMPION, BASELINE = "rollout", "champion", "baseline"
_ENDED_BY_A_CHAMPION = (
    (Condition.DEPLOYMENT_FAILED, ROLLOUT),
    (Condition.DEPLOYMENT_FAILED, CHAMPION),
    (Condition.PERFORMANCE_DEGRADED, BASELINE),
)


def update_rollout_alerts(connection: Connection, row: Rollout, arrow: Arrow, at: datetime) -> None:
    """Raise an alert where a rollout was undone by itself; where one is done, end it."""
    if arrow.to is Phase.FAILED and row.abort_requested is None:
        raise_alert(connection, _undone(row, arrow), at=at)
    # A shadow is done without ever having been live.
    if arrow.to is Phase.DONE and row.phase is Phase.PROMOTED:
        for condition, subject in _ENDED_BY_A_CHAMPION:
            recover_alert(
                connection,
                condition=condition,
                service=row.service,
                subject=subject,
                at=at,
                text=f"{row.to_version} went live and stayed healthy",
            )


def raise_champion_failed(
    connection: Connection, service: str, *, failed: str, reason: str, at: datetime
) -> None:
    """Raise an alert where a champion was replaced because it failed."""
    trouble = Trouble(
        Condition.DEPLOYMENT_FAILED,
        service,
        CHAMPION,
        f"{failed} failed as champion",
        f"{reason}. Requests go to the version before it, or to the baseline.",
        Severity.CRITICAL,
        {"failed": failed},
    )
    raise_alert(connection, trouble, at=at)


def raise_returned_to_baseline(
    connection: Connection, route: Route, *, reason: str, at: datetime
) -> None:
    """Raise an alert that a service is back on its baseline; what its champion lost is over."""
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


def _undone(row: Rollout, arrow: Arrow) -> Trouble:
    was_live = row.phase is Phase.REVERTED
    return Trouble(
        Condition.DEPLOYMENT_FAILED,
        row.service,
        ROLLOUT,
        f"The rollout of {row.to_version} was undone",
        f"{arrow.reason}. {row.from_version} serves all requests.",
        Severity.CRITICAL if was_live else Severity.WARNING,
        {"rollout": row.id, "strategy": str(row.strategy), "phase": str(row.phase)},
    )


OF_LOOKS = (Condition.DATA_DRIFT, Condition.PERFORMANCE_DEGRADED, Condition.DATA_QUALITY)
"""What looks at a version raise, and only a look could end."""


def close_alerts_of_replaced(
    store: Store, now: datetime, services: Collection[str] | None = None
) -> None:
    """End the alerts about versions that neither serve nor are watched, of these services.

    While a rollout is open nothing is settled: it may still be undone.
    """
    lasting = [
        row
        for row in list_alerts(store, lasting_only=True)
        if row.condition in OF_LOOKS and row.subject != BASELINE
        if services is None or row.service in services
    ]
    gone = _gone(store, lasting) if lasting else []
    if not gone:
        return
    with store.write() as connection:
        for row, champion in gone:
            recover_alert(
                connection,
                condition=row.condition,
                service=row.service,
                subject=row.subject,
                at=now,
                text=f"{champion} serves in its place, and nobody looks at it any more",
            )


def _gone(store: Store, lasting: list[AlertRow]) -> list[tuple[AlertRow, str]]:
    watched = {row.model_id for row in list_watches(store)}
    with store.read() as connection:
        busy = {row.service for row in open_rollouts(connection)}
        champions = {one.service: one.champion for one in read_routes(connection)}
    return [
        (row, champions[row.service])
        for row in lasting
        if row.service in champions and row.service not in busy
        if row.subject != champions[row.service] and row.subject not in watched
    ]
