"""On a real server: jobs create runs at their times, outlive it, and do not disturb one another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate

from deployments import ModelScheduler, ScheduleType
from deployments.scheduler import Jobs, open_jobs
from deployments.setup import JOB_QUEUE, ROOT
from deployments.training_jobs import due_time
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
    first = min(runs(client, f"train/{job_id}"), key=due_time)
    assert first.created_by is not None
    assert first.created_by.display_value == job_id
    assert first.work_queue_name == JOB_QUEUE
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


def test_deploying_again_leads_every_job_to_the_clone_that_deploys(
    deployed: ModelScheduler, server: PrefectServer, client: SyncPrefectClient
) -> None:
    """Its parameters, its runs and whether it is paused stay."""
    job_id, paused = add(deployed), add(deployed, model_type="linear")
    deployed.pause_training_job(paused)
    known, before = deployed.list_jobs(), coming(job_id)
    elsewhere = [{"prefect.deployments.steps.set_working_directory": {"directory": "/gone"}}]
    with open_jobs() as jobs:
        for job in jobs.all():
            client.update_deployment(job.id, DeploymentUpdate(pull_steps=elsewhere))
    server.deploy_all()
    assert deployed.list_jobs() == known
    assert coming(job_id)[: len(before)] == before
    assert coming(paused) == []
    with open_jobs() as jobs:
        steps = [job.pull_steps for job in jobs.all()]
    here = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    assert steps == [here, here]


def test_a_paused_job_has_no_runs_until_it_is_resumed(deployed: ModelScheduler) -> None:
    job_id, other = add(deployed), add(deployed, model_type="linear")
    before = coming(job_id)
    deployed.pause_training_job(job_id)
    assert coming(job_id) == []
    assert len(coming(other)) >= 3
    assert deployed.job_status(job_id).next_run is None
    deployed.resume_training_job(job_id)
    assert coming(job_id)[:3] == before[:3]


def test_prefects_own_switch_leaves_a_job_its_parameters(
    deployed: ModelScheduler, client: SyncPrefectClient
) -> None:
    job_id, known = add(deployed), deployed.list_jobs()
    for active in (False, True):
        switch(client, job_id, active=active)
        assert [job.active for job in deployed.list_jobs()] == [active]
    assert deployed.list_jobs() == known
    run = client.read_flow_run(UUID(deployed.run_now(job_id)))
    assert run.parameters["symbol"] == "BTC/USDT"


def switch(client: SyncPrefectClient, job_id: str, *, active: bool) -> None:
    """As Prefect's UI does it: without parameters."""
    with open_jobs() as jobs:
        job = jobs.find(job_id)
    client.update_deployment_schedule(job.id, job.schedules[0].id, active=active)


def test_a_stopped_scheduler_runs_nothing_until_it_is_started(deployed: ModelScheduler) -> None:
    """Jobs that are added or resumed meanwhile are stopped too; a paused one stays paused."""
    ids = [add(deployed), add(deployed, model_type="ensemble")]
    deployed.pause_training_job(ids[1])
    asyncio.run(deployed.stop())
    ids += [add(deployed, model_type="linear"), add(deployed, model_type="transformer")]
    deployed.pause_training_job(ids[3])
    deployed.resume_training_job(ids[3])
    assert [coming(job_id) for job_id in ids] == [[], [], [], []]
    assert [job.active for job in deployed.list_jobs()] == [
        job_id != ids[1] for job_id in sorted(ids)
    ]
    asyncio.run(deployed.start())
    assert [bool(coming(job_id)) for job_id in ids] == [True, False, True, True]


def test_a_job_that_is_added_while_all_are_being_stopped_is_stopped(
    deployed: ModelScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_jobs() as others:
        create = Jobs.create_paused

        def stop_in_between(*given: Any, **named: Any) -> UUID:
            others.stop()
            return create(*given, **named)

        monkeypatch.setattr(Jobs, "create_paused", stop_in_between)
        job_id = add(deployed)
        assert coming(job_id) == []
        others.start()
    assert coming(job_id)


@pytest.mark.parametrize("change", ["pause", "resume", "remove", "add again"])
def test_a_change_to_a_job_leaves_the_runs_of_others_alone(
    deployed: ModelScheduler, client: SyncPrefectClient, change: str
) -> None:
    """Overdue ones too, for which no worker was free yet."""
    job_id, other = add(deployed), add(deployed, model_type="linear")
    for each in (job_id, other):
        miss_a_run(client, each)
    before = run_ids(client, other)
    assert coming(other)[0] < datetime.now(UTC)
    if change == "add again":
        add(deployed, training_config={"data_window_days": 60})
    else:
        getattr(deployed, f"{change}_training_job")(job_id)
    assert run_ids(client, other) == before


def run_ids(client: SyncPrefectClient, job_id: str) -> set[UUID]:
    return {run.id for run in runs(client, f"train/{job_id}")}


def miss_a_run(client: SyncPrefectClient, job_id: str) -> None:
    """Make the run of the last day, as if the server had made it in time."""
    now = datetime.now(UTC)
    missed = {
        "start_time": (now - timedelta(days=1)).isoformat(),
        "end_time": now.isoformat(),
        "min_runs": 1,
        "max_runs": 1,
    }
    where = {"id": client.read_deployment_by_name(f"train/{job_id}").id}
    client.request("POST", "/deployments/{id}/schedule", path_params=where, json=missed)


def test_a_paused_job_has_no_overdue_run_either(
    deployed: ModelScheduler, client: SyncPrefectClient
) -> None:
    job_id = add(deployed)
    miss_a_run(client, job_id)
    deployed.pause_training_job(job_id)
    assert coming(job_id) == []


def test_a_removed_job_is_gone(deployed: ModelScheduler) -> None:
    job_id, other = add(deployed), add(deployed, model_type="linear")
    deployed.remove_training_job(job_id)
    assert [job.job_id for job in deployed.list_jobs()] == [other]
    with pytest.raises(JobNotFound, match=other):
        deployed.remove_training_job(job_id)


def test_more_jobs_than_one_page_are_listed(
    deployed: ModelScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.scheduler.PAGE", 2)
    ids = [add(deployed, schedule_config={"hour": hour}) for hour in range(5)]
    assert [job.job_id for job in deployed.list_jobs()] == sorted(ids)


def test_a_job_whose_schedule_was_deleted_is_shown_and_added_again(
    deployed: ModelScheduler, client: SyncPrefectClient
) -> None:
    job_id, known = add(deployed), deployed.list_jobs()
    with open_jobs() as jobs:
        job = jobs.find(job_id)
    client.delete_deployment_schedule(job.id, job.schedules[0].id)
    [shown] = deployed.list_jobs()
    assert (shown.schedule, shown.active) == ("", False)
    assert add(deployed) == job_id
    assert deployed.list_jobs() == known


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
