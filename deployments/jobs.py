"""Jobs as Prefect keeps them: schedules of one deployment, each with a slug and parameters.

Three habits of Prefect's server (3.8) are met here:

- A change to one schedule drops the coming runs of all, and its own scheduler makes them again
  within a minute; what is due in that minute would be lost. Each change here makes them at once.
- Deleting a schedule drops what others have due as well. It is put back.
- A change that names no parameters empties them: so do the switch in the UI and `prefect
  deployment schedule pause`. Every change here names them; a job emptied elsewhere is shown as
  such, and adding it again repairs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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

from deployments.schedules import Schedule
from mlops.errors import JobNotFound, ScheduleError

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
            refuse_emptied(job)
        self.client.update_deployment_schedule(
            self.deployment.id, job.id, active=active, parameters=job.parameters
        )
        if not active:
            self._drop_waiting(job)
        self._plan_runs()

    def remove(self, job: DeploymentSchedule) -> None:
        """Forget a job and what its schedule made and nobody has begun."""
        self._drop_waiting(job)
        overdue = [run for run in self.waiting() if run.auto_scheduled and due(run) <= _now()]
        self.client.delete_deployment_schedule(self.deployment.id, job.id)
        # Prefect has dropped what other jobs had due, too: no worker was free for it.
        for run in overdue:
            self._put_back(run)
        self._plan_runs()

    def run_now(self, job: DeploymentSchedule) -> FlowRun:
        """Ask for a run outside the schedule."""
        refuse_emptied(job)
        return self.client.create_flow_run_from_deployment(
            self.deployment.id, parameters=job.parameters, tags=[_tag(job.slug)]
        )

    def waiting(self, job: DeploymentSchedule | None = None) -> list[FlowRun]:
        """Runs of one job or of all that have not begun, at most 200, the first to come first."""
        found = self._runs(job, WAITING, FlowRunSort.EXPECTED_START_TIME_ASC, limit=PAGE)
        return sorted(found, key=due)

    def begun(self, job: DeploymentSchedule, *, limit: int) -> list[FlowRun]:
        """What a job has run, the newest first."""
        found = self._runs(job, BEGUN, FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)
        return sorted(found, key=due, reverse=True)[:limit]

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


def is_emptied(job: DeploymentSchedule) -> bool:
    """Whether somebody's change took the parameters away: its runs would fail."""
    return not job.parameters.keys() >= PARAMETERS


def refuse_emptied(job: DeploymentSchedule) -> None:
    """Say what to do with such a job."""
    if is_emptied(job):
        raise ScheduleError(
            f"job {job.slug} has lost its parameters: Prefect's own switch for schedules drops "
            "them. Add the job again as it was; it keeps its id"
        )


def due(run: FlowRun) -> datetime:
    """When a run should begin, or should have begun."""
    return run.expected_start_time or datetime.max.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _tag(job_id: str | None) -> str:
    """What marks a run that a job was asked for outside its schedule."""
    return f"job:{job_id}"
