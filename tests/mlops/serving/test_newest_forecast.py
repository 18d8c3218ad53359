"""The forecast of the newest bar: made once, on record once, abstained from when it is old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pandas as pd
import pytest

from mlops.data.simulator import simulate_bars
from mlops.errors import MlopsError
from mlops.serving.runtime import Runtime
from mlops.store import Store, list_forecasts
from mlops.store.forecasts import Role
from tests.mlops.serving.conftest import KEY, N_BARS, Library, made_runtime

Settle = Callable[[], None]
SetRoute = Callable[..., None]


def update(runtime: Runtime) -> None:
    asyncio.run(runtime.publisher.update(runtime.store_sync.route_view().routes[KEY].route))


@pytest.fixture
def live(runtime: Runtime, settle: Settle, library: Library, set_route: SetRoute) -> Runtime:
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, salt="rollout-1")
    settle()
    return runtime


def test_the_champions_forecast_of_the_last_bar_is_published_with_an_interval(
    live: Runtime, library: Library, frame: pd.DataFrame
) -> None:
    update(live)
    published = live.publisher.latest(KEY)
    assert published is not None
    with live.pool.borrow(library.versions[0]) as model:
        expected = model.bundle.predict(frame)["forecast"].iloc[-1]
    row = published.row
    assert row.value == pytest.approx(expected, abs=1e-6)
    assert row.bar == frame.index[-1]
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.value < row.high


def test_record_and_shadow_are_stored_once_in_many_updates(
    live: Runtime, store: Store, library: Library
) -> None:
    for _ in range(3):
        update(live)
        live.store_sync.write()
    rows = list_forecasts(store, KEY, role=None)
    assert {(row.model_id, row.role) for row in rows} == {
        (library.versions[0], Role.RECORD),
        (library.versions[1], Role.SHADOW),
    }


def test_a_second_replica_publishes_what_is_on_record(
    live: Runtime, store: Store, library: Library, set_route: SetRoute, tmp_path: object
) -> None:
    update(live)
    live.store_sync.write()
    set_route(champion=library.versions[1], challenger=None, weight_bp=0)
    with made_runtime(library, store, library.folder / "second", name="r2") as second:
        second.store_sync.sync_once()
        while second.store_sync.load_next():
            pass
        update(second)
        published, first = second.publisher.latest(KEY), live.publisher.latest(KEY)
        assert published is not None
        assert first is not None
        assert published.row == first.row
        assert published.row.model_id == library.versions[0]


def test_two_replicas_that_forecast_at_once_publish_the_stored_row(
    live: Runtime, store: Store, library: Library, set_route: SetRoute
) -> None:
    with made_runtime(library, store, library.folder / "second", name="r2") as second:
        second.store_sync.sync_once()
        while second.store_sync.load_next():
            pass
        set_route(champion=library.versions[1], challenger=None, weight_bp=0)
        second.store_sync.sync_once()
        for runtime in (live, second):
            update(runtime)
        for runtime in (live, second):
            runtime.store_sync.write()
            update(runtime)
        [row] = list_forecasts(store, KEY)
        published = [runtime.publisher.latest(KEY) for runtime in (live, second)]
        assert [forecast.row for forecast in published if forecast is not None] == [row, row]
        assert row.model_id == library.versions[0]


def test_a_new_bar_is_forecast_anew(live: Runtime, frame: pd.DataFrame) -> None:
    update(live)
    live.publisher.bars._held = {
        name: (mark, simulate_bars(N_BARS + 1, seed=1), label)
        for name, (mark, _, label) in live.publisher.bars._held.items()
    }
    update(live)
    published = live.publisher.latest(KEY)
    assert published is not None
    assert published.row.bar == frame.index[-1] + pd.Timedelta("1h")


def test_old_bars_are_not_fresh(live: Runtime) -> None:
    """The simulated bars ended long ago."""
    update(live)
    published = live.publisher.latest(KEY)
    assert published is not None
    assert not published.fresh


def test_a_forecast_that_the_spool_refuses_is_not_published(
    live: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.spool, "put", lambda rows: False)
    with pytest.raises(MlopsError, match="not on record is not published"):
        update(live)
    assert live.publisher.latest(KEY) is None
