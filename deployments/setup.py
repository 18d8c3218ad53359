"""Sets up a Prefect server: work pool, limit of trainings, automation, deployments; idempotent."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments.old_schedules import move_old_schedules
from deployments.scheduler import TEMPLATE, open_jobs
from mlops.settings import current_settings
from tasks.concurrency import limit_trainings

ROOT = Path(__file__).resolve().parents[1]
WORK_POOL = "mlops-pool"
JOB_QUEUE = "training-jobs"
"""Of the pool; a hundred jobs that are due at one time start no hundred processes."""

WORK = ("-m", "prefect", "worker", "start", "--pool", WORK_POOL)
CRASH_AUTOMATION = "crash-zombie-flow-runs"
HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
HEARTBEAT_S = 30
SILENCE_S = 3 * HEARTBEAT_S
"""A flow run without a heartbeat for this long is dead; Prefect's shortest interval is 30 s."""


def set_up(client: SyncPrefectClient) -> None:
    """Create or update work pool, limit and automation."""
    make_pool(client)
    limit = limit_trainings(client, current_settings().max_concurrent_training_jobs)
    make_queue(client, limit)
    make_automation(client, crash_automation())
    print(
        f"work pool {WORK_POOL}; at most {limit} trainings at once; flow runs silent for "
        f"{SILENCE_S} s are marked crashed"
    )


def make_pool(client: SyncPrefectClient) -> None:
    """Create or update the process pool, whose flow runs send a heartbeat every 30 seconds."""
    try:
        template = client.read_work_pool(WORK_POOL).base_job_template
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        template = {}
    wanted = with_heartbeat(template or ProcessWorker.get_default_base_job_template())
    if wanted != template:
        client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=wanted))


def make_queue(client: SyncPrefectClient, limit: int) -> None:
    """Create or update the queue of the training jobs, which starts no more runs at once."""
    try:
        queue = client.read_work_queue_by_name(JOB_QUEUE, work_pool_name=WORK_POOL)
    except ObjectNotFound:
        client.create_work_queue(JOB_QUEUE, concurrency_limit=limit, work_pool_name=WORK_POOL)
        return
    if queue.concurrency_limit != limit:
        client.update_work_queue(queue.id, concurrency_limit=limit)


def with_heartbeat(template: dict[str, Any]) -> dict[str, Any]:
    """A job template whose runs send a heartbeat every 30 seconds, unless it sets an interval."""
    variables = template["variables"]
    env = variables["properties"]["env"]
    default = {HEARTBEAT: str(HEARTBEAT_S), **env.get("default", {})}
    properties = {**variables["properties"], "env": {**env, "default": default}}
    return {**template, "variables": {**variables, "properties": properties}}


def crash_automation() -> AutomationCore:
    """Marks a flow run crashed whose process died together with its worker.

    Without the automation such a run would stay "running".
    """
    heartbeat = "prefect.flow-run.heartbeat"
    ends = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=CRASH_AUTOMATION,
        description="A flow run without a heartbeat is dead",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *ends},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"no heartbeat for {SILENCE_S} seconds"
            )
        ],
    )


def make_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create the automation, or update the one of its name; delete further ones of that name.

    An automation that was switched off stays off.
    """
    existing = client.read_automations_by_name(wanted.name)
    if not existing:
        client.create_automation(wanted)
        return
    first, *others = existing
    client.update_automation(first.id, wanted)
    for other in others:
        client.delete_automation(other.id)


def deploy_flows() -> None:
    """Deploy what prefect.yaml lists; its flow runs work in this clone."""
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env={**os.environ, "MLOPS_PROJECT_DIR": str(ROOT)},
        check=True,
    )


def main() -> None:
    """Set up the server that PREFECT_API_URL names; with ``--then-work``, become its worker."""
    parser = argparse.ArgumentParser(prog="python -m deployments.setup", description=__doc__)
    parser.add_argument("--then-work", action="store_true", help="become a worker of the pool")
    given = parser.parse_args()
    with get_client(sync_client=True) as client:
        set_up(client)
    deploy_flows()
    with open_jobs() as jobs:
        moved = move_old_schedules(jobs)
        jobs.follow_template()
    if moved:
        print(f"moved from schedules of {TEMPLATE} to jobs: {', '.join(moved)}")
    if given.then_work:
        os.execv(sys.executable, [sys.executable, *WORK])


if __name__ == "__main__":
    main()
