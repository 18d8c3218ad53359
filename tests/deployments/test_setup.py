"""Setup makes the pool and the limit, twice as well as once; crons then get their runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import CronSchedule

from deployments import setup
from tasks.slots import TRAINING_LIMIT


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def test_it_may_be_run_again_and_follows_the_settings(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit in (2, 5):
        monkeypatch.setenv("MAX_CONCURRENT_TRAINING_JOBS", str(limit))
        setup.main()
        found = client.read_global_concurrency_limit_by_name(TRAINING_LIMIT)
        assert found.limit == limit
    assert client.read_work_pool(setup.WORK_POOL).type == "process"
    assert "at most 5 trainings at once" in capsys.readouterr().out


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
