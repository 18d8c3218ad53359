"""Training jobs: a job is a schedule of the Prefect deployment `train/scheduled`.

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
UI shows them. `make deploy` does not change them. Pause them here and not in the UI, whose switch
deletes their parameters. One deployment holds about 200 jobs well: a scan of Prefect's scheduler
then takes 0.1 s, and with 1,000 jobs 2.5 s.

This module works around three properties of Prefect's server (3.8):

- A change to one schedule deletes the scheduled runs of all, and the server makes them again within
  a minute; a run due in that minute would be lost. Here each change makes them at once.
- Deleting a schedule deletes overdue runs of other schedules as well. They are created again.
- A change that names no parameters deletes them; so do the switch in the UI and `prefect deployment
  schedule pause`. Here each change names them. A job that lost them is shown as ``emptied``, and
  adding it again repairs it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterCreatedBy,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.utilities.urls import url_for

from deployments.schedules import Schedule, ScheduleType, make_schedule, parse_choice, parse_form
from mlops.errors import JobNotFound, RolloutError, ScheduleError
from mlops.manager import MLOpsManager
from mlops.rollout.plan import DeploymentConfig, plan_from
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service
from mlops.settings import Settings

DEPLOYMENT = "train/scheduled"

JOB_ID = re.compile(r"[a-z]+(\.[^.]+){5}\.[a-z]+\.[0-9a-f]{6}")
"""Model type, the five parts of the service's key, schedule type, and a digest of the schedule."""

_SERVICE = ("symbol", "venue", "timeframe", "target", "horizon")
PARAMETERS = frozenset((*_SERVICE, "model_type", "training", "deployment_config", "reason"))
"""The parameters that every job passes to the flow."""

AUTO = "auto-scheduled"
"""Prefect's tag of a run that a schedule made."""

PAGE = 200
"""Prefect's page size: the most runs that one call returns."""

REASON = "schedule"
"""A scheduled training refits what was found before, and spends the service's yearly budget."""

WAITING = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
BEGUN = FlowRunFilterStateType(
    any_=[state for state in StateType if state is not StateType.SCHEDULED]
)


