"""Make what `prefect deploy` does not: the work pool and the limit on trainings; idempotent."""

from __future__ import annotations

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from mlops.settings import current_settings
from tasks.slots import limit_trainings

WORK_POOL = "mlops-pool"


def set_up(client: SyncPrefectClient) -> None:
    """Create the process work pool and set the training limit to the configured number."""
    try:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    except ObjectAlreadyExists:
        print(f"work pool {WORK_POOL} exists")
    limit = limit_trainings(client, current_settings().max_concurrent_training_jobs)
    print(f"work pool {WORK_POOL}; at most {limit} trainings at once")


def main() -> None:
    with get_client(sync_client=True) as client:
        set_up(client)


if __name__ == "__main__":
    main()
