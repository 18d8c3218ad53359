"""Training jobs and trainings of the HTTP API, kept and run by Prefect."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.client.schemas.responses import DeploymentResponse

from deployments.scheduler import Jobs, ModelScheduler, open_jobs
from deployments.training_jobs import (
    JobRun,
    describe_job,
    describe_run,
    due_time,
    make_parameters,
)
from mlops.api.jobs import FlowRun, JobRequest, TrainingJob, TrainingRequest
from mlops.manager import MLOpsManager
from mlops.settings import Settings

REASON = "manual"
"""A training that a person asks for searches again."""


class PrefectJobs:
    """The `mlops.api.jobs.TrainingJobs` of the server that ``PREFECT_API_URL`` names."""

    def __init__(self, settings: Settings, manager: MLOpsManager) -> None:
        self._settings = settings
        self._scheduler = ModelScheduler(settings, manager)

    def list_jobs(self, *, after: str | None, limit: int) -> Sequence[TrainingJob]:
        with open_jobs() as jobs:
            later = [job for job in jobs.all() if after is None or job.name > after]
            return [_show_job(jobs, job) for job in later[:limit]]

    def get_job(self, job_id: str) -> TrainingJob:
        with open_jobs() as jobs:
            return _show_job(jobs, jobs.find(job_id))

    def add_job(self, request: JobRequest) -> TrainingJob:
        job_id = self._scheduler.add_training_job(
            model_type=request.model_type,
            symbol=request.symbol,
            schedule_type=request.schedule_type,
            schedule_config=request.schedule_config,
            training_config=request.training,
            deployment_config=request.deployment,
            venue=request.venue,
            timeframe=request.timeframe,
            target=request.target,
            horizon=request.horizon,
            owner=request.owner,
        )
        return self.get_job(job_id)

    def remove_job(self, job_id: str) -> None:
        self._scheduler.remove_training_job(job_id)

    def pause_job(self, job_id: str) -> TrainingJob:
        self._scheduler.pause_training_job(job_id)
        return self.get_job(job_id)

    def resume_job(self, job_id: str) -> TrainingJob:
        self._scheduler.resume_training_job(job_id)
        return self.get_job(job_id)

    def run_job(self, job_id: str) -> FlowRun:
        with open_jobs() as jobs:
            return _show_run(describe_run(jobs.run_now(jobs.find(job_id))))

    def start_training(self, request: TrainingRequest) -> FlowRun:
        service = self._settings.service(
            request.symbol,
            venue=request.venue,
            timeframe=request.timeframe,
            target=request.target,
            horizon=request.horizon,
        )
        parameters = make_parameters(
            service, request.model_type, request.training, request.deployment, reason=REASON
        )
        with open_jobs() as jobs:
            create = jobs.client.create_flow_run_from_deployment
            return _show_run(describe_run(create(jobs.template.id, parameters=parameters)))


def _show_job(jobs: Jobs, deployment: DeploymentResponse) -> TrainingJob:
    job = describe_job(deployment)
    waiting, begun = jobs.waiting(deployment), jobs.begun(deployment, limit=1)
    return TrainingJob(
        job_id=job.job_id,
        service=job.service,
        model_type=job.model_type,
        schedule_type=job.schedule_type,
        schedule=job.schedule,
        timezone=job.timezone,
        active=job.active,
        owner=job.owner,
        next_run=due_time(waiting[0]) if waiting else None,
        last_run=_show_run(describe_run(begun[0])) if begun else None,
        training_config=job.training_config,
        deployment_config=job.deployment_config,
    )


def _show_run(run: JobRun) -> FlowRun:
    return FlowRun(
        flow_run_id=run.flow_run_id, name=run.name, state=run.state, due=run.due, url=run.url
    )
