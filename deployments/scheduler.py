"""Training jobs: schedules of the Prefect deployment `train/scheduled`, in the platform's words.

    scheduler = ModelScheduler(mlops_config, manager)
    await scheduler.start()
    job_id = scheduler.add_training_job(
        model_type="lstm",
        symbol="BTC/USDT",
        schedule_type=ScheduleType.DAILY,
        schedule_config={"hour": 2, "minute": 0, "timezone": "Europe/Berlin"},
        deployment_config={"auto_deploy": True},
    )

Nothing is kept here: jobs live in the Prefect server, survive its restarts and those of workers
and notebooks, and are seen in its UI. Pause them here, not there: Prefect's own switch empties
their parameters. `make deploy` leaves them alone. One deployment carries about 200 jobs well: a
scan of Prefect's scheduler then takes 0.1 s, and with 1,000 jobs 2.5 s.

[[Jobs as Prefect keeps them: schedules of one deployment, each with a slug and parameters.

Three habits of Prefect's server (3.8) are met here:

- A change to one schedule drops the coming runs of all, and its own scheduler makes them again
  within a minute; what is due in that minute would be lost. Each change here makes them at once.
- Deleting a schedule drops what others have due as well. It is put back.
- A change that names no parameters empties them: so do the switch in the UI and `prefect
  deployment schedule pause`. Every change here names them; a job emptied elsewhere is shown as
  such, and adding it again repairs it.]]
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
"""Model type, the five parts of the service's key, how often, and a digest of when."""

_SERVICE = ("symbol", "venue", "timeframe", "target", "horizon")
PARAMETERS = frozenset((*_SERVICE, "model_type", "training", "deployment_config", "reason"))
"""What every job calls the flow with."""

AUTO = "auto-scheduled"
"""Prefect's own tag of a run that a schedule made."""

PAGE = 200
WAITING = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
BEGUN = FlowRunFilterStateType(any_=[one for one in StateType if one is not StateType.SCHEDULED])


@contextmanager
def open_jobs() -> Iterator[Jobs]:
    """The jobs of the server that ``PREFECT_API_URL`` names.

    Prefect's client that is not async works with and without a running loop.

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
        """Let jobs run, where they were stopped."""
        if self.deployment.paused:
            self.client.resume_deployment(self.deployment.id)
            self._ask_for_runs()

    def stop(self) -> None:
        """Let no job begin a run; Prefect drops the coming ones."""
        self.client.pause_deployment(self.deployment.id)

    def all(self) -> list[DeploymentSchedule]:
        """Every job; a schedule that somebody made in the UI, without such an id, is none."""
        known = self.client.read_deployment_schedules(self.deployment.id)
        jobs = (one for one in known if JOB_ID.fullmatch(one.slug or ""))
        return sorted(jobs, key=lambda one: str(one.slug))

    def find(self, job_id: str) -> DeploymentSchedule:
        """The job of that id.

        Raises:
            JobNotFound: naming those that there are.
        """
        known = {str(one.slug): one for one in self.all()}
        if job_id not in known:
            there = ", ".join(known) or "none yet"
            raise JobNotFound(f"no training job {job_id!r}; there are: {there}")
        return known[job_id]

    def write(self, job_id: str, schedule: Schedule, parameters: dict[str, Any]) -> None:
        """Make a job, or give the one of that id these parameters; it is active then."""
        known = next((one for one in self.all() if one.slug == job_id), None)
        if known is None:
            job = DeploymentScheduleCreate(schedule=schedule, slug=job_id, parameters=parameters)
            self.client.create_deployment_schedules(self.deployment.id, [job])
        elif not known.active or known.parameters != parameters:
            self.client.update_deployment_schedule(
                self.deployment.id, known.id, active=True, parameters=parameters
            )
        self._plan_runs()

    def switch(self, job: DeploymentSchedule, *, active: bool) -> None:
        """Pause or resume a job."""
        if active:
            require_parameters(job)
        self.client.update_deployment_schedule(
            self.deployment.id, job.id, active=active, parameters=job.parameters
        )
        if not active:
            self._drop_waiting(job)
        self._plan_runs()

    def remove(self, job: DeploymentSchedule) -> None:
        """Forget a job and what its schedule made and nobody has begun."""
        self._drop_waiting(job)
        overdue = [run for run in self.waiting() if run.auto_scheduled and due_time(run) <= _now()]
        self.client.delete_deployment_schedule(self.deployment.id, job.id)
        # Prefect has dropped what other jobs had due, too: no worker was free for it.
        for run in overdue:
            self._put_back(run)
        self._plan_runs()

    def run_now(self, job: DeploymentSchedule) -> FlowRun:
        """Ask for a run outside the schedule."""
        require_parameters(job)
        return self.client.create_flow_run_from_deployment(
            self.deployment.id, parameters=job.parameters, tags=[_tag(job.slug)]
        )

    def waiting(self, job: DeploymentSchedule | None = None) -> list[FlowRun]:
        """Runs of one job or of all that have not begun, at most 200, the first to come first."""
        found = self._runs(job, WAITING, FlowRunSort.EXPECTED_START_TIME_ASC, limit=PAGE)
        return sorted(found, key=due_time)

    def begun(self, job: DeploymentSchedule, *, limit: int) -> list[FlowRun]:
        """What a job has run, the newest first."""
        found = self._runs(job, BEGUN, FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)
        return sorted(found, key=due_time, reverse=True)[:limit]

    def _runs(
        self,
        job: DeploymentSchedule | None,
        state: FlowRunFilterStateType,
        sort: FlowRunSort,
        *,
        limit: int,
    ) -> list[FlowRun]:
        """Those a job's schedule made, and those it was asked for."""
        parts: list[dict[str, Any]] = [{}]
        if job is not None:
            parts = [
                {"created_by": FlowRunFilterCreatedBy(id_=[job.id])},
                {"tags": FlowRunFilterTags(all_=[_tag(job.slug)])},
            ]
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment.id]))
        return [
            run
            for part in parts
            for run in self.client.read_flow_runs(
                deployment_filter=mine,
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=state), **part),
                sort=sort,
                limit=limit,
            )
        ]

    def _plan_runs(self) -> None:
        # Prefect would make them of a paused deployment, too.
        if not self.deployment.paused:
            self._ask_for_runs()

    def _ask_for_runs(self) -> None:
        path = {"id": self.deployment.id}
        self.client.request("POST", "/deployments/{id}/schedule", path_params=path, json={})

    def _drop_waiting(self, job: DeploymentSchedule) -> None:
        """Drop what the schedule made and nobody has begun; what a person asked for stays."""
        for run in self.waiting(job):
            if AUTO in run.tags:
                with suppress(ObjectNotFound):
                    self.client.delete_flow_run(run.id)

    def _put_back(self, run: FlowRun) -> None:
        """Make a run again; where it is still there, its key finds it."""
        job_id = None if run.created_by is None else run.created_by.display_value
        self.client.create_flow_run_from_deployment(
            self.deployment.id,
            parameters=run.parameters,
            tags=[AUTO, _tag(job_id)],
            idempotency_key=run.idempotency_key,
        )