@contextmanager
def open_jobs() -> Iterator[Jobs]:
    """The jobs of the server that ``PREFECT_API_URL`` names.

    The client is Prefect's synchronous one, which works with and without a running event loop.

    Raises:
        ScheduleError: when no server is named, none answers, or `make deploy` was not run.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise ScheduleError(
            "no Prefect server keeps jobs: PREFECT_API_URL is empty; run `make serve`, and set it "
            "to http://127.0.0.1:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            yield Jobs(client, client.read_deployment_by_name(DEPLOYMENT))
    except httpx.TransportError as error:
        raise ScheduleError(
            f"the Prefect server at {url} does not answer ({error}); start it (`make serve`), or "
            "set PREFECT_API_URL to the one that runs"
        ) from error
    except ObjectNotFound as error:
        raise ScheduleError(
            f"the Prefect server at {url} has no deployment {DEPLOYMENT}; run `make deploy` once"
        ) from error
    except PrefectHTTPStatusError as error:
        raise ScheduleError(
            f"the Prefect server at {url} refused it: {error.response.text[:500]}"
        ) from error


@dataclass(frozen=True, slots=True)
class Jobs:
    """All jobs of one server; a job is a schedule whose slug is its id."""

    client: SyncPrefectClient
    deployment: DeploymentResponse

    def start(self) -> None:
        """Resume the deployment, and with it every active job."""
        if self.deployment.paused:
            self.client.resume_deployment(self.deployment.id)
            self._create_scheduled_runs(resumed=True)

    def stop(self) -> None:
        """Pause the deployment: Prefect deletes the scheduled runs of all jobs."""
        self.client.pause_deployment(self.deployment.id)

    def all(self) -> list[DeploymentSchedule]:
        """Every job; schedules made in the UI have no such slug and are left out."""
        schedules = self.client.read_deployment_schedules(self.deployment.id)
        jobs = (schedule for schedule in schedules if JOB_ID.fullmatch(schedule.slug or ""))
        return sorted(jobs, key=lambda job: str(job.slug))

    def find(self, job_id: str) -> DeploymentSchedule:
        """The job of that id.

        Raises:
            JobNotFound: naming those that there are.
        """
        known = {str(job.slug): job for job in self.all()}
        if job_id not in known:
            there = ", ".join(known) or "none yet"
            raise JobNotFound(f"no training job {job_id!r}; there are: {there}")
        return known[job_id]

    def save(self, job_id: str, schedule: Schedule, parameters: dict[str, Any]) -> None:
        """Create an active job, or give the job of that id these parameters and activate it."""
        known = next((job for job in self.all() if job.slug == job_id), None)
        if known is None:
            job = DeploymentScheduleCreate(schedule=schedule, slug=job_id, parameters=parameters)
            self.client.create_deployment_schedules(self.deployment.id, [job])
        elif not known.active or known.parameters != parameters:
            self.client.update_deployment_schedule(
                self.deployment.id, known.id, active=True, parameters=parameters
            )
        self._create_scheduled_runs()

    def set_active(self, job: DeploymentSchedule, *, active: bool) -> None:
        """Pause or resume a job."""
        if active:
            require_parameters(job)
        self.client.update_deployment_schedule(
            self.deployment.id, job.id, active=active, parameters=job.parameters
        )
        if not active:
            self._delete_scheduled_runs(job)
        self._create_scheduled_runs()

    def remove(self, job: DeploymentSchedule) -> None:
        """Delete a job and the runs of its schedule that have not begun."""
        self._delete_scheduled_runs(job)
        overdue = [
            run
            for run in self.waiting()
            if run.auto_scheduled and due_time(run) <= datetime.now(UTC)
        ]
        self.client.delete_deployment_schedule(self.deployment.id, job.id)
        # Prefect has deleted overdue runs of other jobs too, for which no worker was free yet.
        for run in overdue:
            self._create_again(run)
        self._create_scheduled_runs()

    def run_now(self, job: DeploymentSchedule) -> FlowRun:
        """Create a run outside the schedule."""
        require_parameters(job)
        return self.client.create_flow_run_from_deployment(
            self.deployment.id, parameters=job.parameters, tags=[_tag(job.slug)]
        )

    def waiting(self, job: DeploymentSchedule | None = None) -> list[FlowRun]:
        """Runs of one job or of all that have not begun, at most 200, the next one first."""
        runs = self._read_runs(job, WAITING, FlowRunSort.EXPECTED_START_TIME_ASC, limit=PAGE)
        return sorted(runs, key=due_time)

    def begun(self, job: DeploymentSchedule, *, limit: int) -> list[FlowRun]:
        """Runs of a job that have begun or ended, newest first."""
        runs = self._read_runs(job, BEGUN, FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)
        return sorted(runs, key=due_time, reverse=True)[:limit]

    def _read_runs(
        self,
        job: DeploymentSchedule | None,
        state: FlowRunFilterStateType,
        sort: FlowRunSort,
        *,
        limit: int,
    ) -> list[FlowRun]:
        """Of a job: the runs of its schedule, and those of `run_now`."""
        filters: list[dict[str, Any]] = [{}]
        if job is not None:
            filters = [
                {"created_by": FlowRunFilterCreatedBy(id_=[job.id])},
                {"tags": FlowRunFilterTags(all_=[_tag(job.slug)])},
            ]
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment.id]))
        return [
            run
            for job_filter in filters
            for run in self.client.read_flow_runs(
                deployment_filter=mine,
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=state), **job_filter),
                sort=sort,
                limit=limit,
            )
        ]

    def _create_scheduled_runs(self, *, resumed: bool = False) -> None:
        # Prefect would create runs of a paused deployment too.
        if resumed or not self.deployment.paused:
            path = {"id": self.deployment.id}
            self.client.request("POST", "/deployments/{id}/schedule", path_params=path, json={})

    def _delete_scheduled_runs(self, job: DeploymentSchedule) -> None:
        """Delete runs of the schedule that have not begun; those of `run_now` stay."""
        for run in self.waiting(job):
            if AUTO in run.tags:
                with suppress(ObjectNotFound):
                    self.client.delete_flow_run(run.id)

    def _create_again(self, run: FlowRun) -> None:
        """Create a deleted run; where it still exists, its idempotency key finds it."""
        job_id = None if run.created_by is None else run.created_by.display_value
        self.client.create_flow_run_from_deployment(
            self.deployment.id,
            parameters=run.parameters,
            tags=[AUTO, _tag(job_id)],
            idempotency_key=run.idempotency_key,
        )


def has_lost_parameters(job: DeploymentSchedule) -> bool:
    """Whether a change outside this module deleted the parameters, so that runs would fail."""
    return not job.parameters.keys() >= PARAMETERS


def require_parameters(job: DeploymentSchedule) -> None:
    """Raises: ScheduleError: for a job whose parameters were deleted in Prefect's UI."""
    if has_lost_parameters(job):
        raise ScheduleError(
            f"job {job.slug} has lost its parameters: Prefect's own switch for schedules drops "
            "them. Add the job again as it was; it keeps its id"
        )


