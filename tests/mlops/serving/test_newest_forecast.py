"""The forecast of the newest bar: made once, on record once, abstained from when it is old."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.data.market import Market
from mlops.data.quality import NewestBar
from mlops.data.recent_bars import KnownBars
from mlops.data.simulator import simulate_bars
from mlops.errors import MlopsError
from mlops.serving.runtime import Runtime
from mlops.settings import FileClock
from mlops.store import Store, list_forecasts
from mlops.store.forecasts import Role
from tests.mlops.registry.conftest import SERVICE
from tests.mlops.serving.asgi_client import answer_of
from tests.mlops.serving.conftest import KEY, N_BARS, Library, made_runtime
from tests.mlops.serving.stored_requests import StoredRequest

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


@pytest.mark.parametrize(
    ("calendar", "closed", "max_age_bars", "hours"),
    [
        ("24/7", "2024-01-12 21:30", 2.0, 2.0),
        ("24/7", "2024-01-12 21:30", 0.25, 0.25),
        ("24/7", "2024-01-12 21:30", 3.5, 3.5),
        # Over a weekend and a holiday, to two and a half bars after the open.
        ("XNYS", "2024-01-12 21:30", 2.5, 3 * 24 + 19.5),
        ("XNYS", "2024-01-12 17:30", 2.0, 2.0),
    ],
)
def test_closed_hours_make_no_forecast_old(
    live: Runtime, calendar: str, closed: str, max_age_bars: float, hours: float
) -> None:
    at = pd.Timestamp(closed, tz="UTC")
    frame = simulate_bars(5, seed=1)
    frame.index = pd.date_range(end=at - pd.Timedelta("1h"), periods=5, freq="1h")
    market = replace(live.publisher.bars.markets.of(SERVICE), calendar=load_calendar(calendar))
    recent = KnownBars(frame, at.to_pydatetime(), "bars", market)
    live.publisher.max_age_bars = max_age_bars

    assert live.publisher._fresh_s(SERVICE, recent) == hours * 3600
    newest = NewestBar(recent.now, recent.now + timedelta(hours=hours), market.calendar)
    assert not newest.is_stale(SERVICE, max_age_bars=max_age_bars)
    later = replace(newest, now=newest.now + timedelta(seconds=1))
    assert later.is_stale(SERVICE, max_age_bars=max_age_bars)


@pytest.mark.parametrize(
    ("calendar", "bar", "until"),
    [
        ("24/7", "2024-01-12 20:30", "2024-01-13T21:30:00+00:00"),
        # Seven bars a session, and Monday the 15th was a holiday.
        ("XNYS", "2024-01-12 20:30", "2024-01-19T17:30:00+00:00"),
        ("XNYS", "2024-01-12 20:00", "2024-01-19T17:00:00+00:00"),
        ("FX", "2024-01-12 21:00", "2024-01-15T22:00:00+00:00"),
        ("XNYS", "2098-06-06 19:30", "2098-06-12T16:30:00+00:00"),
    ],
)
def test_a_forecast_reaches_as_many_bars_of_its_market_as_its_horizon(
    live: Runtime, calendar: str, bar: str, until: str
) -> None:
    update(live)
    published = live.publisher.latest(KEY)
    assert published is not None
    at = pd.Timestamp(bar, tz="UTC")
    frame = simulate_bars(5, seed=1).set_axis(pd.date_range(end=at, periods=5, freq="1h"))
    market = replace(live.publisher.bars.markets.of(SERVICE), calendar=load_calendar(calendar))
    recent = KnownBars(frame, at + pd.Timedelta("1h"), "bars", market)
    route = live.store_sync.route_view().routes[KEY].route
    row = replace(published.row, bar=at.to_pydatetime())

    made = live.publisher._make_published(route, SERVICE, recent, row)

    assert orjson.loads(made.body)["forecast_until"] == until


def test_at_the_end_of_a_file_a_bar_waits_for_its_champion_as_one_of_a_live_market(
    live: Runtime,
) -> None:
    frame = simulate_bars(5, seed=1)
    now = (frame.index[-1] + pd.Timedelta("1h")).to_pydatetime()
    market = replace(live.publisher.bars.markets.of(SERVICE), clock=FileClock.END)
    recent = KnownBars(frame, now, "bars", market)

    assert live.publisher._fresh_s(SERVICE, recent) == math.inf
    assert live.publisher._open_newest(KEY, SERVICE, recent).longest_s == 180.0


def test_a_forecast_that_the_spool_refuses_is_not_published(
    live: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.spool, "put", lambda rows: False)
    with pytest.raises(MlopsError, match="not on record is not published"):
        update(live)
    assert live.publisher.latest(KEY) is None


# Which version goes on record ----------------------------------------------------------------


def just_closed(market: Market, first_open: datetime, last_close: datetime) -> datetime:
    """The market's time a minute after the last simulated bar, which is fresh then."""
    return last_close + timedelta(minutes=1)


@pytest.fixture
def cold(library: Library, store: Store, tmp_path: Path, set_route: SetRoute) -> Iterator[Runtime]:
    """A replica that has just started: its baseline is ready, its champion is not loaded yet."""
    set_route(champion=library.versions[0])
    with made_runtime(library, store, tmp_path, clock=just_closed) as made:
        made.store_sync.sync_once()
        made.store_sync.load_next()
        made.store_sync.sync_once()
        assert made.pool.ready() == {library.baseline}
        yield made


def let_pass(runtime: Runtime, seconds: float) -> None:
    """Have the replica see the newest bar for so many seconds longer."""
    newest = runtime.publisher._newest[KEY]
    runtime.publisher._newest[KEY] = replace(newest, seen_at=newest.seen_at - seconds)


