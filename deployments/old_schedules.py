"""Makes jobs of the schedules that earlier releases kept at the deployment `train/scheduled`.

It may be killed at any point and run again: no job is lost or doubled. The tag `MOVING` marks a job
that is paused only because its old schedule may still be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.schemas.actions import DeploymentUpdate

from deployments.scheduler import JOB_ID, TAG, Jobs
from deployments.training_jobs import due_time, is_active

HELD_UP = "AwaitingConcurrencySlot"
MOVING = "moved-from-old-schedule"


def move_old_schedules(jobs: Jobs) -> list[str]:
    """Move every old schedule; returns the ids of the jobs moved now.

    Schedules whose parameters were lost, by Prefect's own switch, stay where they are.
    """
    old = [
        schedule
        for schedule in jobs.template.schedules
        if JOB_ID.fullmatch(schedule.slug or "") and "symbol" in schedule.parameters
    ]
    known = {job.name: job.id for job in jobs.all()}
    moved: dict[UUID | None, UUID] = {}
    for schedule in old:
        job_id = str(schedule.slug)
        # A job of that id is the newer one: added since, or moved before a kill.
        moved[schedule.id] = known.get(job_id) or jobs.create_paused(
            job_id,
            schedule.schedule,
            schedule.parameters,
            active=schedule.active,
            tags=[MOVING],
        )
    _copy_overdue_runs(jobs, moved)
    for schedule in old:
        jobs.client.delete_deployment_schedule(jobs.template.id, schedule.id)
    if old and not jobs.template.paused:
        # For schedules that somebody made in the Prefect UI.
        jobs.create_scheduled_runs(jobs.template.id)
    _resume_moved(jobs)
    return [str(schedule.slug) for schedule in old]


def _copy_overdue_runs(jobs: Jobs, moved: Mapping[UUID | None, UUID]) -> None:
    """Copy the overdue runs of old schedules to their jobs, directly before a deletion.

    Deleting any schedule of a deployment deletes the overdue runs of all. A run that has begun
    by now stays where it is.

    Args:
        jobs: The jobs.
        moved: The deployment of each old schedule.
    """
    for run in jobs.waiting(jobs.template):
        schedule = run.created_by.id if run.created_by is not None else None
        # Prefect keeps a run that a worker has had.
        is_lost = run.auto_scheduled and run.run_count == 0 and run.state_name != HELD_UP
        if schedule in moved and is_lost and due_time(run) <= datetime.now(UTC):
            jobs.client.create_flow_run_from_deployment(
                moved[schedule], idempotency_key=f"moved {run.id}"
            )


def _resume_moved(jobs: Jobs) -> None:
    """Let the moved jobs run, and take their mark away, in one change."""
    for job in jobs.all():
        if MOVING in job.tags:
            paused = jobs.are_stopped() or not is_active(job)
            jobs.client.update_deployment(job.id, DeploymentUpdate(paused=paused, tags=[TAG]))
            if not paused:
                jobs.create_scheduled_runs(job.id)
