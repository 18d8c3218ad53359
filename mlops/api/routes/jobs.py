"""Training jobs: listed, added, removed, paused, resumed, run once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from mlops.api.context import Actor, ApiContext, Context
from mlops.api.documents import PathId
from mlops.api.job_documents import FlowRunDocument, JobDocument, JobPage
from mlops.api.jobs import JobRequest, TrainingJobs
from mlops.api.paging import Cursor, read_name_cursor, write_name_cursor
from mlops.api.problems import Problem, list_problems
from mlops.api.strict_requests import StrictRoute
from mlops.api.training_bodies import TrainBody

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)

FAILURES = list_problems("not-found", "invalid-request", "not-available")

MOST_JOBS, USUAL_JOBS = 50, 20
"""Prefect is asked twice for each job of a page."""

ScheduleConfig = Annotated[dict[str, str | int], Field(max_length=10)]


def find_jobs(context: Context) -> TrainingJobs:
    """The keeper of jobs.

    Raises:
        Problem: where this process has none.
    """
    if context.open_jobs is None:
        raise Problem(
            "not-available",
            "no Prefect server keeps jobs and runs trainings for this process; start it with "
            "`make serve`, and set PREFECT_API_URL",
        )
    return context.open_jobs()


Jobs = Annotated[TrainingJobs, Depends(find_jobs)]


class JobBody(TrainBody):
    """A training that is repeated by a schedule.

    `schedule_config` has `minute` (hourly); `hour`, `minute` and `timezone` (daily), and
    `day_of_week` (weekly) or `day_of_month` (monthly); `cron` and `timezone` (cron).
    """

    schedule_type: Annotated[str, Field(pattern=r"^(hourly|daily|weekly|monthly|cron)$")]
    schedule_config: ScheduleConfig = Field(default_factory=dict)

    def to_job(self, context: ApiContext, actor: str) -> JobRequest:
        """The job that is asked for, which belongs to ``actor``."""
        parts: dict[str, Any] = self.list_parts(context.manager.config, actor)
        return JobRequest(
            **parts,
            schedule_type=self.schedule_type,
            schedule_config=self.schedule_config,
            owner=actor,
        )


@router.get("", responses=list_problems("invalid-request", "not-available"))
def list_jobs(
    jobs: Jobs,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = USUAL_JOBS,
) -> JobPage:
    """All jobs by id, whoever added them, with their next and last runs."""
    rows = jobs.list_jobs(after=read_name_cursor(cursor), limit=limit + 1)
    page = rows[:limit]
    after = page[-1].job_id if len(rows) > limit else None
    return JobPage(jobs=[JobDocument.of(row) for row in page], next=write_name_cursor(after))


@router.get("/{job_id}", responses=FAILURES)
def get_job(job_id: PathId, jobs: Jobs) -> JobDocument:
    """One job."""
    return JobDocument.of(jobs.get_job(job_id))


@router.post("", status_code=201, responses=list_problems("invalid-request", "not-available"))
def add_job(body: JobBody, context: Context, jobs: Jobs, actor: Actor) -> JobDocument:
    """Train a service by a schedule.

    Service, model type and schedule name a job: added again, it gets the new configuration and is
    resumed where it was paused.
    """
    return JobDocument.of(jobs.add_job(body.to_job(context, actor)))


@router.delete("/{job_id}", status_code=204, responses=FAILURES)
def remove_job(job_id: PathId, jobs: Jobs) -> None:
    """Delete a job; runs that have begun go on."""
    jobs.remove_job(job_id)


@router.post("/{job_id}/pause", responses=FAILURES)
def pause_job(job_id: PathId, jobs: Jobs) -> JobDocument:
    """Let the schedule begin no run until the job is resumed."""
    return JobDocument.of(jobs.pause_job(job_id))


@router.post("/{job_id}/resume", responses=FAILURES)
def resume_job(job_id: PathId, jobs: Jobs) -> JobDocument:
    """Let a paused job run again at its next time."""
    return JobDocument.of(jobs.resume_job(job_id))


@router.post("/{job_id}/run", status_code=202, responses=FAILURES)
def run_job(job_id: PathId, jobs: Jobs) -> FlowRunDocument:
    """Run a job once, as soon as a worker is free."""
    return FlowRunDocument.of(jobs.run_job(job_id))
