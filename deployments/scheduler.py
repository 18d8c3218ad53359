"""Training jobs: a job is a Prefect deployment of the flow `train`, named by its id.

    scheduler = ModelScheduler(mlops_config, manager)
    await scheduler.start()
    job_id = scheduler.add_training_job(
        model_type="lstm",
        symbol="BTC/USDT",
        schedule_type=ScheduleType.DAILY,
        schedule_config={"hour": 2, "minute": 0, "timezone": "Europe/Berlin"},
        deployment_config={"auto_deploy": True},
    )

The Prefect server keeps the jobs: they survive restarts of servers, workers and notebooks, and its
UI shows them. A job copies where and how it runs from the deployment `train/scheduled`, which
`make deploy` makes; that one has no runs, and its switch says whether all jobs are stopped.

A change to a job deletes its scheduled runs. Prefect's server makes them again within a minute, in
which a run that is due would be lost; so each change makes them at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from deployments.schedules import Schedule, ScheduleType, make_schedule, parse_choice, parse_form
from deployments.training_jobs import (
    OWNER,
    JobRun,
    JobStatus,
    TrainingJob,
    describe_job,
    describe_run,
    due_time,
    is_active,
    make_parameters,
)
from mlops.errors import JobNotFound, RolloutError, ScheduleError, SchedulerUnavailable
from mlops.manager import MLOpsManager
from mlops.rollout.plan import DeploymentConfig, plan_from
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service
from mlops.settings import Settings

TEMPLATE = "train/scheduled"
"""The deployment that each job is a copy of."""

COPIED = (
    "work_pool_name",
    "work_queue_name",
    "path",
    "entrypoint",
    "pull_steps",
    "job_variables",
    "parameter_openapi_schema",
    "enforce_parameter_schema",
)
"""What a job has from the template; the pull steps lead to the clone that deployed it."""

TAG = "training-job"
"""Prefect's tag of the deployments that are jobs."""

JOB_ID = re.compile(r"[a-z]+(\.[^.]+){5}\.[a-z]+\.[0-9a-f]{6}")
"""Model type, the five parts of the service's key, schedule type, and a digest of the schedule."""

PAGE = 200
"""Prefect's page size: the most rows that one call returns."""

WAITING = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
BEGUN = FlowRunFilterStateType(
    any_=[state for state in StateType if state is not StateType.SCHEDULED]
)


