"""What was wrong with a version ends when nobody looks at it any more: another one serves."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from mlops.alerts.conditions import BASELINE
from mlops.store.alerts import AlertRow, Condition, list_alerts, recover_alert
from mlops.store.engine import Store
from mlops.store.rollouts import open_rollouts
from mlops.store.routes import read_routes
from mlops.store.watches import list_watches

OF_LOOKS = (Condition.DATA_DRIFT, Condition.PERFORMANCE_DEGRADED, Condition.DATA_QUALITY)
"""What looks at a version raise, and only a look could end."""


def end_unwatched(store: Store, now: datetime, services: Collection[str] | None = None) -> None:
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
