"""A replica brings what it holds in line with the store, in order, and says what it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from mlops.errors import BundleError, StoreError
from mlops.serving import store_sync
from mlops.serving.engine import model_pool
from mlops.serving.request_counters import RequestCounters, Try
from mlops.serving.runtime import Runtime
from mlops.serving.store_sync import LOAD_TRIES
from mlops.store import Store, list_replicas
from mlops.store.replicas import ReplicaState
from mlops.store.request_counts import (
    Traffic,
    champion_scope,
    read_tallies,
    read_traffic,
    sum_traffic,
)
from tests.mlops.serving.conftest import KEY, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]


def test_a_replica_loads_the_champion_and_reports_it(
    runtime: Runtime, settle: Settle, store: Store
) -> None:
    settle()
    (seen,) = list_replicas(store)
    route = runtime.store_sync.route_view().routes[KEY].route
    assert seen.state is ReplicaState.READY
    assert seen.generations == {KEY: route.generation}
    assert seen.holds(route.champion)


def test_a_challenger_is_loaded_last_and_dropped_when_the_route_drops_it(
    runtime: Runtime, settle: Settle, store: Store, library: Library, set_route: SetRoute
) -> None:
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger)
    order: list[str] = []
    load = runtime.pool.load
    runtime.pool.load = lambda version: (order.append(version.model_id), load(version))[1]  # type: ignore[method-assign]
    settle()
    assert order == [library.baseline, champion, challenger]
    set_route(challenger=None)
    settle()
    assert runtime.pool.ready() == {library.baseline, champion}


def test_a_challenger_is_not_loaded_while_its_champion_is_not_ready(
    runtime: Runtime, settle: Settle, library: Library, set_route: SetRoute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger)
    fail_to_load(monkeypatch, champion)
    monkeypatch.setattr("mlops.serving.store_sync.RETRY_S", 1e9)
    settle()
    assert runtime.pool.ready() == {library.baseline}


def test_a_model_is_reported_failed_only_after_its_last_try(
    runtime: Runtime, store: Store, library: Library, set_route: SetRoute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    champion = library.versions[0]
    set_route(champion=champion)
    fail_to_load(monkeypatch, champion)
    monkeypatch.setattr("mlops.serving.store_sync.RETRY_S", 1e9)
    runtime.store_sync.sync_once()
    runtime.store_sync._load_model(library.baseline)
    states = []
    for _ in range(LOAD_TRIES):
        runtime.store_sync._load_model(champion)
        runtime.store_sync.sync_once()
        states.append(list_replicas(store)[0].models[champion].state)
    assert states == ["loading"] * (LOAD_TRIES - 1) + ["failed"]
    assert "not today" in str(list_replicas(store)[0].models[champion].error)


def test_routes_stay_in_force_while_the_store_is_away(
    runtime: Runtime, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle()
    before = runtime.store_sync.route_view()

    def away(*_: object) -> None:
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.store_sync.read_route_view", away)
        runtime.store_sync.sync_once()
        assert runtime.store_sync.route_view() is before
        assert runtime.store_sync.store_away_since is not None
    runtime.store_sync.sync_once()
    assert runtime.store_sync.store_away_since is None


def test_a_draining_replica_says_so_and_leaves_the_store_at_its_end(
    runtime: Runtime, settle: Settle, store: Store
) -> None:
    settle()
    runtime.store_sync.drain()
    assert [replica.state for replica in list_replicas(store)] == [ReplicaState.DRAINING]
    runtime.store_sync.stop()
    assert list_replicas(store) == ()


# Counts ------------------------------------------------------------------------------------------


@pytest.fixture
def champion(library: Library, set_route: SetRoute, settle: Settle) -> str:
    set_route(champion=library.versions[0])
    settle()
    return library.versions[0]


def traffic_on_record(store: Store) -> Traffic:
    with store.read() as connection:
        return sum_traffic(read_traffic(connection, since=datetime(2000, 1, 1, tzinfo=UTC)))


def count(counters: RequestCounters, runtime: Runtime, champion: str) -> None:
    counters.count_request(runtime.dispatcher.route_state(KEY).route, [Try(champion, 0.001)])


def test_traffic_is_written_every_half_minute_and_at_the_end(
    runtime: Runtime, store: Store, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(runtime.counters, runtime, champion)
    runtime.store_sync.sync_once()
    assert traffic_on_record(store).requests == 0
    with monkeypatch.context() as patch:
        patch.setattr(store_sync, "FLUSH_S", 0.0)
        runtime.store_sync.sync_once()
    assert traffic_on_record(store).requests == 1
    count(runtime.counters, runtime, champion)
    runtime.store_sync.sync_once()
    assert traffic_on_record(store).requests == 1
    runtime.store_sync.stop()
    assert traffic_on_record(store).requests == 2


@pytest.mark.parametrize("unwritten", ["write_traffic", "record_tallies"])
def test_counts_are_written_once_the_store_is_back(
    runtime: Runtime, store: Store, champion: str, monkeypatch: pytest.MonkeyPatch, unwritten: str
) -> None:
    def away(*_: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(store_sync, "FLUSH_S", 0.0)
    count(runtime.counters, runtime, champion)
    with monkeypatch.context() as patch:
        patch.setattr(store_sync, unwritten, away)
        runtime.store_sync.sync_once()
        count(runtime.counters, runtime, champion)
        runtime.store_sync.sync_once()
    runtime.store_sync.sync_once()
    assert traffic_on_record(store).requests == 2
    with store.read() as connection:
        (tally,) = read_tallies(connection, KEY, champion_scope(champion))
    assert tally.champion_trials == 2


def test_a_restarted_process_adds_to_the_traffic_of_its_former_life(
    runtime: Runtime, store: Store, champion: str
) -> None:
    count(runtime.counters, runtime, champion)
    runtime.store_sync.write_traffic()
    runtime.store_sync.counters = RequestCounters("r1", "another life")
    count(runtime.store_sync.counters, runtime, champion)
    runtime.store_sync.write_traffic()
    assert traffic_on_record(store).requests == 2


def fail_to_load(patch: pytest.MonkeyPatch, unlucky: str) -> None:
    def stage(name: str, model_id: str) -> None:
        if name == "golden" and model_id == unlucky:
            raise BundleError("not today")

    patch.setattr(model_pool, "stage", stage)


def test_a_round_that_raises_does_not_end_its_thread(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in the background, the replica goes on saying that it lives."""
    rounds = threading.Semaphore(0)

    def broken() -> None:
        rounds.release()
        raise OSError("the disk is gone")

    monkeypatch.setattr(runtime.store_sync, "sync_once", broken)
    monkeypatch.setattr(runtime.store_sync, "load_next", broken)
    monkeypatch.setattr(runtime.store_sync, "interval_s", 0.01)
    runtime.store_sync.start()
    for _ in range(6):
        assert rounds.acquire(timeout=10)
