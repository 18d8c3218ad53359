"""Setup makes pool, limit and automation, twice as well as once; crons then get their runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.workers.process import ProcessJobConfiguration

from deployments import setup
from tasks.concurrency import TRAINING_LIMIT


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def test_it_may_be_run_again_and_follows_the_settings(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit in (2, 5):
        monkeypatch.setenv("MAX_CONCURRENT_TRAINING_JOBS", str(limit))
        setup.set_up(client)
        found = client.read_global_concurrency_limit_by_name(TRAINING_LIMIT)
        assert found.limit == limit
        queue = client.read_work_queue_by_name(setup.JOB_QUEUE, work_pool_name=setup.WORK_POOL)
        assert queue.concurrency_limit == limit
    assert client.read_work_pool(setup.WORK_POOL).type == "process"
    assert "at most 5 trainings at once" in capsys.readouterr().out


def test_setting_up_twice_makes_one_automation(client: SyncPrefectClient) -> None:
    for _ in range(2):
        setup.set_up(client)
    (made,) = client.read_automations_by_name(setup.CRASH_AUTOMATION)
    trigger = made.trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.posture is Posture.Proactive
    assert trigger.within == timedelta(seconds=90)
    assert "prefect.flow-run.heartbeat" in trigger.expect & trigger.after
    (action,) = made.actions
    assert isinstance(action, ChangeFlowRunState)
    assert action.state is StateType.CRASHED


def test_a_changed_or_copied_automation_is_put_right_and_one_switched_off_stays_off(
    client: SyncPrefectClient,
) -> None:
    wanted = setup.crash_automation()
    changed = wanted.model_copy(update={"description": "mine", "enabled": False})
    for _ in range(2):
        client.create_automation(changed)
    setup.set_up(client)
    (made,) = client.read_automations_by_name(setup.CRASH_AUTOMATION)
    assert (made.description, made.enabled) == (wanted.description, False)
    client.delete_automation(made.id)


def test_every_run_of_the_pool_beats_three_times_before_it_is_given_up(
    client: SyncPrefectClient,
) -> None:
    setup.make_pool(client)
    template = client.read_work_pool(setup.WORK_POOL).base_job_template
    env = template["variables"]["properties"]["env"]["default"]
    assert 3 * int(env[setup.HEARTBEAT]) == setup.SILENCE_S
    job = ProcessJobConfiguration.model_validate(
        asyncio.run(
            ProcessJobConfiguration.from_template_and_values(template, {}, client=None)
        ).model_dump()
    )
    assert job.env[setup.HEARTBEAT] == "30"


def test_what_a_pool_was_told_before_is_kept(client: SyncPrefectClient) -> None:
    setup.make_pool(client)
    template = client.read_work_pool(setup.WORK_POOL).base_job_template
    env = template["variables"]["properties"]["env"]
    env["default"] = {"MLOPS_BASE_PATH": "/data"}
    client.update_work_pool(setup.WORK_POOL, WorkPoolUpdate(base_job_template=template))
    setup.make_pool(client)
    kept = client.read_work_pool(setup.WORK_POOL).base_job_template
    assert kept["variables"]["properties"]["env"]["default"] == {
        "MLOPS_BASE_PATH": "/data",
        setup.HEARTBEAT: "30",
    }


def test_a_cron_gets_scheduled_runs(client: SyncPrefectClient) -> None:
    """With a newer SQLAlchemy the scheduler would create none, and say nothing."""
    from prefect.server.services.scheduler import schedule_deployments

    from flows.train import train

    schedule = CronSchedule(cron="0 2 * * *", timezone="UTC")
    created = client.create_deployment(
        flow_id=client.create_flow(train),
        name="daily",
        schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
    )
    only = DeploymentFilter(id=DeploymentFilterId(any_=[created]))
    # The temporary server runs no services, so its scheduler's one round is run here.
    asyncio.run(schedule_deployments())
    runs = client.read_flow_runs(deployment_filter=only)
    assert {run.state_name for run in runs} == {"Scheduled"}
    starts = {run.expected_start_time.strftime("%H:%M") for run in runs if run.expected_start_time}
    assert starts == {"02:00"}
    client.delete_deployment(created)
