"""What versions were asked is counted by the hour, and written whatever becomes of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pandas as pd
import pytest

from mlops.errors import ModelFault, NotReady, QueueFull, StoreError
from mlops.serving import store_sync
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.runtime import Runtime
from mlops.serving.traffic import HOUR_S, TrafficCounts
from mlops.store import Store
from mlops.store.request_counts import Traffic, TrafficRow, read_traffic, sum_traffic
from tests.mlops.serving.test_dispatcher import window

from .conftest import KEY, SERVICE, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]


class Clock:
    now = 1000 * HOUR_S

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(clock: Clock) -> TrafficCounts:
    return TrafficCounts("r1", "life", clock=clock, max_waiting=2)


def test_answers_faults_and_refusals_are_counted_apart(counts: TrafficCounts) -> None:
    counts.count_answer("s", "m", 0.001)
    counts.count_answer("s", "m", 5.0, fault=True)
    counts.count_turned_away("s", "m")
    [row] = counts.take_changes()
    traffic = row.traffic
    assert (row.service, row.model_id, row.replica_id, row.incarnation) == ("s", "m", "r1", "life")
    assert (traffic.requests, traffic.faults, traffic.turned_away, traffic.timed) == (3, 1, 1, 2)
    assert traffic.seconds == pytest.approx(5.001)


def test_only_totals_that_grew_are_taken_and_in_full(counts: TrafficCounts) -> None:
    counts.count_answer("s", "m", 0.001)
    counts.count_answer("s", "n", 0.001)
    assert len(counts.take_changes()) == 2
    assert counts.take_changes() == ()
    counts.count_answer("s", "m", 0.002)
    assert [(row.model_id, row.traffic.requests) for row in counts.take_changes()] == [("m", 2)]


def test_totals_given_back_are_taken_again_with_what_came_since(
    counts: TrafficCounts,
) -> None:
    counts.count_answer("s", "m", 0.001)
    counts.give_back(counts.take_changes())
    counts.count_answer("s", "m", 0.001)
    assert [row.traffic.requests for row in counts.take_changes()] == [2]


def test_each_hour_is_a_row_that_stays_until_it_is_written(
    counts: TrafficCounts, clock: Clock
) -> None:
    counts.count_answer("s", "m", 0.001)
    clock.now += HOUR_S
    counts.count_answer("s", "m", 0.001)
    counts.forget_written()
    hours = [row.hour for row in counts.take_changes()]
    assert hours == [datetime.fromtimestamp(n * HOUR_S, UTC) for n in (1000, 1001)]
    counts.forget_written()
    counts.count_answer("s", "m", 0.001)
    assert [row.traffic.requests for row in counts.take_changes()] == [2]


def test_the_oldest_hours_are_lost_and_counted_while_the_store_is_away(
    counts: TrafficCounts, clock: Clock
) -> None:
    for _ in range(6):
        counts.count_answer("s", "m", 0.001)
        clock.now += HOUR_S
    hours = [row.hour.timestamp() / HOUR_S for row in counts.take_changes()]
    assert hours == [1003, 1004, 1005]
    assert counts.lost == 3


# In a replica --------------------------------------------------------------------------------


@pytest.fixture
def champion(library: Library, set_route: SetRoute, settle: Settle) -> str:
    set_route(champion=library.versions[0])
    settle()
    return library.versions[0]


def ask(runtime: Runtime, frame: pd.DataFrame) -> None:
    asyncio.run(runtime.dispatcher.answer(KEY, [window(frame)]))


def fail_with(patch: pytest.MonkeyPatch, runtime: Runtime, error: Exception, model_id: str) -> None:
    forecast = runtime.batcher.forecast

    async def failing(model: LoadedModel, *asked: object, **how: object) -> object:
        if model.model_id == model_id:
            raise error
        return await forecast(model, *asked, **how)  # type: ignore[arg-type]

    patch.setattr(runtime.batcher, "forecast", failing)


def counted(runtime: Runtime) -> dict[str, Traffic]:
    return {row.model_id: row.traffic for row in runtime.traffic.take_changes()}


def on_record(store: Store) -> tuple[TrafficRow, ...]:
    with store.read() as connection:
        return read_traffic(connection, since=datetime(2000, 1, 1, tzinfo=UTC))


def test_an_answer_and_its_time_are_the_versions_that_gave_it(
    runtime: Runtime, frame: pd.DataFrame, champion: str
) -> None:
    ask(runtime, frame)
    traffic = counted(runtime)
    assert set(traffic) == {champion}
    assert (traffic[champion].requests, traffic[champion].failed) == (1, 0)
    assert traffic[champion].seconds > 0


def test_a_fault_is_counted_where_it_was_and_the_answer_where_it_came_from(
    runtime: Runtime,
    frame: pd.DataFrame,
    champion: str,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_with(monkeypatch, runtime, ModelFault(champion, "error", "no"), champion)
    ask(runtime, frame)
    traffic = counted(runtime)
    assert (traffic[champion].requests, traffic[champion].faults) == (1, 1)
    assert (traffic[library.baseline].requests, traffic[library.baseline].faults) == (1, 0)


def test_a_full_queue_turns_away_and_takes_no_time(
    runtime: Runtime, frame: pd.DataFrame, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, runtime, QueueFull(waiting=9, limit=9), champion)
    with pytest.raises(QueueFull):
        ask(runtime, frame)
    assert counted(runtime) == {champion: Traffic(requests=1, turned_away=1)}


def test_a_request_with_no_loaded_version_is_turned_away_from_the_champion(
    runtime: Runtime, frame: pd.DataFrame, library: Library, set_route: SetRoute
) -> None:
    set_route(champion=library.versions[0])
    runtime.store_sync.sync_once()
    with pytest.raises(NotReady):
        ask(runtime, frame)
    assert counted(runtime) == {library.versions[0]: Traffic(requests=1, turned_away=1)}


def test_a_preview_is_not_traffic(runtime: Runtime, frame: pd.DataFrame, champion: str) -> None:
    asyncio.run(runtime.dispatcher.answer(KEY, [window(frame)], pinned=champion))
    assert counted(runtime) == {}


def test_traffic_is_written_every_half_minute_and_at_the_end(
    runtime: Runtime, store: Store, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.traffic.count_answer(KEY, champion, 0.001)
    runtime.store_sync.sync_once()
    assert on_record(store) == ()
    monkeypatch.setattr(store_sync, "FLUSH_S", 0.0)
    runtime.store_sync.sync_once()
    assert sum_traffic(on_record(store)).requests == 1
    monkeypatch.undo()
    runtime.traffic.count_answer(KEY, champion, 0.001)
    runtime.store_sync.sync_once()
    assert sum_traffic(on_record(store)).requests == 1
    runtime.store_sync.stop()
    assert sum_traffic(on_record(store)).requests == 2


def test_traffic_is_written_once_the_store_is_back(
    runtime: Runtime, store: Store, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(store_sync, "FLUSH_S", 0.0)
    runtime.traffic.count_answer(KEY, champion, 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(store_sync, "write_traffic", away)
        runtime.store_sync.sync_once()
        runtime.traffic.count_answer(KEY, champion, 0.002, fault=True)
        runtime.store_sync.sync_once()
    assert on_record(store) == ()
    runtime.store_sync.sync_once()
    traffic = sum_traffic(on_record(store))
    assert (traffic.requests, traffic.faults) == (2, 1)


def test_a_restarted_process_adds_to_the_traffic_of_its_former_life(
    runtime: Runtime, store: Store, champion: str
) -> None:
    runtime.traffic.count_answer(KEY, champion, 0.001)
    runtime.store_sync.write_traffic()
    again = TrafficCounts("r1", "another life")
    again.count_answer(KEY, champion, 0.001)
    runtime.store_sync.traffic = again
    runtime.store_sync.write_traffic()
    assert sum_traffic(on_record(store)).requests == 2
    assert {row.service for row in on_record(store)} == {SERVICE.key}
