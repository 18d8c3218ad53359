"""A replica brings what it holds in line with the store, in order, and says what it holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops.errors import BundleError, BundleUnavailable, ReplicaNameTaken, StoreError
from mlops.serving import store_sync
from mlops.serving.engine import model_pool
from mlops.serving.request_counters import RequestCounters, Try
from mlops.serving.runtime import Runtime
from mlops.store import Replica, Store, Why, get_version, list_replicas
from mlops.store.replicas import (
    HeldModel,
    LoadCause,
    ReplicaState,
    acknowledge,
    remove_replica,
)
from mlops.store.request_counts import (
    Traffic,
    champion_scope,
    read_tallies,
    read_traffic,
    sum_traffic,
)
from mlops.store.routes import begin_route
from mlops.store.versions import insert_version
from tests.mlops.serving.conftest import AT, KEY, Library, made_runtime

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
    settle()
    assert runtime.pool.ready() == {library.baseline}


# Failed loads ------------------------------------------------------------------------------------

BROKEN, AWAY = BundleError("altered"), BundleUnavailable("the share is away")


@pytest.fixture
def unlucky_champion(
    library: Library, set_route: SetRoute, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Exception], str]:
    """Makes a version champion, and its loads fail with an error."""

    def fail(error: Exception) -> str:
        champion = library.versions[0]
        set_route(champion=champion)
        fail_to_load(monkeypatch, champion, error)
        return champion

    return fail


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (BROKEN, ([*["loading"] * 4, "failed"], LoadCause.VERSION)),
        (AWAY, (["failed"] * 5, LoadCause.REPLICA)),
        (MemoryError(), (["failed"] * 5, LoadCause.REPLICA)),
    ],
)
def test_a_failed_load_is_reported_with_its_cause_and_a_broken_version_after_five_tries(
    runtime: Runtime,
    store: Store,
    unlucky_champion: Callable[[Exception], str],
    error: Exception,
    reported: tuple[list[str], LoadCause],
) -> None:
    champion = unlucky_champion(error)
    runtime.store_sync.sync_once()
    seen = []
    for _ in range(5):
        runtime.store_sync._load_model(champion)
        runtime.store_sync.sync_once()
        seen.append(list_replicas(store)[0].models[champion])
    assert ([model.state for model in seen], seen[-1].cause) == reported
    assert str(error) in str(seen[-1].error)


def test_an_error_that_no_database_can_keep_is_reported_without_what_it_cannot(
    runtime: Runtime, store: Store, unlucky_champion: Callable[[Exception], str]
) -> None:
    champion = unlucky_champion(BundleUnavailable("an odd file \udcff\0 beside the weights"))
    runtime.store_sync._load_model(champion)
    runtime.store_sync.sync_once()
    held = list_replicas(store)[0].models[champion]
    assert held.error == "an odd file ?? beside the weights"


def test_a_failed_model_stays_failed_while_it_is_tried_again_and_is_ready_at_last(
    runtime: Runtime,
    store: Store,
    settle: Settle,
    unlucky_champion: Callable[[Exception], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion = unlucky_champion(AWAY)
    settle()
    seen = []

    def report(name: str, model_id: str) -> None:
        runtime.store_sync.sync_once()
        seen.append(list_replicas(store)[0].models[champion].state)

    monkeypatch.setattr(model_pool, "stage", report)
    end_pauses(runtime)
    assert runtime.store_sync.load_next()
    assert set(seen) == {"failed"}
    runtime.store_sync.sync_once()
    held = list_replicas(store)[0].models[champion]
    assert (held.state, held.error, held.cause) == ("ready", None, None)


def test_pauses_between_two_tries_grow_from_one_second_to_half_a_minute(runtime: Runtime) -> None:
    """Anew for another cause: the share comes back, and its files are being copied."""
    pauses = [_pause_after(runtime, AWAY) for _ in range(8)]
    for pause, longest in zip(pauses, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert longest * 0.79 < pause <= longest
    assert _pause_after(runtime, BROKEN) <= 1


def _pause_after(runtime: Runtime, error: BundleError) -> float:
    return runtime.store_sync._note_failure("m", error).retry_at - time.monotonic()


def end_pauses(runtime: Runtime) -> None:
    """As if the time had come to try all failed loads again."""
    failed = runtime.store_sync._failed
    failed |= {model_id: replace(one, retry_at=0.0) for model_id, one in failed.items()}


# Readiness ---------------------------------------------------------------------------------------


def test_a_service_that_no_live_replica_can_load_keeps_no_other_one_waiting(
    runtime: Runtime, settle: Settle, store: Store, library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gone = begin_another_service(store, library)
    fail_to_load(monkeypatch, gone, AWAY)
    runtime.store_sync.sync_once()
    runtime.store_sync._load_model(library.baseline)
    runtime.store_sync.sync_once()
    assert not runtime.store_sync.ready(), "the other one was not tried yet"
    settle()
    assert runtime.store_sync.ready()
    assert list_replicas(store)[0].state is ReplicaState.READY


def test_a_replica_that_lacks_what_another_one_answers_is_not_ready(
    runtime: Runtime, settle: Settle, store: Store, library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gone = begin_another_service(store, library)
    other = Replica("r2", "1", "", ReplicaState.READY, models={gone: HeldModel(gone, "ready")})
    acknowledge(store, other, seconds=60)
    fail_to_load(monkeypatch, gone, AWAY)
    settle()
    assert not runtime.store_sync.ready()
    remove_replica(store, "r2", "1")
    runtime.store_sync.sync_once()
    assert runtime.store_sync.ready()


def test_a_replica_without_any_bundle_is_not_ready(
    runtime: Runtime, settle: Settle, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_load(monkeypatch, library.baseline, AWAY)
    settle()
    assert not runtime.store_sync.ready()


def begin_another_service(store: Store, library: Library) -> str:
    """Begin a service whose baseline has the files of another version; returns the baseline."""
    version = get_version(store, library.versions[0])
    baseline = replace(version, model_id="gone", service=f"{KEY}8", mlflow_version=1)
    with store.write() as connection:
        insert_version(connection, baseline, Why(AT))
        begin_route(connection, baseline.service, baseline.model_id, Why(AT))
    return baseline.model_id


# Names -------------------------------------------------------------------------------------------


def test_a_second_process_of_a_name_is_refused_at_its_start(
    runtime: Runtime, settle: Settle, store: Store, library: Library, tmp_path: Path
) -> None:
    settle()
    runtime.store_sync.start()
    (tmp_path / "second").mkdir()
    with (
        made_runtime(library, store, tmp_path / "second") as second,
        pytest.raises(ReplicaNameTaken, match="another process serves as replica 'r1'"),
    ):
        second.store_sync.start()
    runtime.store_sync.sync_once()
    (seen,) = list_replicas(store)
    assert seen.incarnation == runtime.store_sync.identity.incarnation


def test_a_restarted_process_waits_for_the_lease_of_its_last_life(
    runtime: Runtime, settle: Settle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Replica("r1", "its last life", "", ReplicaState.READY)
    acknowledge(store, killed, seconds=0.3)
    runtime.store_sync.start()
    settle()
    (seen,) = list_replicas(store)
    assert seen.incarnation == runtime.store_sync.identity.incarnation


# The store is away -------------------------------------------------------------------------------


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


def fail_to_load(patch: pytest.MonkeyPatch, unlucky: str, error: Exception | None = None) -> None:
    def stage(name: str, model_id: str) -> None:
        if name == "golden" and model_id == unlucky:
            raise error or BundleError("not today")

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
