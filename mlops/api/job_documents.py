"""Training jobs and runs of trainings, as answers."""

from __future__ import annotations

from mlops.api.documents import Document, Id, Json, Utc
from mlops.api.jobs import FlowRun, TrainingJob


class FlowRunDocument(Document):
    """A run of a training; ``state`` is Prefect's word, ``url`` the run's page there."""

    flow_run_id: str
    name: str
    state: str
    due: Utc | None
    url: str

    @classmethod
    def of(cls, run: FlowRun) -> FlowRunDocument:
        return cls(**{name: getattr(run, name) for name in cls.model_fields})


class JobDocument(Document):
    """A training that is repeated.

    ``schedule`` is a cron expression or an RRule in ``timezone``. ``owner`` is who added the job;
    empty where it was not added over this API. ``next_run`` is null while the job is paused.
    """

    job_id: Id
    service: Id
    model_type: str
    schedule_type: str
    schedule: str
    timezone: str
    active: bool
    owner: str
    next_run: Utc | None
    last_run: FlowRunDocument | None
    training_config: Json
    deployment_config: Json

    @classmethod
    def of(cls, job: TrainingJob) -> JobDocument:
        own = {name: getattr(job, name) for name in cls.model_fields}
        last = None if job.last_run is None else FlowRunDocument.of(job.last_run)
        return cls(
            **own
            | {
                "last_run": last,
                "training_config": dict(job.training_config),
                "deployment_config": dict(job.deployment_config),
            }
        )


class JobPage(Document):
    """Jobs by id; ``next`` is the cursor of the next page."""

    jobs: list[JobDocument]
    next: str | None
