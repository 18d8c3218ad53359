"""Trainings whose process died: they are started again, with what they were asked.

Prefect marks them crashed (see `deployments.setup`) and leaves them there. Retrainings are not
among them: their queue rings again by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Scheduled

FLOW = "train"
MOST_RUNS = 3
"""A training that has died so often dies of itself."""

NOT_BEFORE = timedelta(days=1)
"""What crashed longer ago has been overtaken by later ones."""


@task(cache_policy=NO_CACHE)
def restart_crashed_trainings() -> tuple[str, ...]:
    """Schedule crashed trainings anew; what was done, in words."""
    since = datetime.now(UTC) - NOT_BEFORE
    with get_client(sync_client=True) as client:
        crashed = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
                end_time=FlowRunFilterEndTime(after_=since),
            ),
        )
        dead = [run for run in crashed if _may_run_again(run)]
        for run in dead:
            again: State[None] = Scheduled(message=f"its process died in run {run.run_count}")
            client.set_flow_run_state(run.id, again, force=True)
    return tuple(f"{run.name} started again after it crashed" for run in dead)


def _may_run_again(run: FlowRun) -> bool:
    """A worker brings back only what a deployment started; a notebook's run is the notebook's."""
    return run.deployment_id is not None and run.run_count < MOST_RUNS
