"""On a real Prefect server: the jobs and trainings that the HTTP API asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prefect.client.orchestration import SyncPrefectClient

from deployments import ModelScheduler
from deployments.api_jobs import PrefectJobs
from deployments.scheduler import TEMPLATE
from deployments.setup import JOB_QUEUE
from mlops.api.jobs import JobRequest, TrainingRequest
from mlops.errors import JobNotFound, ScheduleError, SchedulerUnavailable, ServiceError
from mlops.manager import MLOpsManager
from mlops.rollout.plan import DeploymentConfig
from mlops.search.config import ModelType, TrainingConfig
from mlops.settings import current_settings
from tests.deployments.test_schedules import (
    client,
    deployed,
    everything,
    project,
    scheduler,
    server,
)
from tests.prefect_server import PrefectServer, runs

__all__ = ["client", "deployed", "everything", "project", "scheduler", "server"]

pytestmark = pytest.mark.slow

BTC = JobRequest(
    symbol="BTC/USDT",
    model_type=ModelType.LSTM,
    schedule_type="daily",
    schedule_config={"hour": 2, "minute": 30},
    training=TrainingConfig(data_window_days=30),
    deployment=DeploymentConfig(auto_deploy=True),
    owner="local",
)


@pytest.fixture
def jobs(deployed: ModelScheduler) -> PrefectJobs:
    settings = current_settings()
    return PrefectJobs(settings, MLOpsManager(settings))


def test_a_job_is_added_changed_paused_resumed_and_removed(jobs: PrefectJobs) -> None:
    added = jobs.add_job(BTC)
    assert (added.owner, added.active, added.last_run) == ("local", True, None)
    assert added.next_run is not None
    assert added.training_config == {"data_window_days": 30}
    assert jobs.get_job(added.job_id) == added
    paused = jobs.pause_job(added.job_id)
    assert (paused.active, paused.next_run, paused.owner) == (False, None, "local")
    assert jobs.resume_job(added.job_id) == added
    jobs.remove_job(added.job_id)
    with pytest.raises(JobNotFound):
        jobs.get_job(added.job_id)


def test_jobs_are_listed_by_id_after_another(jobs: PrefectJobs) -> None:
    ids = sorted(jobs.add_job(replace(BTC, model_type=kind)).job_id for kind in ModelType)
    assert [job.job_id for job in jobs.list_jobs(after=None, limit=2)] == ids[:2]
    assert [job.job_id for job in jobs.list_jobs(after=ids[1], limit=9)] == ids[2:]


def test_a_job_runs_once_beside_its_schedule(jobs: PrefectJobs, client: SyncPrefectClient) -> None:
    job = jobs.add_job(BTC)
    run = jobs.run_job(job.job_id)
    assert run.flow_run_id in {str(one.id) for one in runs(client, f"train/{job.job_id}")}
    assert (run.state, run.flow_run_id in run.url) == ("Scheduled", True)


def test_a_training_is_a_run_of_the_template_with_every_part_of_the_service(
    jobs: PrefectJobs, client: SyncPrefectClient
) -> None:
    asked = TrainingRequest(
        symbol="BTC/USDT", model_type=ModelType.LINEAR, training=TrainingConfig(refits=3)
    )
    run = jobs.start_training(asked)
    (found,) = [one for one in runs(client, TEMPLATE) if str(one.id) == run.flow_run_id]
    service = current_settings().service("BTC/USDT")
    assert found.work_queue_name == JOB_QUEUE
    assert found.parameters == {
        "symbol": service.symbol,
        "venue": service.venue,
        "timeframe": service.timeframe.name,
        "target": str(service.target),
        "horizon": service.horizon,
        "model_type": "linear",
        "training": {"refits": 3},
        "deployment_config": {},
        "reason": "manual",
    }


def test_what_cannot_be_scheduled_is_refused_before_prefect_is_asked(jobs: PrefectJobs) -> None:
    with pytest.raises(ScheduleError, match="hour"):
        jobs.add_job(replace(BTC, schedule_config={"hour": 25}))
    with pytest.raises(ServiceError):
        jobs.start_training(TrainingRequest(symbol="//", model_type=ModelType.LINEAR))
    assert jobs.list_jobs(after=None, limit=9) == []


def test_a_server_that_is_away_is_named(jobs: PrefectJobs, server: PrefectServer) -> None:
    server.stop()
    with pytest.raises(SchedulerUnavailable, match="PREFECT_API_URL"):
        jobs.list_jobs(after=None, limit=1)
    server.start()
