"""Each bar has a row of champion and challenger, or the reason why one has none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from mlops.errors import MlopsError, ModelFault, StoreError
from mlops.rehearsal.hours import RehearsalClock
from mlops.serving.forecast_gaps import list_arms, reason_of_fault
from mlops.serving.runtime import Runtime
from mlops.store import Route, Store, list_forecasts
from mlops.store.ab_tests import GapReason, list_gaps
from mlops.store.forecasts import Role
from tests.forked import in_child
from tests.mlops.serving.conftest import KEY, Library, made_runtime

HOUR = timedelta(hours=1)
KILLED = 9
"""The status of a process that ends at once, as one that is killed does."""

SetRoute = Callable[..., None]
Start = Callable[..., AbstractContextManager[Runtime]]


@pytest.fixture
def clock(frame: pd.DataFrame) -> RehearsalClock:
    """Market time at which the tenth bar from the end has just closed."""
    return RehearsalClock((frame.index[-10] + HOUR).to_pydatetime())


@pytest.fixture
def start(
    library: Library, store: Store, tmp_path: Path, clock: RehearsalClock, set_route: SetRoute
) -> Start:
    """Start a replica of this machine by name; a test of both versions is open."""
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, salt="rollout-1", weight_bp=5000)

    def started(name: str = "r1", **changes: object) -> AbstractContextManager[Runtime]:
        set_route(**changes)
        return made_runtime(library, store, tmp_path, name=name, clock=clock)

    return started


@pytest.fixture
def live(start: Start) -> Iterator[Runtime]:
    with start() as made:
        load_all(made)
        yield made


def load_all(runtime: Runtime) -> None:
    runtime.store_sync.sync_once()
    while runtime.store_sync.load_next():
        pass
    runtime.store_sync.sync_once()


def update(runtime: Runtime) -> None:
    asyncio.run(runtime.publisher.update(runtime.store_sync.route_view().routes[KEY].route))


def next_bar(runtime: Runtime, clock: RehearsalClock) -> None:
    clock.now += HOUR
    update(runtime)


def fail(runtime: Runtime, kinds: dict[str, str]) -> dict[str, int]:
    """Have versions fail in this replica by their kinds; counts how often each was asked."""
    asked = dict.fromkeys(kinds, 0)
    real = runtime.batcher.forecast

    async def forecast(model, window, *, timeout_s):  # type: ignore[no-untyped-def]
        if model.model_id in kinds:
            asked[model.model_id] += 1
            raise ModelFault(model.model_id, kinds[model.model_id], "as the test wants")
        return await real(model, window, timeout_s=timeout_s)

    runtime.batcher.forecast = forecast  # type: ignore[method-assign]
    return asked


def read_gaps(store: Store) -> list[tuple[datetime, str, GapReason]]:
    gaps = list_gaps(store, KEY, since=datetime(2000, 1, 1, tzinfo=UTC), until=datetime.now(UTC))
    return [(gap.bar, gap.model_id, gap.reason) for gap in gaps]


def read_rows(store: Store) -> set[tuple[datetime, str]]:
    return {(row.bar, row.model_id) for row in list_forecasts(store, KEY, role=None)}


def opened(clock: RehearsalClock, bars_ago: int = 0) -> datetime:
    """Open time of the newest bar, or of one before it."""
    return clock.now - (1 + bars_ago) * HOUR


def test_the_challenger_is_an_arm_where_it_is_held() -> None:
    began = datetime(2024, 5, 1, tzinfo=UTC)
    route = Route("s", 1, "champion", None, "baseline", began, began, challenger="challenger")
    assert list_arms(replace(route, challenger=None), "r0") == ("champion",)
    assert list_arms(route, "r0") == ("champion", "challenger")
    assert list_arms(replace(route, only_replicas=("r0",)), "r1") == ("champion",)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("error", GapReason.FAULT),
        ("non_finite", GapReason.FAULT),
        ("no_forecast", GapReason.FAULT),
        ("timeout", GapReason.TIME_BUDGET),
    ],
)
def test_the_reason_tells_a_late_version_from_one_that_failed(kind: str, reason: GapReason) -> None:
    assert reason_of_fault(ModelFault("m", kind, "why")) is reason


@pytest.mark.parametrize("split_bp", [0, 9500])
def test_both_forecast_each_bar_whatever_their_shares_of_the_requests_are(
    start: Start, store: Store, library: Library, clock: RehearsalClock, split_bp: int
) -> None:
    with start(weight_bp=split_bp) as replica:
        load_all(replica)
        update(replica)
        replica.store_sync.write()
    assert read_rows(store) == {(opened(clock), arm) for arm in library.versions}


def test_a_challenger_that_fails_is_asked_once_a_bar_and_leaves_its_reason_at_once(
    live: Runtime,
    store: Store,
    library: Library,
    clock: RehearsalClock,
) -> None:
    champion, challenger = library.versions
    asked = fail(live, {challenger: "timeout"})
    for _ in range(3):
        update(live)
        live.store_sync.write()
    assert read_gaps(store) == [(opened(clock), challenger, GapReason.TIME_BUDGET)]
    assert read_rows(store) == {(opened(clock), champion)}
    assert asked == {challenger: 1}


def test_a_champion_that_fails_leaves_its_reason_beside_the_record_of_another_version(
    live: Runtime,
    store: Store,
    library: Library,
    clock: RehearsalClock,
) -> None:
    champion, challenger = library.versions
    fail(live, {champion: "error"})
    update(live)
    next_bar(live, clock)
    live.store_sync.write()
    bars = [opened(clock, 1), opened(clock)]
    assert read_gaps(store) == [(bar, champion, GapReason.FAULT) for bar in bars]
    assert read_rows(store) == {
        (bar, model_id) for bar in bars for model_id in (library.baseline, challenger)
    }


def test_the_challenger_forecasts_a_bar_for_which_no_version_of_record_answers(
    live: Runtime,
    store: Store,
    library: Library,
    clock: RehearsalClock,
) -> None:
    champion, challenger = library.versions
    fail(live, {champion: "error", library.baseline: "error"})
    for _ in range(2):
        with pytest.raises(MlopsError, match="as the test wants"):
            update(live)
    live.store_sync.write()
    assert [(row.model_id, row.role) for row in list_forecasts(store, KEY, role=None)] == [
        (challenger, Role.SHADOW)
    ]
    # The baseline is no arm: that it failed as well is in the log alone.
    assert read_gaps(store) == [(opened(clock), champion, GapReason.FAULT)]


def test_a_challenger_that_was_not_loaded_leaves_its_reason_when_the_next_bar_comes(
    start: Start, store: Store, library: Library, clock: RehearsalClock
) -> None:
    challenger = library.versions[1]
    with start() as replica:
        load_all(replica)
        replica.pool.drop(challenger)
        update(replica)
        replica.store_sync.write()
        assert read_gaps(store) == []
        next_bar(replica, clock)
        replica.store_sync.write()
        assert read_gaps(store) == [(opened(clock, 1), challenger, GapReason.NOT_LOADED)]
        load_all(replica)
        update(replica)
        next_bar(replica, clock)
        replica.store_sync.write()
    assert len(read_gaps(store)) == 1, "it came while its bar was the newest one"
    assert (opened(clock, 1), challenger) in read_rows(store)


def test_no_reason_is_kept_of_a_bar_that_another_replica_has_forecast(
    live: Runtime, start: Start, store: Store, library: Library, clock: RehearsalClock
) -> None:
    with start("r2") as without:
        load_all(without)
        without.pool.drop(library.versions[1])
        for replica in (live, without):
            update(replica)
        live.store_sync.write()
        next_bar(without, clock)
        without.store_sync.write()
    assert read_gaps(store) == []


def test_a_version_that_failed_here_counts_and_not_that_another_replica_had_not_loaded_it(
    live: Runtime,
    start: Start,
    store: Store,
    library: Library,
    clock: RehearsalClock,
) -> None:
    challenger = library.versions[1]
    with start("r2") as without:
        load_all(without)
        without.pool.drop(challenger)
        update(without)
        fail(live, {challenger: "error"})
        update(live)
        next_bar(without, clock)
        for replica in (without, live):
            replica.store_sync.write()
    assert read_gaps(store) == [(opened(clock, 1), challenger, GapReason.FAULT)]


def test_reasons_wait_in_the_spool_while_the_store_is_away(
    live: Runtime,
    store: Store,
    library: Library,
    clock: RehearsalClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreError("away")

    challenger = library.versions[1]
    update(live)
    live.store_sync.write()
    live.pool.drop(challenger)
    with monkeypatch.context() as patch:
        for name in ("forecast_gaps", "newest_forecast"):
            patch.setattr(f"mlops.serving.{name}.list_forecasts", away)
        next_bar(live, clock)
        next_bar(live, clock)
    assert live.spool.waiting()
    assert read_gaps(store) == []
    live.store_sync.write()
    assert read_gaps(store) == [(opened(clock, 1), challenger, GapReason.NOT_LOADED)]


def test_a_replica_that_takes_no_part_in_a_rollout_keeps_no_reason_for_it(
    start: Start, store: Store, clock: RehearsalClock
) -> None:
    with start(only_replicas=("r2",)) as replica:
        load_all(replica)
        update(replica)
        next_bar(replica, clock)
        replica.store_sync.write()
    assert read_gaps(store) == []


def die_before_a_forecast(replica: Runtime) -> None:
    replica.store_sync.load_next()


def die_before_the_challenger_has_loaded(replica: Runtime) -> None:
    for _ in range(2):
        replica.store_sync.load_next()
    update(replica)
    replica.store_sync.write()


def die_with_both_forecasts_in_the_spool(replica: Runtime) -> None:
    load_all(replica)
    update(replica)


MOMENTS = (
    die_before_a_forecast,
    die_before_the_challenger_has_loaded,
    die_with_both_forecasts_in_the_spool,
)


def test_three_restarts_of_the_only_replica_lose_no_pair_and_speak_against_no_version(
    start: Start, store: Store, library: Library, clock: RehearsalClock
) -> None:
    bars = []
    for live_until in MOMENTS:

        def die(live_until: Callable[[Runtime], None] = live_until) -> None:
            with start() as replica:
                replica.store_sync.sync_once()
                live_until(replica)
                os._exit(KILLED)

        assert os.waitstatus_to_exitcode(in_child(die)) == KILLED
        with start() as restarted:
            load_all(restarted)
            update(restarted)
            bars.append(opened(clock))
            next_bar(restarted, clock)
            bars.append(opened(clock))
        clock.now += HOUR
    assert read_rows(store) == {(bar, arm) for bar in bars for arm in library.versions}
    assert read_gaps(store) == []


def test_a_bar_that_ends_while_its_replica_is_down_is_a_hole_and_no_gap(
    start: Start, store: Store, clock: RehearsalClock
) -> None:
    for _ in range(2):
        with start() as replica:
            load_all(replica)
            update(replica)
        clock.now += 2 * HOUR
    assert read_gaps(store) == []
    assert len({bar for bar, _ in read_rows(store)}) == 2