def due_time(run: FlowRun) -> datetime:
    """When a run is to begin, or was to begin."""
    return run.expected_start_time or datetime.max.replace(tzinfo=UTC)


def _tag(job_id: str | None) -> str:
    """Marks the runs of a job outside its schedule."""
    return f"job:{job_id}"


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One job.

    Args:
        schedule: A cron expression or an RRule, in ``timezone``.
        emptied: Prefect's own switch has deleted the configurations; add the job again.
    """

    job_id: str
    service: str
    model_type: ModelType
    schedule_type: ScheduleType
    schedule: str
    timezone: str
    active: bool
    emptied: bool
    training_config: Mapping[str, Any]
    deployment_config: Mapping[str, Any]


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


class ModelScheduler:
    """Adds, shows and changes training jobs; ``config`` completes a service from its symbol.

    Every method raises `ScheduleError` where no Prefect server answers or `make deploy` was not
    run, and `JobNotFound` for an id that no job has.
    """

    def __init__(self, config: Settings, manager: MLOpsManager) -> None:
        self.config = config
        self.manager = manager

    async def start(self) -> None:
        """Check that the server and the deployment are there, and undo `stop`."""
        with open_jobs() as jobs:
            jobs.start()

    async def stop(self) -> None:
        """Let no job of the server begin a run until `start`."""
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
    ) -> str:
        """Train a service by a schedule; returns the job's id.

        Service, model type and schedule identify a job: adding it again changes its training and
        deployment configuration, and resumes it where it was paused.

        Args:
            schedule_config: ``minute`` (HOURLY); ``hour``, ``minute`` and ``timezone`` (DAILY), and
                ``day_of_week`` (WEEKLY) or ``day_of_month``, 1 to 31 or "last" (MONTHLY); ``cron``
                and ``timezone`` (CRON).

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
            jobs.save(job_id, schedule, _parameters(service, kind, training, deployment))
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
            return tuple(_training_job(job) for job in jobs.all())

    def job_status(self, job_id: str) -> JobStatus:
        """A job, its next run and its last one."""
        with open_jobs() as jobs:
            job = jobs.find(job_id)
            scheduled, past = jobs.waiting(job), jobs.begun(job, limit=1)
        return JobStatus(
            _training_job(job),
            next_run=due_time(scheduled[0]) if scheduled else None,
            last_run=_job_run(past[0]) if past else None,
        )

    def job_history(self, job_id: str, *, limit: int = 20) -> tuple[JobRun, ...]:
        """Runs of a job that have begun or ended, newest first."""
        with open_jobs() as jobs:
            return tuple(_job_run(run) for run in jobs.begun(jobs.find(job_id), limit=limit))

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


def _parameters(
    service: Service, kind: ModelType, training: TrainingConfig, deployment: DeploymentConfig
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
        "reason": REASON,
    }


def _training_job(job: DeploymentSchedule) -> TrainingJob:
    kind, *service, frequency, _ = str(job.slug).split(".")
    schedule = job.schedule
    return TrainingJob(
        job_id=str(job.slug),
        service=".".join(service),
        model_type=ModelType(kind),
        schedule_type=ScheduleType(frequency),
        schedule=str(
            getattr(schedule, "cron", None) or getattr(schedule, "rrule", None) or schedule
        ),
        timezone=str(getattr(schedule, "timezone", None) or "UTC"),
        active=job.active,
        emptied=has_lost_parameters(job),
        training_config=job.parameters.get("training", {}),
        deployment_config=job.parameters.get("deployment_config", {}),
    )


def _job_run(run: FlowRun) -> JobRun:
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
