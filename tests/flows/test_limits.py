"""Trainings take turns, and one that takes too long is stopped for real."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow

from mlops.errors import LeaseLost, TrainingTimeout
from mlops.service import Service
from mlops.store import leases, list_versions
from mlops.store.leases import current_holder
from mlops.store.schema import lease
from tasks import concurrency, training
from tasks.concurrency import exclusive_training, training_slot
from tasks.context import Project, current_installation
from tests.prefect_server import until
from tests.project import SMALL_LSTM, Place

TWO_SECONDS, FIVE_SECONDS = 2 / 3600, 5 / 3600
BTC, ETH = "simulator.btc-usd.1h.volatility.24", "simulator.eth-usd.1h.volatility.24"
ENDLESS = {"class_path": "own_models:Endless"}
LONG = {**SMALL_LSTM, "epochs": 10_000, "patience": 10_000}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What the first training of a process imports takes longer than these limits allow."""
    import_module("mlops.models.lstm")
    import_module("mlops.models.trainer")


def statuses(place: Place) -> dict[str, str]:
    tracking = place.registry.tracking
    runs = tracking.client.search_runs([tracking.experiment_id])
    return {run.info.run_name: run.info.status for run in runs}


def assert_stopped(place: Place, name: str, *, began: float) -> None:
    assert time.monotonic() - began < 15
    assert statuses(place)[name] == "FAILED"
    assert [one.model_type for one in list_versions(place.registry.store)] == ["persistence"]


@pytest.mark.timing
def test_a_loop_that_never_asks_for_the_time_is_interrupted(project: Place) -> None:
    project.patch.syspath_prepend(str(Path(__file__).parent))
    # The first training of a process imports much before its loop begins.
    project.set(TRAINING_JOB_TIMEOUT_HOURS=FIVE_SECONDS, CUSTOM_MODEL_MODULES="own_models")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        project.train("custom", families=("custom",), sequence_length=1, params=ENDLESS)
    assert_stopped(project, "train custom BTC/USD", began=began)


@pytest.mark.slow
@pytest.mark.timing
def test_a_long_network_ends_by_its_own_clock(project: Place) -> None:
    """In a thread Prefect may not be able to interrupt it; here it never tries."""
    project.set(TRAINING_JOB_TIMEOUT_HOURS=TWO_SECONDS)
    project.patch.setattr(Project, "seconds_left", 3600.0)
    began = time.monotonic()
    with pytest.raises(TrainingTimeout, match="TRAINING_JOB_TIMEOUT_HOURS"):
        project.train("lstm", families=("lstm",), params=LONG)
    assert_stopped(project, "train lstm BTC/USD", began=began)


@pytest.mark.slow
def test_one_slot_makes_two_trainings_take_turns(project: Place) -> None:
    project.set(MAX_CONCURRENT_TRAINING_JOBS=1)
    spans: list[tuple[float, float]] = []
    whole = training.run_search

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        answer = whole(*arguments, **named)
        time.sleep(0.3)
        spans.append((began, time.monotonic()))
        return answer

    project.patch.setattr(training, "run_search", timed)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda bars: project.train(horizon=bars), (24, 12)))
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start
    assert len({result.service for result in results}) == 2


def test_a_run_whose_turn_another_one_had_registers_nothing(project: Place) -> None:
    """It slept so long that it was given up: whatever it made, it is too late."""
    whole = training.run_search

    def sleep(*arguments: Any, **named: Any) -> Any:
        with project.registry.store.write() as connection:
            another = {"holder": "another run", "term": lease.c.term + 1}
            connection.execute(lease.update().values(**another))
        return whole(*arguments, **named)

    project.patch.setattr(training, "run_search", sleep)
    with pytest.raises(LeaseLost, match="training:simulator"):
        project.train()
    assert [one.model_type for one in list_versions(project.registry.store)] == ["persistence"]


def test_who_waits_for_its_service_occupies_no_slot(project: Place) -> None:
    """With two slots: a second run of one service leaves the other slot to another service."""
    project.set(MAX_CONCURRENT_TRAINING_JOBS=2)
    project.patch.setattr(leases, "POLL_S", 0.02)
    waits = threading.Event()
    project.patch.setattr(
        concurrency, "get_run_logger", lambda: SimpleNamespace(info=lambda _: waits.set())
    )
    btc, eth = Service.parse(BTC), Service.parse(ETH)
    ended: list[str] = []

    @flow(validate_parameters=False)
    def hold(service: Service, goes: threading.Event) -> None:
        with exclusive_training(service), training_slot():
            assert goes.wait(20)
            ended.append(service.key)

    free, at_once = threading.Event(), threading.Event()
    at_once.set()
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(hold, btc, free)
        until(lambda: current_holder(current_installation().store, f"training:{btc}"))
        waiting = pool.submit(hold, btc, at_once)
        assert waits.wait(20)
        hold(eth, at_once)
        assert ended == [ETH]
        free.set()
        working.result()
        waiting.result()
    assert ended == [ETH, BTC, BTC]


@pytest.mark.timing
@pytest.mark.parametrize(("limit", "together"), [(1, False), (2, True)])
def test_as_many_trainings_overlap_as_there_are_slots(
    project: Place, limit: int, together: bool
) -> None:
    project.set(MAX_CONCURRENT_TRAINING_JOBS=limit)
    meeting = threading.Barrier(2)

    def hold(_: int) -> bool:
        with training_slot():
            try:
                meeting.wait(timeout=5 if together else 0.5)
            except threading.BrokenBarrierError:
                return False
            return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(hold, range(2))) == [together] * 2