def has_lost_parameters(job: DeploymentSchedule) -> bool:
    """Whether somebody's change took the parameters away: its runs would fail."""
    return not job.parameters.keys() >= PARAMETERS


def require_parameters(job: DeploymentSchedule) -> None:
    """Say what to do with such a job."""
    if has_lost_parameters(job):
        raise ScheduleError(
            f"job {job.slug} has lost its parameters: Prefect's own switch for schedules drops "
            "them. Add the job again as it was; it keeps its id"
        )


def due_time(run: FlowRun) -> datetime:
    """When a run should begin, or should have begun."""
    return run.expected_start_time or datetime.max.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _tag(job_id: str | None) -> str:
    """What marks a run that a job was asked for outside its schedule."""
    return f"job:{job_id}"


REASON = "schedule"
"""A scheduled training refits what was found before, and spends the service's yearly budget."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One job; ``schedule`` is a cron expression or an RRule, in ``timezone``.

    ``emptied``: Prefect's own switch has dropped its configurations; it must be added again.
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
    """One run of a job; ``state`` is Prefect's, ``url`` where its UI shows the run."""

    flow_run_id: str
    name: str
    state: str
    message: str
    due_time: datetime
    started: datetime | None
    ended: datetime | None
    url: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job, when it runs next, and how it ran last; None where it will not, or has not."""

    job: TrainingJob
    next_run: datetime | None
    last_run: JobRun | None


class ModelScheduler:
    """Adds, shows and changes training jobs; ``config`` says what a symbol alone means.

    Every method raises `ScheduleError` where no Prefect server answers or `make deploy` was not
    run, and `JobNotFound` for an id that no job has.
    """

    def __init__(self, config: Settings, manager: MLOpsManager) -> None:
        self.config = config
        self.manager = manager

    async def start(self) -> None:
        """Let jobs run: see that they can, and undo `stop`. It may be called again."""
        with open_jobs() as jobs:
            jobs.start()

    async def stop(self) -> None:
        """Let no job begin a run until `start`, whoever added it; to leave, just leave."""
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

        ``schedule_config`` has ``minute`` (HOURLY); ``hour``, ``minute`` and ``timezone`` (DAILY)
        with ``day_of_week`` (WEEKLY) or ``day_of_month``, 1 to 31 or "last" (MONTHLY); or ``cron``
        and ``timezone`` (CRON). One service, model type and schedule are one job: adding it again
        changes its other two configurations, and switches it on where it was paused.

        Raises:
            ScheduleError: before anything is written, naming what is wrong.
            ServiceError: when the parts name no service.
        """
        kind = parse_choice(ModelType, model_type, "model_type")
        often = parse_choice(ScheduleType, schedule_type, "schedule_type")
        schedule = make_schedule(often, schedule_config)
        service = self.config.service(
            symbol, venue=venue, timeframe=timeframe, target=target, horizon=horizon
        )
        training = parse_form(TrainingConfig, training_config, "training_config")
        deploying = self._deployable(deployment_config)
        job_id = _job_id(service, kind, often, schedule)
        with open_jobs() as jobs:
            jobs.write(job_id, schedule, _parameters(service, kind, training, deploying))
        return job_id

    def remove_training_job(self, job_id: str) -> None:
        """Forget a job and its coming runs; runs at work go on."""
        with open_jobs() as jobs:
            jobs.remove(jobs.find(job_id))

    def pause_training_job(self, job_id: str) -> None:
        """Begin no run of a job by its schedule until it is resumed."""
        with open_jobs() as jobs:
            jobs.switch(jobs.find(job_id), active=False)

    def resume_training_job(self, job_id: str) -> None:
        """Let a paused job run again from its next time on."""
        with open_jobs() as jobs:
            jobs.switch(jobs.find(job_id), active=True)

    def run_now(self, job_id: str) -> str:
        """Run a job once, as soon as a worker is free; the id of the flow run."""
        with open_jobs() as jobs:
            return str(jobs.run_now(jobs.find(job_id)).id)

    def list_jobs(self) -> tuple[TrainingJob, ...]:
        """All jobs, whoever added them, by id."""
        with open_jobs() as jobs:
            return tuple(_job(one) for one in jobs.all())

    def job_status(self, job_id: str) -> JobStatus:
        """A job, its next run and its last one."""
        with open_jobs() as jobs:
            job = jobs.find(job_id)
            coming, past = jobs.waiting(job), jobs.begun(job, limit=1)
        return JobStatus(
            _job(job),
            next_run=due_time(coming[0]) if coming else None,
            last_run=_job_run(past[0]) if past else None,
        )

    def job_history(self, job_id: str, *, limit: int = 20) -> tuple[JobRun, ...]:
        """What a job has run, the newest first."""
        with open_jobs() as jobs:
            return tuple(_job_run(run) for run in jobs.begun(jobs.find(job_id), limit=limit))

    def _deployable(self, given: DeploymentConfig | Mapping[str, Any] | None) -> DeploymentConfig:
        config = parse_form(DeploymentConfig, given, "deployment_config")
        try:
            plan_from(self.config, config.deployment_strategy, config.changes)
        except RolloutError as error:
            raise ScheduleError(f"deployment_config: {error}; nothing was scheduled") from error
        return config