def read_roles(store: Store) -> set[tuple[str, Role]]:
    return {(row.model_id, row.role) for row in list_forecasts(store, KEY, role=None)}


def test_after_a_cold_start_the_champion_goes_on_record_and_not_the_baseline(
    cold: Runtime, store: Store, library: Library
) -> None:
    for _ in range(2):
        update(cold)
    assert cold.publisher.latest(KEY) is None
    assert "up to 180 s for its champion" in cold.publisher.reasons_missing[KEY]
    cold.store_sync.load_next()
    update(cold)
    cold.store_sync.write()
    assert read_roles(store) == {(library.versions[0], Role.RECORD)}
    assert KEY not in cold.publisher.reasons_missing


def test_a_replica_that_cannot_load_the_champion_leaves_the_record_to_one_that_holds_it(
    cold: Runtime, store: Store, library: Library
) -> None:
    champion = library.versions[0]
    cold.pool._free_memory = lambda: 0
    cold.store_sync.load_next()
    cold.store_sync.sync_once()
    with made_runtime(library, store, library.folder / "second", name="r2") as second:
        second.publisher.bars.clock = just_closed
        second.store_sync.sync_once()
        while second.store_sync.load_next():
            pass
        second.store_sync.sync_once()
        update(cold)
        let_pass(cold, 100.0)
        update(cold)
        assert cold.publisher.latest(KEY) is None
        assert "r2 holds it" in cold.publisher.reasons_missing[KEY]
        update(second)
        second.store_sync.write()
        update(cold)
    published = cold.publisher.latest(KEY)
    assert published is not None
    assert published.row.model_id == champion
    assert read_roles(store) == {(champion, Role.RECORD)}


def test_where_the_champion_never_loads_the_next_version_goes_on_record_once(
    cold: Runtime, store: Store, library: Library
) -> None:
    cold.pool._free_memory = lambda: 0
    update(cold)
    cold.store_sync.load_next()
    let_pass(cold, 181.0)
    for _ in range(3):
        update(cold)
        cold.store_sync.write()
    [row] = list_forecasts(store, KEY, role=None)
    assert (row.model_id, row.role) == (library.baseline, Role.RECORD)


def test_a_champion_that_comes_late_is_stored_beside_the_record(
    cold: Runtime, store: Store, library: Library
) -> None:
    update(cold)
    let_pass(cold, 181.0)
    update(cold)
    cold.store_sync.load_next()
    for _ in range(2):
        update(cold)
        cold.store_sync.write()
    assert read_roles(store) == {
        (library.baseline, Role.RECORD),
        (library.versions[0], Role.SHADOW),
    }
    published = cold.publisher.latest(KEY)
    assert published is not None
    assert published.row.model_id == library.baseline


def test_while_a_bar_waits_the_last_forecast_is_handed_out_and_then_the_reason(
    cold: Runtime, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = library.versions[0]
    cold.store_sync.load_next()
    update(cold)
    first = cold.publisher.latest(KEY)
    assert first is not None
    cold.pool.drop(champion)
    cold.publisher.bars._held = {
        name: (mark, simulate_bars(N_BARS + 1, seed=1), label)
        for name, (mark, _, label) in cold.publisher.bars._held.items()
    }
    update(cold)
    request = StoredRequest("GET", f"/services/{KEY}/forecast")
    status, _, body = asyncio.run(answer_of(cold.app, request))
    assert (status, orjson.loads(body)["model_id"]) == (200, champion)
    monkeypatch.setattr("mlops.serving.newest_forecast.time.time", lambda: first.fresh_until + 1)
    status, _, body = asyncio.run(answer_of(cold.app, request))
    assert status == 503
    assert "waits up to 180 s for its champion" in orjson.loads(body)["message"]


def test_the_same_reason_is_logged_once_a_minute(
    cold: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mlops")
    for _ in range(5):
        update(cold)
    assert sum("no forecast: the newest bar waits" in line for line in caplog.messages) == 1


# What is wrong ---------------------------------------------------------------------------------


def ask_for_reason(runtime: Runtime) -> str:
    """The message of the 503 that a request for the newest forecast is answered with."""
    request = StoredRequest("GET", f"/services/{KEY}/forecast")
    status, _, body = asyncio.run(answer_of(runtime.app, request))
    assert status == 503
    return str(orjson.loads(body)["message"])


def test_a_forecast_that_is_too_old_is_refused_with_what_keeps_new_bars_away(live: Runtime) -> None:
    update(live)
    live.feed._waits_for = "the disk of /bars is full (ENOSPC)"
    update(live)
    assert ask_for_reason(live).endswith("it is too old: the disk of /bars is full (ENOSPC)")


def test_a_spool_that_cannot_be_written_is_the_reason(
    live: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def fail(path: Path, *args: Any, **options: Any) -> Any:
        if path.parent == live.spool.folder:
            raise OSError(24, "Too many open files", str(path))
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(MlopsError) as caught:
            update(live)
    spool = live.spool.folder
    assert f"the spool {spool}" in str(caught.value)
    assert "Too many open files (EMFILE)" in str(caught.value)
    _, _, body = asyncio.run(answer_of(live.app, StoredRequest("GET", "/readyz")))
    assert body.decode() == f"ready\n{live.spool.trouble}\n"
    update(live)
    assert live.publisher.latest(KEY) is not None


def test_bars_that_are_not_on_this_machine_are_named(
    live: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.publisher.bars, "load", lambda *_: None)
    update(live)
    assert "bars.parquet are in the store; train the service on" in ask_for_reason(live)
