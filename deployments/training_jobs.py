"""What Prefect's deployments and runs say of training jobs, in the words of this library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.utilities.urls import url_for

from deployments.schedules import ScheduleType
from mlops.rollout.plan import DeploymentConfig
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service

REASON = "schedule"
"""A scheduled training refits what was found before, and spends the service's yearly budget."""

OWNER = "owner:"
"""Begins the tag that says who added a job."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One job.

    Args:
        schedule: A cron expression or an RRule, in ``timezone``; empty where it was deleted in the
            Prefect UI.
        owner: Who added it; empty where nobody was named.
    """

    job_id: str
    service: str
    model_type: ModelType
    schedule_type: ScheduleType
    schedule: str
    timezone: str
    active: bool
    training_config: Mapping[str, Any]
    deployment_config: Mapping[str, Any]
    owner: str = ""


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a job; ``state`` is Prefect's, ``url`` the run's page in its UI."""

    flow_run_id: str
    name: str
    state: str
    message: str
    due: datetime
    started: datetime | None
    ended: datetime | None
    url: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job, the time of its next run and its last run; None where there is none."""

    job: TrainingJob
    next_run: datetime | None
    last_run: JobRun | None


def is_active(job: DeploymentResponse) -> bool:
    """Whether the job itself is not paused; all may be stopped nevertheless."""
    return any(schedule.active for schedule in job.schedules)


def due_time(run: FlowRun) -> datetime:
    """When a run is to begin, or was to begin."""
    return run.expected_start_time or datetime.max.replace(tzinfo=UTC)


def make_parameters(
    service: Service,
    kind: ModelType,
    training: TrainingConfig,
    deployment: DeploymentConfig,
    *,
    reason: str = REASON,
) -> dict[str, Any]:
    """The flow's parameters; with every part of the service, because a worker's settings differ."""
    return {
        "symbol": service.symbol,
        "venue": service.venue,
        "timeframe": service.timeframe.name,
        "target": str(service.target),
        "horizon": service.horizon,
        "model_type": str(kind),
        "training": training.model_dump(mode="json", exclude_unset=True),
        "deployment_config": deployment.model_dump(mode="json", exclude_unset=True),
        "reason": reason,
    }


def describe_job(job: DeploymentResponse) -> TrainingJob:
    """What a deployment of Prefect says of its job."""
    kind, *service, frequency, _ = job.name.split(".")
    schedule = job.schedules[0].schedule if job.schedules else None
    return TrainingJob(
        job_id=job.name,
        service=".".join(service),
        model_type=ModelType(kind),
        schedule_type=ScheduleType(frequency),
        schedule=str(
            getattr(schedule, "cron", None) or getattr(schedule, "rrule", None) or schedule or ""
        ),
        timezone=str(getattr(schedule, "timezone", None) or "UTC"),
        active=is_active(job),
        training_config=job.parameters.get("training", {}),
        deployment_config=job.parameters.get("deployment_config", {}),
        owner=next((tag.removeprefix(OWNER) for tag in job.tags if tag.startswith(OWNER)), ""),
    )


def describe_run(run: FlowRun) -> JobRun:
    """What Prefect says of a run."""
    return JobRun(
        flow_run_id=str(run.id),
        name=run.name,
        state=run.state_name or "",
        message=(run.state and run.state.message) or "",
        due=due_time(run),
        started=run.start_time,
        ended=run.end_time,
        url=url_for("flow-run", obj_id=run.id) or "",
    )
