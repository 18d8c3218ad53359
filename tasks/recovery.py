"""Starts trainings again whose process died, with their parameters.

Prefect marks such runs crashed (see `deployments.setup`) and does no more. Retrainings are left
out: the event of their queue is emitted again (`tasks.events`).
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
from prefect.client.schemas.objects import StateType
from prefect.states import Scheduled

FLOW = "train"
MOST_RUNS = 3
"""A training that has died so often would die again."""

CRASHED_WITHIN = timedelta(days=1)
"""Older crashes are left alone: a later training has replaced them."""


@task(cache_policy=NO_CACHE)
def restart_crashed_trainings() -> tuple[str, ...]:
    """Schedule crashed trainings again; returns one line for each."""
    since = datetime.now(UTC) - CRASHED_WITHIN
    with get_client(sync_client=True) as client:
        crashed = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
                end_time=FlowRunFilterEndTime(after_=since),
            ),
        )
        # A run without a deployment was started in a notebook: no worker could run it again.
        dead = [run for run in crashed if run.deployment_id and run.run_count < MOST_RUNS]
        for run in dead:
            again: State[None] = Scheduled(message=f"its process died in run {run.run_count}")
            client.set_flow_run_state(run.id, again, force=True)
    return tuple(f"{run.name} started again after it crashed" for run in dead)
