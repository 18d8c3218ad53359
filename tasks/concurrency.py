"""When a training may begin: one at a time for each service, and in a slot of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from mlops.service import Service
from mlops.settings import current_settings
from mlops.store.leases import Lease, exclusive, exclusive_if_free
from mlops.store.triggers import training_lease
from tasks.context import SECONDS_PER_HOUR, current_installation

TRAINING_LIMIT = "mlops-training"

LEASE_SECONDS = 60.0
"""The shortest lease that Prefect grants: a killed training keeps its slot for this long."""


def limit_trainings(client: SyncPrefectClient, limit: int) -> int:
    """Set how many trainings of one Prefect server run at once."""
    client.upsert_global_concurrency_limit_by_name(TRAINING_LIMIT, limit)
    return limit


def exclusive_training(service: Service) -> AbstractContextManager[Lease]:
    """Hold the service's training lease; wait for it for as long as a training may last."""
    return exclusive(
        current_installation().store,
        training_lease(service.key),
        _name_run(),
        timeout_s=current_settings().training_job_timeout_hours * SECONDS_PER_HOUR,
        tell=get_run_logger().info,
    )


def exclusive_training_if_free(service: Service) -> AbstractContextManager[Lease | None]:
    """Hold the service's training lease; None while another training holds it."""
    store = current_installation().store
    return exclusive_if_free(store, training_lease(service.key), _name_run())


def _name_run() -> str:
    return f"{flow_run.name} ({flow_run.id}, attempt {flow_run.run_count})"


@contextmanager
def training_slot() -> Iterator[None]:
    """Hold one of ``MAX_CONCURRENT_TRAINING_JOBS`` slots, however the training was started.

    It is taken after the training lease, so that a training that waits for its service blocks no
    other service. A live training renews its slot's lease; the slot of a killed one is freed when
    it runs out.
    """
    with get_client(sync_client=True) as client:
        limit_trainings(client, current_settings().max_concurrent_training_jobs)
    # strict: without it Prefect enters silently when the limit does not exist.
    with concurrency(TRAINING_LIMIT, occupy=1, lease_duration=LEASE_SECONDS, strict=True):
        yield
