"""Make what `prefect deploy` does not: work pool, limit on trainings, automation; idempotent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from mlops.settings import current_settings
from tasks.concurrency import limit_trainings

WORK_POOL = "mlops-pool"
CRASH_AUTOMATION = "crash-zombie-flow-runs"
HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
HEARTBEAT_S = 30
SILENCE_S = 3 * HEARTBEAT_S
"""A flow run that says nothing for so long is dead; Prefect beats at most every 30 seconds."""


def set_up(client: SyncPrefectClient) -> None:
    """Bring pool, limit and automation to what they should be, whatever is there."""
    make_pool(client)
    limit = limit_trainings(client, current_settings().max_concurrent_training_jobs)
    make_automation(client, crash_automation())
    print(
        f"work pool {WORK_POOL}; at most {limit} trainings at once; flow runs silent for "
        f"{SILENCE_S} s are marked crashed"
    )


def make_pool(client: SyncPrefectClient) -> None:
    """The process pool; every flow run it starts beats often enough to be missed soon."""
    try:
        template = client.read_work_pool(WORK_POOL).base_job_template
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        template = {}
    beating = with_heartbeat(template or ProcessWorker.get_default_base_job_template())
    if beating != template:
        client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=beating))


def with_heartbeat(template: dict[str, Any]) -> dict[str, Any]:
    """A job template whose runs beat every 30 seconds, unless it says how often."""
    variables = template["variables"]
    env = variables["properties"]["env"]
    default = {HEARTBEAT: str(HEARTBEAT_S), **env.get("default", {})}
    properties = {**variables["properties"], "env": {**env, "default": default}}
    return {**template, "variables": {**variables, "properties": properties}}


def crash_automation() -> AutomationCore:
    """Marks a flow run crashed whose process died together with its worker.

    Without it such a run stays "running" for ever, and nobody is told.
    """
    lives = "prefect.flow-run.heartbeat"
    ends = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=CRASH_AUTOMATION,
        description="A flow run without a heartbeat is dead",
        trigger=EventTrigger(
            after={lives},
            expect={lives, *ends},
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
    """Create it, or bring the one of that name to what it should be; further ones go.

    One that somebody has switched off stays off.
    """
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return
    first, *others = found
    client.update_automation(first.id, wanted)
    for other in others:
        client.delete_automation(other.id)


def main() -> None:
    with get_client(sync_client=True) as client:
        set_up(client)


if __name__ == "__main__":
    main()
