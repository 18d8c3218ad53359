"""When a training may begin: after others of its service, and in a slot of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from mlops.service import Service
from mlops.settings import current_settings
from mlops.store.leases import HeldLease, exclusive
from tasks.context import SECONDS_PER_HOUR, current_installation

TRAINING_LIMIT = "mlops-training"

LEASE_SECONDS = 60.0
"""The shortest lease Prefect grants: so long a killed training keeps its slot."""


def limit_trainings(client: SyncPrefectClient, limit: int) -> int:
    """Set how many trainings one Prefect server lets run at once."""
    client.upsert_global_concurrency_limit_by_name(TRAINING_LIMIT, limit)
    return limit


@contextmanager
def exclusive_training(service: Service) -> Iterator[HeldLease]:
    """Wait until no other run trains the service, as long as a training may last; then a slot.

    Who waits for its turn occupies no slot: other services need not wait for it.
    """
    hours = current_settings().training_job_timeout_hours
    with (
        exclusive(
            current_installation().store,
            f"training:{service}",
            f"{flow_run.name} ({flow_run.id}, attempt {flow_run.run_count})",
            timeout_s=hours * SECONDS_PER_HOUR,
            tell=get_run_logger().info,
        ) as held,
        training_slot(),
    ):
        yield held


@contextmanager
def training_slot() -> Iterator[None]:
    """Wait for one of ``MAX_CONCURRENT_TRAINING_JOBS`` slots and hold it.

    Schedules, events and notebooks count alike. A slot of a killed process is freed when its
    lease runs out; a live one renews it.
    """
    with get_client(sync_client=True) as client:
        limit_trainings(client, current_settings().max_concurrent_training_jobs)
    # strict: without it Prefect enters silently when the limit does not exist.
    with concurrency(TRAINING_LIMIT, occupy=1, lease_duration=LEASE_SECONDS, strict=True):
        yield
