"""A replica without HTTP forecasts a bar by champion and challenger, once both have loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from mlops.errors import ServingError
from mlops.serving import runtime as module
from mlops.serving.runtime import HeadlessReplica, Runtime
from mlops.store import Store, list_forecasts
from tests.mlops.serving.conftest import KEY, Library

SetRoute = Callable[..., None]


@pytest.fixture
def replica(runtime: Runtime) -> Iterator[HeadlessReplica]:
    """Its event loop runs; nothing loads but what a test loads."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield HeadlessReplica(runtime, loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def load_at_each_pause(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> list[float]:
    """Have the loader and the sync go on whenever the replica waits; the pauses so far."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        runtime.store_sync.load_next()
        runtime.store_sync.sync_once()

    monkeypatch.setattr(module.time, "sleep", pause)
    return pauses


def read_arms(store: Store) -> set[str]:
    return {row.model_id for row in list_forecasts(store, KEY, role=None)}


def test_a_bar_waits_for_champion_and_challenger(
    replica: HeadlessReplica,
    store: Store,
    library: Library,
    set_route: SetRoute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, salt="rollout-1")
    pauses = load_at_each_pause(monkeypatch, replica.runtime)
    replica.forecast(KEY)
    assert read_arms(store) == {champion, challenger}
    assert len(pauses) >= 2


def test_a_challenger_that_leaves_the_route_is_waited_for_no_longer(
    replica: HeadlessReplica,
    store: Store,
    library: Library,
    set_route: SetRoute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion, challenger = library.versions
    set_route(champion=champion)
    pauses = load_at_each_pause(monkeypatch, replica.runtime)
    replica.forecast(KEY)
    set_route(challenger=challenger, salt="rollout-1")

    def end_rollout(seconds: float) -> None:
        pauses.append(seconds)
        set_route(challenger=None)

    pauses.clear()
    monkeypatch.setattr(module.time, "sleep", end_rollout)
    replica.forecast(KEY)
    assert len(pauses) == 1


def test_a_challenger_that_cannot_be_loaded_does_not_hold_up_the_bar(
    replica: HeadlessReplica,
    store: Store,
    library: Library,
    set_route: SetRoute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion, challenger = library.versions
    load_at_each_pause(monkeypatch, replica.runtime)
    set_route(champion=champion)
    replica.forecast(KEY)
    set_route(challenger=challenger, salt="rollout-1")
    replica.runtime.pool._free_memory = lambda: 0
    replica.forecast(KEY)
    assert replica.runtime.store_sync.failed_for_now(challenger)
    assert read_arms(store) == {champion}


def test_a_champion_that_does_not_load_is_an_error(
    replica: HeadlessReplica, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAD_S", 0.0)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(ServingError, match=f"{library.baseline} did not load within 0 s"):
        replica.forecast(KEY)
