"""One run looks at every service; where a retraining is due, a row is there and the bell rings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.monitor import monitor
from mlops.data.simulator import simulate_bars
from mlops.manager import MLOpsManager
from mlops.monitoring import guard
from mlops.reports import drift as pages
from mlops.settings import current_settings
from mlops.store import Store, Why, get_version
from mlops.store.alerts import Condition, list_alerts
from mlops.store.leases import acquire_lease
from mlops.store.monitor_runs import list_checks
from mlops.store.routes import change_route, read_route
from mlops.store.triggers import list_triggers
from tasks import artifacts, events
from tests.flows.deployable import Deployable
from tests.project import BARS, SEED, SERVICE

WINDOW = 48


@pytest.fixture
def store(deployable: Deployable) -> Store:
    """The challenger has become the champion."""
    store = deployable.place.registry.store
    with store.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        live = replace(route, champion=deployable.challenger, previous_champion=route.champion)
        change_route(connection, route, live, "promoted", Why(route.created_at))
    deployable.place.set(DECISION_WINDOW_HOURS=WINDOW)
    return store


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: heard.append(event))
    return heard


@pytest.fixture(autouse=True)
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without what Evidently draws, which takes seconds to import."""
    monkeypatch.setattr(pages, "_draw_with_evidently", lambda *_: "<body></body>")


@pytest.fixture
def stormy(deployable: Deployable) -> Iterator[datetime]:
    """Two days have come since in which every move was six times as large; the time after them."""
    path = deployable.place.bars
    kept = path.read_bytes()
    bars = simulate_bars(BARS + WINDOW + 2, seed=SEED)
    prices = ["open", "high", "low", "close"]
    rows = bars.iloc[BARS:]
    start = float(rows["open"].iloc[0])
    bars.loc[rows.index, prices] = start * np.exp(6.0 * np.log(rows[prices] / start))
    bars.to_parquet(path)
    yield (pd.Timestamp(bars.index[-1]) + timedelta(hours=1)).to_pydatetime()
    path.write_bytes(kept)


def test_a_storm_is_a_verdict_a_trigger_and_an_event_once(
    store: Store, stormy: datetime, rung: list[dict[str, Any]], deployable: Deployable
) -> None:
    [looked] = monitor(now=stormy).looks
    assert looked.why_not == ""
    [check], [trigger] = list_checks(store, SERVICE), list_triggers(store)
    assert (check.model_id, check.id) == (deployable.challenger, looked.check)
    assert (trigger.verdict, trigger.service) == (check.id, SERVICE)
    assert [event["event"] for event in rung] == [events.DRIFT_DETECTED]
    [again] = monitor(now=stormy).looks
    assert again.why_not == "this bar was looked at before"
    assert len(rung) == len(list_triggers(store)) == 1


def test_a_version_is_watched_from_when_somebody_says_so_until_somebody_ends_it(
    deployable: Deployable, stormy: datetime, rung: list[dict[str, Any]]
) -> None:
    """The baseline serves; the challenger is the one that is watched."""
    store, version = deployable.place.registry.store, deployable.challenger
    deployable.place.set(DECISION_WINDOW_HOURS=WINDOW)
    asyncio.run(_manager().start_continuous_monitoring(version, interval_hours=1, actor="anna"))
    monitor(now=stormy - timedelta(hours=1))
    assert [row.model_id for row in list_checks(store, SERVICE)] == [version]
    assert [one.subject for one in list_alerts(store)] == [version]
    assert (list_triggers(store), rung) == ((), [])
    [row] = _manager().continuous_monitoring()
    assert (row.model_id, row.interval_hours, row.started_by) == (version, 1.0, "anna")
    asyncio.run(_manager().stop_continuous_monitoring(version))
    assert [one.model_id for one in monitor(now=stormy).looks] != [version]
    assert len(list_checks(store, SERVICE)) == 1


def _manager() -> MLOpsManager:
    """Another process's."""
    return MLOpsManager(current_settings())


def test_an_alarm_is_drawn_once_kept_with_the_run_and_linked(
    store: Store,
    stormy: datetime,
    rung: list[dict[str, Any]],
    deployable: Deployable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    linked: list[dict[str, Any]] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **made: linked.append(made))
    monitor(now=stormy)
    monitor(now=stormy)
    version = get_version(store, deployable.challenger)
    client = deployable.place.registry.tracking.client
    [kept] = client.list_artifacts(version.run_id, pages.FOLDER)
    assert kept.path.startswith(f"drift/{version.model_id}-")
    [link] = linked
    assert link["key"] == "drift-" + SERVICE.replace(".", "-")
    assert f"/runs/{version.run_id}/artifacts/{kept.path}" in link["markdown"]


def test_a_page_that_cannot_be_drawn_costs_no_alarm(
    store: Store,
    stormy: datetime,
    rung: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(pages, "_draw_with_evidently")
    assert monitor(now=stormy).looks[0].triggers
    assert len(rung) == len(list_triggers(store)) == 1


def test_a_page_is_drawn_on_demand(store: Store, stormy: datetime, deployable: Deployable) -> None:
    manager = MLOpsManager(current_settings())
    bars = pd.read_parquet(deployable.place.bars)
    page = asyncio.run(manager.draw_drift_report(deployable.challenger, bars))
    assert page.parent == current_settings().reports_path
    assert deployable.challenger in page.read_text()
    run = get_version(store, deployable.challenger).run_id
    kept = deployable.place.registry.tracking.client.list_artifacts(run, pages.FOLDER)
    assert page.name in {Path(one.path).name for one in kept}


def test_a_quiet_market_rings_for_nobody(
    store: Store, rung: list[dict[str, Any]], deployable: Deployable
) -> None:
    last = pd.read_parquet(deployable.place.bars).index[-1]
    result = monitor(now=(last + timedelta(hours=1)).to_pydatetime())
    assert [one.service for one in result.matched] == [SERVICE]
    assert (rung, list_triggers(store)) == ([], ())


def test_where_no_replica_is_left_people_are_told_that_nothing_answers(
    store: Store,
    rung: list[dict[str, Any]],
    deployable: Deployable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "CONFIRM_S", 0.0)
    last = pd.read_parquet(deployable.place.bars).index[-1]
    now = (last + timedelta(hours=1)).to_pydatetime()
    monitor(now=now)
    assert list_alerts(store, lasting_only=True) == ()
    acquire_lease(store, guard.LEASE, "a replica that is gone", seconds=0.0)
    monitor(now=now)
    rows = list_alerts(store, lasting_only=True)
    # The file ended long ago, which is told as well.
    [row] = [one for one in rows if one.subject != "stale_data"]
    assert (row.condition, row.subject, row.service) == (
        Condition.SYSTEM_TROUBLE,
        "replicas",
        SERVICE,
    )
