"""Emits the Prefect events that start retrainings; the triggers are rows of the store."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from mlops.installation import Installation
from mlops.store.triggers import Cause, list_trainable_services
from mlops.training.retraining import market_time

DRIFT_DETECTED = "mlops.drift.detected"
PERFORMANCE_DEGRADED = "mlops.performance.degraded"
EVENTS = {Cause.DRIFT: DRIFT_DETECTED, Cause.PERFORMANCE: PERFORMANCE_DEGRADED}


def emit_trigger_event(service: str, cause: Cause) -> None:
    """Emit the event that starts the retrain flow; it is lost where Prefect's server is down.

    The reconcile flow emits it again for triggers that stay unclaimed.
    """
    emit_event(
        event=EVENTS[cause],
        resource={"prefect.resource.id": f"mlops.service.{service}"},
        payload={"service": service},
    )


@task(cache_policy=NO_CACHE)
def emit_unanswered(installation: Installation) -> tuple[str, ...]:
    """Emit the event again for each service whose triggers wait and could be claimed now."""
    store, wall = installation.store, datetime.now(UTC)
    pairs = list_trainable_services(store, at=lambda service: market_time(store, service, wall))
    waiting = [(service, cause) for service, cause in pairs if cause in EVENTS]
    for service, cause in waiting:
        emit_trigger_event(service, cause)
    return tuple(f"{service} rung for again: {cause}" for service, cause in waiting)
