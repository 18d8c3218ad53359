"""Schedules of earlier releases become jobs once, wherever the move is killed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Running

from deployments import old_schedules
from deployments.old_schedules import move_old_schedules
from deployments.scheduler import TAG, TEMPLATE, Jobs, open_jobs
from deployments.training_jobs import due_time, is_active
from flows.train import train

DAILY = CronSchedule(cron="0 2 * * *", timezone="UTC")
ACTIVE = "lstm.binance.btc-usdt.1h.volatility.24.daily.f595c0"
PAUSED = "linear.binance.btc-usdt.1h.volatility.24.daily.f595c0"
EMPTIED = "linear.binance.eth-usdt.1h.volatility.24.daily.f595c0"
OWN = "made-in-the-ui"


def old(job_id: str, *, active: bool = True, **parameters: Any) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=DAILY, slug=job_id, active=active, parameters=parameters
    )


@pytest.fixture
def jobs(prefect_server: None) -> Iterator[Jobs]:
    """What a server of an earlier release keeps."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            flow_id=client.create_flow(train),
            name=TEMPLATE.partition("/")[2],
            schedules=[
                old(ACTIVE, symbol="BTC/USDT", model_type="lstm"),
                old(PAUSED, active=False, symbol="BTC/USDT", model_type="linear"),
                old(EMPTIED),
                old(OWN, symbol="BTC/USDT"),
            ],
        )
        make_runs(client, deployment)
        with open_jobs() as opened:
            yield opened
            for job in opened.all():
                opened.remove(job)
        client.delete_deployment(deployment)


def make_runs(client: SyncPrefectClient, deployment: Any, **when: Any) -> None:
    path = {"id": deployment}
    client.request("POST", "/deployments/{id}/schedule", path_params=path, json=when)


def reopened(jobs: Jobs) -> Jobs:
    """The jobs as the next process reads them."""
    return Jobs(jobs.client, jobs.client.read_deployment_by_name(TEMPLATE))


def check_moved(jobs: Jobs) -> None:
    """Both complete schedules are jobs, and only that."""
    moved = reopened(jobs)
    assert {job.name: is_active(job) for job in moved.all()} == {ACTIVE: True, PAUSED: False}
    assert {slug_of(schedule) for schedule in moved.template.schedules} == {EMPTIED, OWN}
    active, paused = moved.find(ACTIVE), moved.find(PAUSED)
    assert active.parameters == {"symbol": "BTC/USDT", "model_type": "lstm"}
    assert (active.paused, active.tags, paused.tags) == (False, [TAG], [TAG])
    assert len(moved.waiting(active)) >= 3
    assert moved.waiting(paused) == []
    old_runs = moved.waiting(moved.template)
    assert {run.parameters.get("model_type") for run in old_runs} <= {None}


def slug_of(schedule: Any) -> str:
    return str(schedule.slug)


def test_each_complete_schedule_becomes_a_job_once(jobs: Jobs) -> None:
    assert sorted(move_old_schedules(jobs)) == sorted([ACTIVE, PAUSED])
    check_moved(jobs)
    assert move_old_schedules(reopened(jobs)) == []
    check_moved(jobs)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("step", "after"),
    [
        ("delete", 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("create", 0), ("create", 1))),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("resume", 0), ("resume", 1))),
        pytest.param("delete", 0, marks=pytest.mark.slow),
    ],
)
def test_a_kill_between_two_steps_loses_and_doubles_no_job(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    owner, name = {
        "create": (Jobs, "create_paused"),
        "delete": (SyncPrefectClient, "delete_deployment_schedule"),
        "resume": (SyncPrefectClient, "update_deployment"),
    }[step]
    work, calls = getattr(owner, name), []

    def work_then_end(*given: Any, **named: Any) -> Any:
        if len(calls) == after:
            raise Killed
        calls.append(name)
        return work(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, work_then_end)
        with pytest.raises(Killed):
            move_old_schedules(jobs)
    move_old_schedules(reopened(jobs))
    check_moved(jobs)


@pytest.mark.slow
def test_a_job_that_was_added_since_is_kept(jobs: Jobs) -> None:
    jobs.save(ACTIVE, DAILY, {"symbol": "BTC/USDT", "model_type": "ensemble"})
    move_old_schedules(jobs)
    assert jobs.find(ACTIVE).parameters["model_type"] == "ensemble"
    assert ACTIVE not in map(slug_of, reopened(jobs).template.schedules)


@pytest.mark.slow
def test_a_run_that_is_overdue_stays_due_once(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    start, end = (now - timedelta(days=1)).isoformat(), now.isoformat()
    make_runs(jobs.client, jobs.template.id, start_time=start, end_time=end, max_runs=1)
    with monkeypatch.context() as patched:
        patched.setattr(SyncPrefectClient, "delete_deployment_schedule", end_here)
        with pytest.raises(Killed):
            move_old_schedules(jobs)
    move_old_schedules(reopened(jobs))
    due = [run for run in jobs.waiting(jobs.find(ACTIVE)) if due_time(run) <= datetime.now(UTC)]
    assert [run.parameters["model_type"] for run in due] == ["lstm"]


@pytest.mark.slow
@pytest.mark.parametrize(("begins", "copied"), [(False, ["lstm"]), (True, [])])
def test_a_run_that_fell_due_or_began_during_the_move_is_neither_lost_nor_doubled(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, begins: bool, copied: list[str]
) -> None:
    now, create = datetime.now(UTC), Jobs.create_paused
    start, end = (now - timedelta(days=1)).isoformat(), now.isoformat()
    past = {"start_time": start, "end_time": end, "max_runs": 1}
    if begins:
        make_runs(jobs.client, jobs.template.id, **past)

    def create_late(*given: Any, **named: Any) -> UUID:
        if not begins:
            make_runs(jobs.client, jobs.template.id, **past)
        for run in jobs.waiting(jobs.template) if begins else ():
            if due_time(run) <= now:
                jobs.client.set_flow_run_state(run.id, Running(), force=True)
        return create(*given, **named)

    monkeypatch.setattr(Jobs, "create_paused", create_late)
    move_old_schedules(jobs)
    due = [run for run in jobs.waiting(jobs.find(ACTIVE)) if due_time(run) <= datetime.now(UTC)]
    assert [run.parameters["model_type"] for run in due] == copied


def end_here(*_: Any) -> None:
    raise Killed


@pytest.mark.slow
def test_where_all_jobs_are_stopped_the_moved_ones_are_too(jobs: Jobs) -> None:
    jobs.stop()
    move_old_schedules(jobs)
    assert [job.paused for job in jobs.all()] == [True, True]
    jobs.start()
    check_moved(jobs)


@pytest.mark.slow
def test_the_mark_of_a_moved_job_is_taken_away_last(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_schedules, "_resume_moved", lambda jobs: None)
    move_old_schedules(jobs)
    assert {tag for job in jobs.all() for tag in job.tags} == {TAG, old_schedules.MOVING}
    assert [job.paused for job in jobs.all()] == [True, True]