def _job_id(service: Service, kind: ModelType, often: ScheduleType, schedule: Schedule) -> str:
    """The same service, model type and schedule have the same id, and it can be read back."""
    when = hashlib.sha256(schedule.model_dump_json().encode()).hexdigest()
    return f"{kind}.{service.key}.{often}.{when[:6]}"


def _parameters(
    service: Service, kind: ModelType, training: TrainingConfig, deploying: DeploymentConfig
) -> dict[str, Any]:
    """What the flow is called with; the whole service, for a worker's settings may differ."""
    return {
        "symbol": service.symbol,
        "venue": service.venue,
        "timeframe": service.timeframe.name,
        "target": str(service.target),
        "horizon": service.horizon,
        "model_type": str(kind),
        "training": training.model_dump(mode="json", exclude_unset=True),
        "deployment_config": deploying.model_dump(mode="json", exclude_unset=True),
        "reason": REASON,
    }


def _job(job: DeploymentSchedule) -> TrainingJob:
    kind, *service, often, _ = str(job.slug).split(".")
    when = job.schedule
    return TrainingJob(
        job_id=str(job.slug),
        service=".".join(service),
        model_type=ModelType(kind),
        schedule_type=ScheduleType(often),
        schedule=str(getattr(when, "cron", None) or getattr(when, "rrule", None) or when),
        timezone=str(getattr(when, "timezone", None) or "UTC"),
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
