"""Training jobs and trainings, as the API asks for them; Prefect is behind it in `deployments`.

The library knows nothing of Prefect, so the process that composes the API passes an object with
these methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from mlops.rollout.plan import DeploymentConfig
from mlops.search.config import ModelType, TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """One training; a part of the service that is None comes from the settings.

    Attributes:
        symbol: Such as BTC/USDT.
        deployment: Whether and how a version that passes its gates goes live.
    """

    symbol: str
    model_type: ModelType
    venue: str | None = None
    timeframe: str | None = None
    target: str | None = None
    horizon: int | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    deployment: DeploymentConfig = field(default_factory=DeploymentConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest(TrainingRequest):
    """A training that is repeated.

    Attributes:
        schedule_type: hourly, daily, weekly, monthly or cron.
        schedule_config: As of `deployments.ModelScheduler.add_training_job`.
        owner: Who asks for it.
    """

    schedule_type: str
    schedule_config: Mapping[str, Any] = field(default_factory=dict)
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """A run of a training; ``state`` is Prefect's word, ``url`` the run's page."""

    flow_run_id: str
    name: str
    state: str
    due: datetime | None
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A job as the API shows it.

    Attributes:
        schedule: A cron expression or an RRule, in ``timezone``.
        owner: Who added it; empty where it was not added over the API.
        next_run, last_run: None where there is none.
    """

    job_id: str
    service: str
    model_type: str
    schedule_type: str
    schedule: str
    timezone: str
    active: bool
    owner: str
    next_run: datetime | None
    last_run: FlowRun | None
    training_config: Mapping[str, Any]
    deployment_config: Mapping[str, Any]


class TrainingJobs(Protocol):
    """What the API needs of the keeper of jobs.

    Every method raises `SchedulerUnavailable` where no Prefect server answers or `make deploy` was
    not run, and `JobNotFound` for an id that no job has.
    """

    def list_jobs(self, *, after: str | None, limit: int) -> Sequence[TrainingJob]:
        """The jobs whose id follows ``after``, by id."""
        ...

    def get_job(self, job_id: str) -> TrainingJob:
        """One job."""
        ...

    def add_job(self, request: JobRequest) -> TrainingJob:
        """Add a job, or change the one of the same service, model type and schedule.

        Raises:
            ScheduleError: when schedule or configuration cannot be.
            ServiceError: when the parts name no service.
        """
        ...

    def remove_job(self, job_id: str) -> None:
        """Delete a job; runs that have begun go on."""
        ...

    def pause_job(self, job_id: str) -> TrainingJob:
        """Let the schedule begin no run until it is resumed."""
        ...

    def resume_job(self, job_id: str) -> TrainingJob:
        """Let a paused job run again at its next time."""
        ...

    def run_job(self, job_id: str) -> FlowRun:
        """Run a job once, as soon as a worker is free."""
        ...

    def start_training(self, request: TrainingRequest) -> FlowRun:
        """Train once, as soon as a worker is free.

        Raises:
            ServiceError: when the parts name no service.
        """
        ...
