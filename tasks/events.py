"""Prefect events that start retrainings; what asks for them is rows of the store's queue."""

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
    """Tell Prefect that a service's queue asks for a retraining.

    The event is lost while Prefect's server is down; the reconcile flow emits it again.
    """
    emit_event(
        event=EVENTS[cause],
        resource={"prefect.resource.id": f"mlops.service.{service}"},
        payload={"service": service},
    )


@task(cache_policy=NO_CACHE)
def emit_unanswered_events(installation: Installation) -> tuple[str, ...]:
    """Emit the event of every service whose queue waits, may be answered now and is not."""
    store, wall = installation.store, datetime.now(UTC)
    triggers = unanswered(store, at=lambda service: market_time(store, service, wall))
    waiting = [(service, cause) for service, cause in triggers if cause in EVENTS]
    for service, cause in waiting:
        emit_retraining_event(service, cause)
    return tuple(f"{service} rung for again: {cause}" for service, cause in waiting)
