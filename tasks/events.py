"""The doorbell: events that start retrainings. What they are about lies in the store."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from mlops.installation import Installation
from mlops.store.triggers import Cause, unanswered
from mlops.training.retraining import market_time

DRIFT_DETECTED = "mlops.drift.detected"
PERFORMANCE_DEGRADED = "mlops.performance.degraded"
EVENTS = {Cause.DRIFT: DRIFT_DETECTED, Cause.PERFORMANCE: PERFORMANCE_DEGRADED}


def emit_retraining_event(service: str, cause: Cause) -> None:
    """Tell Prefect that something waits for a service; lost where its server is down.

    The reconcile flow rings again for what nobody came for.
    """
    emit_event(
        event=EVENTS[cause],
        resource={"prefect.resource.id": f"mlops.service.{service}"},
        payload={"service": service},
    )


@task(cache_policy=NO_CACHE)
def emit_unanswered_events(installation: Installation) -> tuple[str, ...]:
    """Ring for every service that could be trained now and is not."""
    store, wall = installation.store, datetime.now(UTC)
    found = unanswered(store, at=lambda service: market_time(store, service, wall))
    waiting = [(service, cause) for service, cause in found if cause in EVENTS]
    for service, cause in waiting:
        emit_retraining_event(service, cause)
    return tuple(f"{service} rung for again: {cause}" for service, cause in waiting)
