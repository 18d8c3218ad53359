"""A training whose process died runs again as it was asked, and not for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Running

from flows.train import train
from tasks.recovery import MOST_RUNS, restart_crashed_trainings

ASKED = {"symbol": "BTC/USDT", "model_type": "linear", "reason": "schedule"}
Crash = Callable[[int], FlowRun]


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def crash(client: SyncPrefectClient) -> Iterator[Crash]:
    """Makes a run of a deployment that has died so many times."""
    deployment = client.create_deployment(flow_id=client.create_flow(train), name="crashing")

    def make(times: int) -> FlowRun:
        run = client.create_flow_run_from_deployment(deployment, parameters=ASKED)
        for _ in range(times):
            client.set_flow_run_state(run.id, Running(), force=True)
            client.set_flow_run_state(run.id, Crashed(), force=True)
        return client.read_flow_run(run.id)

    yield make
    client.delete_deployment(deployment)


def state(client: SyncPrefectClient, run_id: UUID) -> str:
    found = client.read_flow_run(run_id).state
    assert found is not None
    return found.name


def test_a_crashed_training_is_scheduled_again_as_it_was_asked(
    client: SyncPrefectClient, crash: Crash
) -> None:
    dead = crash(1)
    assert restart_crashed_trainings.fn() == (f"{dead.name} started again after it crashed",)
    assert state(client, dead.id) == "Scheduled"
    assert client.read_flow_run(dead.id).parameters == ASKED
    assert restart_crashed_trainings.fn() == ()


def test_one_that_dies_of_itself_is_left_alone(client: SyncPrefectClient, crash: Crash) -> None:
    dead = crash(MOST_RUNS)
    assert restart_crashed_trainings.fn() == ()
    assert state(client, dead.id) == "Crashed"


def test_a_run_of_a_notebook_is_the_notebooks(client: SyncPrefectClient) -> None:
    run = client.create_flow_run(train, parameters=ASKED, state=Running())
    client.set_flow_run_state(run.id, Crashed(), force=True)
    assert restart_crashed_trainings.fn() == ()
