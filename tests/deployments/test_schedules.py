"""On a real server: jobs create runs at their times, outlive it, and do not disturb one another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

from deployments import ModelScheduler, ScheduleType
from deployments.scheduler import DEPLOYMENT, due_time, open_jobs
from mlops.errors import JobNotFound, ScheduleError
from mlops.manager import MLOpsManager
from mlops.settings import current_settings
from tests.prefect_server import PrefectServer, running, runs, until
from tests.project import QUICK, Place, made_place

pytestmark = pytest.mark.slow
BERLIN = ZoneInfo("Europe/Berlin")
AT_HALF_PAST_TWO = {"hour": 2, "minute": 30, "timezone": "Europe/Berlin"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Place]:
    with made_place(tmp_path_factory.mktemp("project"), mlflow_template) as place:
        yield place


@pytest.fixture(scope="module")
def server(
    project: Place, tmp_path_factory: pytest.TempPathFactory, prefect_template: Path
) -> Iterator[PrefectServer]:
    with running(tmp_path_factory.mktemp("prefect"), prefect_template) as started:
        yield started


@pytest.fixture
def client(server: PrefectServer) -> Iterator[SyncPrefectClient]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def scheduler(client: SyncPrefectClient) -> ModelScheduler:
    return ModelScheduler(current_settings(), MLOpsManager(current_settings()))


@pytest.fixture(scope="module")
def everything(server: PrefectServer) -> None:
    server.deploy_all()


@pytest.fixture
def deployed(everything: None, scheduler: ModelScheduler) -> Iterator[ModelScheduler]:
    yield scheduler
    for job in scheduler.list_jobs():
        scheduler.remove_training_job(job.job_id)


def add(scheduler: ModelScheduler, **changes: Any) -> str:
    given: dict[str, Any] = {
        "model_type": "lstm",
        "symbol": "BTC/USDT",
        "schedule_type": ScheduleType.DAILY,
        "schedule_config": AT_HALF_PAST_TWO,
        "training_config": {"data_window_days": 30, "validation_split": 0.2},
        "deployment_config": {"auto_deploy": True, "deployment_strategy": "blue_green"},
        **changes,
    }
    return scheduler.add_training_job(**given)


def coming(job_id: str) -> list[datetime]:
    with open_jobs() as jobs:
        return [due_time(run) for run in jobs.waiting(jobs.find(job_id))]


def test_before_anything_is_deployed_it_says_what_to_run(scheduler: ModelScheduler) -> None:
    with pytest.raises(ScheduleError, match="make deploy"):
        asyncio.run(scheduler.start())


def test_a_job_has_its_runs_at_once_and_at_its_times(
    deployed: ModelScheduler, client: SyncPrefectClient
) -> None:
    async def notebook() -> str:
        """A loop runs there, and the call is not awaited."""
        await deployed.start()
        return add(deployed)

    job_id = asyncio.run(notebook())
    times = [time.astimezone(BERLIN) for time in coming(job_id)]
    assert len(times) >= 3
    assert {time.strftime("%H:%M") for time in times} == {"02:30"}
    assert len({time.date() for time in times}) == len(times)
    assert deployed.job_status(job_id).next_run == times[0]
    first = min(runs(client, DEPLOYMENT), key=due_time)
    assert first.created_by is not None
    assert first.created_by.display_value == job_id
    assert first.parameters["deployment_config"]["auto_deploy"] is True
    assert first.parameters["reason"] == "schedule"


def test_adding_a_job_again_changes_it(deployed: ModelScheduler) -> None:
    job_id = add(deployed)
    deployed.pause_training_job(job_id)
    assert add(deployed, training_config={"data_window_days": 60}) == job_id
    (job,) = deployed.list_jobs()
    assert job.training_config == {"data_window_days": 60}
    assert job.active


def test_jobs_outlive_the_server(deployed: ModelScheduler, server: PrefectServer) -> None:
    job_id = add(deployed)
    before, job = coming(job_id), deployed.list_jobs()
    server.stop()
    with pytest.raises(ScheduleError, match="does not answer"):
        deployed.list_jobs()
    server.start()
    assert deployed.list_jobs() == job
    assert coming(job_id)[: len(before)] == before


def test_deploying_again_leaves_jobs_alone(
    deployed: ModelScheduler, server: PrefectServer, client: SyncPrefectClient
) -> None:
    """Also where somebody made a schedule in the UI, which has no name."""
    job_id = add(deployed)
    known = deployed.list_jobs()
    nameless = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(days=9)))
    deployment = client.read_deployment_by_name(DEPLOYMENT).id
    (made,) = client.create_deployment_schedules(deployment, [nameless])
    server.deploy_all()
    assert deployed.list_jobs() == known
    until(lambda: coming(job_id), 90)
    client.delete_deployment_schedule(deployment, made.id)


def test_a_paused_job_has_no_runs_until_it_is_resumed(deployed: ModelScheduler) -> None:
    job_id, other = add(deployed), add(deployed, model_type="linear")
    before = coming(job_id)
    deployed.pause_training_job(job_id)
    assert coming(job_id) == []
    assert len(coming(other)) >= 3
    assert deployed.job_status(job_id).next_run is None
    deployed.resume_training_job(job_id)
    assert coming(job_id)[:3] == before[:3]


def test_a_job_that_prefects_own_switch_has_emptied_is_repaired_by_adding_it_again(
    deployed: ModelScheduler, client: SyncPrefectClient
) -> None:
    job_id, known = add(deployed), deployed.list_jobs()
    with open_jobs() as jobs:
        client.update_deployment_schedule(jobs.deployment.id, jobs.find(job_id).id, active=False)
    (job,) = deployed.list_jobs()
    assert (job.emptied, job.service) == (True, known[0].service)
    for refused in (deployed.resume_training_job, deployed.run_now):
        with pytest.raises(ScheduleError, match="Add the job again"):
            refused(job_id)
    assert add(deployed) == job_id
    assert deployed.list_jobs() == known


def test_a_stopped_scheduler_runs_nothing_until_it_is_started(deployed: ModelScheduler) -> None:
    job_id = add(deployed)
    asyncio.run(deployed.stop())
    add(deployed, model_type="linear")
    with open_jobs() as jobs:
        assert jobs.waiting() == []
    asyncio.run(deployed.start())
    assert coming(job_id)


def test_a_removed_job_is_gone_and_what_others_have_due_is_not(
    deployed: ModelScheduler, client: SyncPrefectClient
) -> None:
    job_id, other = add(deployed), add(deployed, model_type="linear")
    now = datetime.now(UTC)
    missed = {
        "start_time": (now - timedelta(days=1)).isoformat(),
        "end_time": now.isoformat(),
        "min_runs": 1,
        "max_runs": 1,
    }
    where = {"id": client.read_deployment_by_name(DEPLOYMENT).id}
    client.request("POST", "/deployments/{id}/schedule", path_params=where, json=missed)
    assert coming(job_id)[0] < now
    before = coming(other)
    assert before[0] < now
    deployed.remove_training_job(job_id)
    assert [job.job_id for job in deployed.list_jobs()] == [other]
    # Made again, it is due now.
    after = coming(other)
    assert len(after) == len(before)
    assert after[0] < datetime.now(UTC)
    with pytest.raises(JobNotFound, match=other):
        deployed.remove_training_job(job_id)


def test_a_cron_creates_runs(deployed: ModelScheduler) -> None:
    job_id = add(deployed, schedule_type="cron", schedule_config={"cron": "*/5 * * * *"})
    times = until(lambda: coming(job_id))
    assert {time.minute % 5 for time in times} == {0}
    assert {(later - sooner).total_seconds() for sooner, later in pairwise(times)} == {300}


def test_a_job_run_now_trains(
    deployed: ModelScheduler, server: PrefectServer, project: Place
) -> None:
    job_id = add(
        deployed,
        model_type="linear",
        symbol="BTC/USD",
        venue="simulator",
        training_config={"bars_file": str(project.bars), **QUICK},
        deployment_config={"auto_deploy": False},
    )
    run_id = deployed.run_now(job_id)
    server.run("-m", "prefect", "flow-run", "execute", run_id)
    (run,) = deployed.job_history(job_id)
    assert (run.flow_run_id, run.state) == (run_id, "Completed")
    assert deployed.job_status(job_id).last_run == run
    assert MLOpsManager(current_settings()).list_models(model_type="linear")
