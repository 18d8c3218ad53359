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
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect.client.schemas.objects import DeploymentSchedule, FlowRun
from prefect.utilities.urls import url_for

from deployments.jobs import due, is_emptied, open_jobs
from deployments.schedules import Schedule, ScheduleType, checked, chosen, schedule_of
from mlops.errors import RolloutError, ScheduleError
from mlops.manager import MLOpsManager
from mlops.rollout.config import DeploymentConfig, plan_from
from mlops.service import Service
from mlops.settings import Settings
from mlops.training.plan import ModelType, TrainingConfig

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
    due: datetime
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
        kind = chosen(ModelType, model_type, "model_type")
        often = chosen(ScheduleType, schedule_type, "schedule_type")
        schedule = schedule_of(often, schedule_config)
        service = self.config.service(
            symbol, venue=venue, timeframe=timeframe, target=target, horizon=horizon
        )
        training = checked(TrainingConfig, training_config, "training_config")
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
            next_run=due(coming[0]) if coming else None,
            last_run=_job_run(past[0]) if past else None,
        )

    def job_history(self, job_id: str, *, limit: int = 20) -> tuple[JobRun, ...]:
        """What a job has run, the newest first."""
        with open_jobs() as jobs:
            return tuple(_job_run(run) for run in jobs.begun(jobs.find(job_id), limit=limit))

    def _deployable(self, given: DeploymentConfig | Mapping[str, Any] | None) -> DeploymentConfig:
        config = checked(DeploymentConfig, given, "deployment_config")
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
        emptied=is_emptied(job),
        training_config=job.parameters.get("training", {}),
        deployment_config=job.parameters.get("deployment_config", {}),
    )


def _job_run(run: FlowRun) -> JobRun:
    return JobRun(
        flow_run_id=str(run.id),
        name=run.name,
        state=run.state_name or "",
        message=(run.state and run.state.message) or "",
        due=due(run),
        started=run.start_time,
        ended=run.end_time,
        url=url_for("flow-run", obj_id=run.id) or "",
    )