@contextmanager
def open_jobs() -> Iterator[Jobs]:
    """The jobs of the server that ``PREFECT_API_URL`` names.

    The client is Prefect's synchronous one, which works with and without a running event loop.

    Raises:
        SchedulerUnavailable: when no server is named, none answers, or `make deploy` was not run.
        ScheduleError: when the server refuses what it was asked for.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise SchedulerUnavailable(
            "no Prefect server keeps jobs: PREFECT_API_URL is empty; run `make serve`, and set it "
            "to http://127.0.0.1:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            yield Jobs(client, client.read_deployment_by_name(TEMPLATE))
    except httpx.TransportError as error:
        raise SchedulerUnavailable(
            f"the Prefect server at {url} does not answer ({error}); start it (`make serve`), or "
            "set PREFECT_API_URL to the one that runs"
        ) from error
    except ObjectNotFound as error:
        raise SchedulerUnavailable(
            f"the Prefect server at {url} has no deployment {TEMPLATE}; run `make deploy` once"
        ) from error
    except PrefectHTTPStatusError as error:
        raise ScheduleError(
            f"the Prefect server at {url} refused it: {error.response.text[:500]}"
        ) from error


@dataclass(frozen=True, slots=True)
class Jobs:
    """All jobs of one server.

    Args:
        template: As it was when the jobs were opened.
    """

    client: SyncPrefectClient
    template: DeploymentResponse

    def start(self) -> None:
        """Let every active job run again."""
        self.client.resume_deployment(self.template.id)
        for job in self.all():
            if is_active(job):
                self._resume(job.id)

    def stop(self) -> None:
        """Pause all jobs: Prefect deletes their scheduled runs, overdue ones too."""
        # First, because a job that is added meanwhile looks at it.
        self._pause(self.template.id)
        for job in self.all():
            self._pause(job.id)

    def are_stopped(self) -> bool:
        """Whether `stop` was called after `start`."""
        return self.client.read_deployment(self.template.id).paused

    def all(self) -> list[DeploymentResponse]:
        """Every job, by id."""
        tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        jobs: list[DeploymentResponse] = []
        while page := self.client.read_deployments(
            deployment_filter=tagged, limit=PAGE, offset=len(jobs), sort=DeploymentSort.NAME_ASC
        ):
            jobs += page
        return jobs

    def find(self, job_id: str) -> DeploymentResponse:
        """The job of that id.

        Raises:
            JobNotFound: naming those that there are.
        """
        known = {job.name: job for job in self.all()}
        if job_id not in known:
            there = ", ".join(known) or "none yet"
            raise JobNotFound(f"no training job {job_id!r}; there are: {there}")
        return known[job_id]

    def save(
        self, job_id: str, schedule: Schedule, parameters: dict[str, Any], *, owner: str = ""
    ) -> None:
        """Create an active job, or replace the one of that id."""
        tags = [f"{OWNER}{owner}"] if owner else []
        self._resume(self.create_paused(job_id, schedule, parameters, tags=tags))

    def create_paused(
        self,
        job_id: str,
        schedule: SCHEDULE_TYPES,
        parameters: dict[str, Any],
        *,
        active: bool = True,
        tags: Sequence[str] = (),
    ) -> UUID:
        """Create or replace a deployment that has no runs before it is resumed.

        Args:
            active: Of the schedule, which the deployment's own switch does not change.
        """
        return self.client.create_deployment(
            flow_id=self.template.flow_id,
            name=job_id,
            schedules=[DeploymentScheduleCreate(schedule=schedule, slug=job_id, active=active)],
            parameters=parameters,
            paused=True,
            tags=[TAG, *tags],
            **_copy(self.template),
        )

    def set_active(self, job: DeploymentResponse, *, active: bool) -> None:
        """Pause or resume a job."""
        for schedule in job.schedules:
            self.client.update_deployment_schedule(job.id, schedule.id, active=active)
        if active:
            self._resume(job.id)
        else:
            self._pause(job.id)

    def remove(self, job: DeploymentResponse) -> None:
        """Delete a job and its runs that have not begun."""
        self.client.delete_deployment(job.id)

    def follow_template(self) -> None:
        """Have every job run where and how the template says."""
        for job in self.all():
            if _copy(job) != _copy(self.template):
                self.client.update_deployment(job.id, DeploymentUpdate(**_copy(self.template)))
                if not job.paused:
                    self.create_scheduled_runs(job.id)

    def run_now(self, job: DeploymentResponse) -> FlowRun:
        """Create a run outside the schedule."""
        return self.client.create_flow_run_from_deployment(job.id)

    def waiting(self, job: DeploymentResponse) -> list[FlowRun]:
        """Runs of a job that have not begun, at most 200, the next one first."""
        return self._read_runs(job, WAITING, FlowRunSort.EXPECTED_START_TIME_ASC, limit=PAGE)

    def begun(self, job: DeploymentResponse, *, limit: int) -> list[FlowRun]:
        """Runs of a job that have begun or ended, newest first."""
        return self._read_runs(job, BEGUN, FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)

    def create_scheduled_runs(self, job: UUID) -> None:
        """Make the next runs of a job now; the server would within a minute."""
        self.client.request("POST", "/deployments/{id}/schedule", path_params={"id": job}, json={})

    def _pause(self, deployment: UUID) -> None:
        # The client's own call would leave overdue runs.
        path = {"id": deployment}
        self.client.request("POST", "/deployments/{id}/pause_deployment", path_params=path)

    def _resume(self, job: UUID) -> None:
        self.client.resume_deployment(job)
        # Looked at after the change: who stops all meanwhile sees this job or is seen here.
        if self.are_stopped():
            self._pause(job)
        else:
            self.create_scheduled_runs(job)

    def _read_runs(
        self,
        job: DeploymentResponse,
        state: FlowRunFilterStateType,
        sort: FlowRunSort,
        *,
        limit: int,
    ) -> list[FlowRun]:
        return self.client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[job.id])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=state)),
            sort=sort,
            limit=limit,
        )


def _copy(deployment: DeploymentResponse) -> dict[str, Any]:
    return {name: getattr(deployment, name) for name in COPIED}


class ModelScheduler:
    """Adds, shows and changes training jobs; ``config`` completes a service from its symbol.

    Every method raises `SchedulerUnavailable` where no Prefect server answers or `make deploy` was
    not run, and `JobNotFound` for an id that no job has.
    """

    def __init__(self, config: Settings, manager: MLOpsManager) -> None:
        self.config = config
        self.manager = manager

    async def start(self) -> None:
        """Check that the server and the deployment are there, and undo `stop`."""
        with open_jobs() as jobs:
            jobs.start()

    async def stop(self) -> None:
        """Let no job of the server begin a run until `start`, jobs added meanwhile included."""
        with open_jobs() as jobs:
            jobs.stop()

    def add_training_job(
        self,
        *,
        model_type: ModelType | str,
        symbol: str,
        schedule_type: ScheduleType | str,
        schedule_config: Mapping[str, Any] | None = None,
        training_config: TrainingConfig | Mapping[str, Any] | None = None,
        deployment_config: DeploymentConfig | Mapping[str, Any] | None = None,
        venue: str | None = None,
        timeframe: str | None = None,
        target: str | None = None,
        horizon: int | None = None,
        owner: str = "",
    ) -> str:
        """Train a service by a schedule; returns the job's id.

        Service, model type and schedule identify a job: adding it again changes its training and
        deployment configuration, and resumes it where it was paused.

        Args:
            schedule_config: ``minute`` (HOURLY); ``hour``, ``minute`` and ``timezone`` (DAILY), and
                ``day_of_week`` (WEEKLY) or ``day_of_month``, 1 to 31 or "last" (MONTHLY); ``cron``
                and ``timezone`` (CRON).
            owner: Who asks for it, shown with the job.

        Raises:
            ScheduleError: before anything is written, naming what is wrong.
            ServiceError: when the parts name no service.
        """
        kind = parse_choice(ModelType, model_type, "model_type")
        frequency = parse_choice(ScheduleType, schedule_type, "schedule_type")
        schedule = make_schedule(frequency, schedule_config)
        service = self.config.service(
            symbol, venue=venue, timeframe=timeframe, target=target, horizon=horizon
        )
        training = parse_form(TrainingConfig, training_config, "training_config")
        deployment = self._check_deployment(deployment_config)
        job_id = _job_id(service, kind, frequency, schedule)
        with open_jobs() as jobs:
            parameters = make_parameters(service, kind, training, deployment)
            jobs.save(job_id, schedule, parameters, owner=owner)
        return job_id

    def remove_training_job(self, job_id: str) -> None:
        """Delete a job and its scheduled runs; runs that have begun go on."""
        with open_jobs() as jobs:
            jobs.remove(jobs.find(job_id))

    def pause_training_job(self, job_id: str) -> None:
        """Let the schedule of a job begin no run until it is resumed."""
        with open_jobs() as jobs:
            jobs.set_active(jobs.find(job_id), active=False)

    def resume_training_job(self, job_id: str) -> None:
        """Let a paused job run again at its next time."""
        with open_jobs() as jobs:
            jobs.set_active(jobs.find(job_id), active=True)

    def run_now(self, job_id: str) -> str:
        """Run a job once, as soon as a worker is free; returns the id of the flow run."""
        with open_jobs() as jobs:
            return str(jobs.run_now(jobs.find(job_id)).id)

    def list_jobs(self) -> tuple[TrainingJob, ...]:
        """All jobs, whoever added them, by id."""
        with open_jobs() as jobs:
            return tuple(describe_job(job) for job in jobs.all())

    def job_status(self, job_id: str) -> JobStatus:
        """A job, its next run and its last one."""
        with open_jobs() as jobs:
            job = jobs.find(job_id)
            scheduled, past = jobs.waiting(job), jobs.begun(job, limit=1)
        return JobStatus(
            describe_job(job),
            next_run=due_time(scheduled[0]) if scheduled else None,
            last_run=describe_run(past[0]) if past else None,
        )

    def job_history(self, job_id: str, *, limit: int = 20) -> tuple[JobRun, ...]:
        """Runs of a job that have begun or ended, newest first."""
        with open_jobs() as jobs:
            return tuple(describe_run(run) for run in jobs.begun(jobs.find(job_id), limit=limit))

    def _check_deployment(
        self, given: DeploymentConfig | Mapping[str, Any] | None
    ) -> DeploymentConfig:
        config = parse_form(DeploymentConfig, given, "deployment_config")
        try:
            plan_from(self.config, config.deployment_strategy, config.changes)
        except RolloutError as error:
            raise ScheduleError(f"deployment_config: {error}; nothing was scheduled") from error
        return config


def _job_id(service: Service, kind: ModelType, frequency: ScheduleType, schedule: Schedule) -> str:
    digest = hashlib.sha256(schedule.model_dump_json().encode()).hexdigest()
    return f"{kind}.{service.key}.{frequency}.{digest[:6]}"
