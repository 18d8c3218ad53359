"""Training jobs kept in memory, for tests of the API that need no Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mlops.api.jobs import FlowRun, JobRequest, TrainingJob, TrainingRequest
from mlops.errors import JobNotFound
from mlops.settings import Settings

DUE = datetime(2025, 1, 2, 2, tzinfo=UTC)


class JobsInMemory:
    """A `TrainingJobs`; ``requests`` holds the trainings that were asked for."""

    def __init__(self) -> None:
        self.jobs: dict[str, TrainingJob] = {}
        self.requests: list[TrainingRequest] = []

    def list_jobs(self, *, after: str | None, limit: int) -> Sequence[TrainingJob]:
        later = [key for key in sorted(self.jobs) if after is None or key > after]
        return [self.jobs[key] for key in later[:limit]]

    def get_job(self, job_id: str) -> TrainingJob:
        if job_id not in self.jobs:
            raise JobNotFound(f"no training job {job_id!r}; there are: {', '.join(self.jobs)}")
        return self.jobs[job_id]

    def add_job(self, request: JobRequest) -> TrainingJob:
        self.requests.append(request)
        service = Settings(_env_file=None).service(request.symbol, venue=request.venue).key
        at = request.schedule_config
        job = TrainingJob(
            job_id=f"{request.model_type}.{service}.{request.schedule_type}.0a1b2c",
            service=service,
            model_type=str(request.model_type),
            schedule_type=request.schedule_type,
            schedule=f"{at.get('minute', 0)} {at.get('hour', 2)} * * *",
            timezone="UTC",
            active=True,
            owner=request.owner,
            next_run=DUE,
            last_run=None,
            training_config=request.training.model_dump(mode="json", exclude_unset=True),
            deployment_config=request.deployment.model_dump(mode="json", exclude_unset=True),
        )
        self.jobs[job.job_id] = job
        return job

    def remove_job(self, job_id: str) -> None:
        self.get_job(job_id)
        del self.jobs[job_id]

    def pause_job(self, job_id: str) -> TrainingJob:
        return self._change(job_id, active=False, next_run=None)

    def resume_job(self, job_id: str) -> TrainingJob:
        return self._change(job_id, active=True, next_run=DUE)

    def run_job(self, job_id: str) -> FlowRun:
        return _run(self.get_job(job_id).job_id)

    def start_training(self, request: TrainingRequest) -> FlowRun:
        self.requests.append(request)
        return _run(request.symbol)

    def _change(self, job_id: str, **changes: object) -> TrainingJob:
        self.jobs[job_id] = replace(self.get_job(job_id), **changes)  # type: ignore[arg-type]
        return self.jobs[job_id]


def _run(name: str) -> FlowRun:
    return FlowRun(flow_run_id="run-1", name=name, state="Scheduled", due=DUE, url="http://ui/1")
