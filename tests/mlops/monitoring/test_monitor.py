"""Each bar is looked at once; what a look found, its alert and its trigger stand or fall as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.alerts import conditions
from mlops.data.simulator import simulate_bars
from mlops.errors import BundleError
from mlops.features.dataset import Dataset
from mlops.models.bundle import Bundle, open_bundle
from mlops.models.signing import load_or_make_key
from mlops.monitoring import monitor as module
from mlops.monitoring.drift import version_drift
from mlops.monitoring.monitor import Look, Monitor, MonitorConfig
from mlops.monitoring.performance.degradation import SkillStatus
from mlops.registry import bundle_parts, write_bundle
from mlops.service import Service
from mlops.store import ModelVersion, Store, Why
from mlops.store.alerts import Condition, list_alerts
from mlops.store.monitor_runs import list_checks, start_watch, stop_watch
from mlops.store.routes import begin_route, change_route, read_route
from mlops.store.triggers import Cause, list_triggers
from tests.mlops.registry.conftest import SERVICE as TRADED
from tests.mlops.registry.conftest import dataset_of, fitted

from .conftest import NOW

TRAINED, LATER = 8000, 1200
CHAMPION, BASELINE = "linear_BTC_1", "persistence_BTC_1"
KEY = TRADED.key
WEEK = 168


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return simulate_bars(TRAINED + LATER, seed=3)


@pytest.fixture(scope="module")
def bundle(bars: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    dataset = dataset_of(bars[:TRAINED])
    recipe = {"features": ["har_1", "har_24"], "sequence_length": 3}
    parts = bundle_parts(fitted("linear", dataset, recipe), dataset, TRADED)
    folder: Path = tmp_path_factory.mktemp("watched")
    write_bundle(parts, folder / "bundle", load_or_make_key(folder / "key"))
    return open_bundle(folder / "bundle")


def storm(bars: pd.DataFrame, first: int, last: int | None = None) -> pd.DataFrame:
    """From one bar to another every move is six times as large."""
    moved = bars.copy()
    rows = moved.iloc[first:last]
    prices = ["open", "high", "low", "close"]
    start = float(rows["open"].iloc[0])
    moved.loc[rows.index, prices] = start * np.exp(6.0 * np.log(rows[prices] / start))
    return moved


@pytest.fixture
def live(store: Store, add: Callable[..., Any]) -> Store:
    """The version is champion of its service."""
    add(BASELINE, 1, service=KEY)
    add(CHAMPION, 2, service=KEY, model_type="linear")
    with store.write() as connection:
        route = begin_route(connection, KEY, BASELINE, Why(NOW))
        changed = replace(route, champion=CHAMPION, previous_champion=BASELINE)
        change_route(connection, route, changed, "promoted", Why(NOW))
    return store


@pytest.fixture
def watching(live: Store, bundle: Bundle, bars: pd.DataFrame) -> Callable[..., Monitor]:
    def made(frame: pd.DataFrame | None = None, **config: Any) -> Monitor:
        dataset = dataset_of(bars if frame is None else frame)
        return Monitor(
            live,
            open_bundle=lambda version: bundle,
            bars_of=lambda service: dataset,
            config=MonitorConfig(**config),
        )

    return made


def at(bars: pd.DataFrame, row: int) -> datetime:
    """When a bar had closed."""
    moment: datetime = (bars.index[row] + timedelta(hours=1)).to_pydatetime()
    return moment


def only(looked: tuple[Look, ...]) -> Look:
    [one] = looked
    return one


def test_a_quiet_week_is_one_look_on_record_and_nothing_more(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    seen = only(watching().look(at(bars, TRAINED + WEEK + 50)))
    assert seen.report is not None
    assert (seen.report.official, seen.triggers, seen.why_not) == (True, (), "")
    [row] = list_checks(live, KEY)
    assert (row.id, row.model_id, row.official) == (seen.check, CHAMPION, True)
    assert (list_triggers(live), list_alerts(live)) == ((), ())


def test_the_same_bar_decides_nothing_twice(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    wild = storm(bars, TRAINED)
    now = at(bars, TRAINED + WEEK + 50)
    first = only(watching(wild).look(now))
    again = only(watching(wild).look(now))
    assert len(first.triggers) == 1
    assert (again.triggers, again.why_not) == ((), "this bar was looked at before")
    assert len(list_checks(live, KEY)) == len(list_triggers(live)) == len(list_alerts(live)) == 1


def test_a_storm_is_a_reason_to_retrain_linked_to_its_look_and_an_alert(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    seen = only(watching(storm(bars, TRAINED)).look(at(bars, TRAINED + WEEK + 50)))
    [trigger] = list_triggers(live)
    assert seen.triggers == ((trigger.id, Cause.DRIFT),)
    assert (trigger.verdict, trigger.champion, trigger.service) == (seen.check, CHAMPION, KEY)
    [alert] = list_alerts(live)
    assert (alert.condition, alert.subject) == (Condition.DATA_DRIFT, CHAMPION)
    assert alert.detail["check"] == seen.check


def test_what_a_whole_quiet_window_does_not_show_any_more_is_over(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    wild = storm(bars, TRAINED, TRAINED + WEEK)
    monitor = watching(wild)
    monitor.look(at(bars, TRAINED + WEEK))
    assert [one.recovered_at for one in list_alerts(live)] == [None]
    last = TRAINED + 3 * WEEK
    monitor.look(at(bars, last))
    assert [one.recovered_at for one in list_alerts(live)] == [at(bars, last)]


def test_hour_after_hour_only_whole_weeks_decide(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    monitor = watching()
    for row in range(TRAINED + WEEK, TRAINED + 3 * WEEK, 12):
        monitor.look(at(bars, row))
    rows = list_checks(live, KEY)
    assert len(rows) == 28
    weeks = [row.bar for row in rows if row.official]
    assert [later - before for before, later in pairwise(weeks)] == [timedelta(hours=WEEK)]


def test_bars_that_had_not_closed_by_then_are_not_seen(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    row = TRAINED + WEEK + 50
    monitor = watching(storm(bars, row))
    monitor.look(at(bars, row) - timedelta(minutes=1))
    [seen] = list_checks(live, KEY)
    assert seen.bar == (bars.index[row - 1]).to_pydatetime()


def test_the_baseline_has_nothing_to_retrain(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    with live.write() as connection:
        route = read_route(connection, KEY)
        assert route is not None
        change_route(connection, route, replace(route, champion=BASELINE), "back", Why(NOW))
    seen = only(watching(storm(bars, TRAINED)).look(at(bars, TRAINED + WEEK + 50)))
    assert "the baseline serves" in seen.why_not
    assert list_checks(live, KEY) == ()


def test_the_trouble_of_one_service_leaves_the_others_watched(
    live: Store, add: Callable[..., Any], bundle: Bundle, bars: pd.DataFrame
) -> None:
    other = KEY.replace("btc", "eth")
    add("persistence_ETH_1", 1, service=other)
    add("linear_ETH_1", 2, service=other)
    with live.write() as connection:
        route = begin_route(connection, other, "persistence_ETH_1", Why(NOW))
        change_route(connection, route, replace(route, champion="linear_ETH_1"), "up", Why(NOW))

    def bars_of(service: Service) -> Dataset:
        if service.key == other:
            raise OSError("the disk is gone")
        return dataset_of(bars)

    monitor = Monitor(live, open_bundle=lambda version: bundle, bars_of=bars_of)
    found = {one.service: one for one in monitor.look(at(bars, TRAINED + WEEK + 50))}
    assert found[KEY].check
    assert found[other].why_not == "OSError: the disk is gone"


def test_a_look_whose_alert_cannot_be_written_is_not_written_either(
    watching: Callable[..., Monitor],
    live: Store,
    bars: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wild, now = storm(bars, TRAINED), at(bars, TRAINED + WEEK + 50)

    def fail(*_: Any, **__: Any) -> bool:
        raise RuntimeError("no room")

    with monkeypatch.context() as broken:
        broken.setattr(conditions, "raise_alert", fail)
        assert only(watching(wild).look(now)).why_not == "RuntimeError: no room"
    assert (list_checks(live, KEY), list_triggers(live)) == ((), ())
    assert len(only(watching(wild).look(now)).triggers) == 1


def test_a_threshold_beyond_reach_raises_no_trigger(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    monitor = watching(storm(bars, TRAINED), drift_threshold=0.999)
    assert only(monitor.look(at(bars, TRAINED + WEEK + 50))).triggers == ()
    assert len(list_checks(live, KEY)) == 1


def test_performance_counts_the_costs_of_the_services_own_symbol(
    watching: Callable[..., Monitor], bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    fees: list[float] = []

    def measured(*_: Any, fee_bps: float, **__: Any) -> Any:
        fees.append(fee_bps)
        raise RuntimeError("seen")

    monkeypatch.setattr(module, "measure_performance", measured)
    watching(fee_for={TRADED.symbol: 0.5}.__getitem__).look(at(bars, TRAINED + WEEK + 50))
    assert fees == [0.5]


def test_lost_skill_lasts_until_a_window_shows_that_it_is_there(
    watching: Callable[..., Monitor],
    live: Store,
    bars: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One with too few outcomes shows nothing."""
    said = iter([SkillStatus.LOST, SkillStatus.INSUFFICIENT_DATA, SkillStatus.KEPT])

    def judged(*_: Any, **__: Any) -> Any:
        status = next(said)
        verdict = SimpleNamespace(
            status=status, degraded=status is SkillStatus.LOST, reason=str(status)
        )
        return SimpleNamespace(degradation=verdict, to_dict=dict)

    monkeypatch.setattr(module, "measure_performance", judged)
    monitor, lasting = watching(), []
    for week in (1, 3, 5):
        monitor.look(at(bars, TRAINED + week * WEEK))
        lasting.append([one.condition for one in list_alerts(live, lasting_only=True)])
    degraded = [Condition.PERFORMANCE_DEGRADED]
    assert lasting == [degraded, degraded, []]


CHALLENGER = "linear_BTC_2"


@pytest.fixture
def watched(live: Store, add: Callable[..., Any]) -> Store:
    """A challenger is watched, every six hours."""
    add(CHALLENGER, 3, service=KEY, model_type="linear")
    start_watch(live, CHALLENGER, 6.0, Why(NOW, actor="anna"))
    return live


def test_a_watched_version_is_looked_at_when_bars_of_its_interval_have_come(
    watching: Callable[..., Monitor], watched: Store, bars: pd.DataFrame
) -> None:
    for row in range(TRAINED + WEEK, TRAINED + WEEK + 13):
        # A process of its own each hour, and a few minutes late.
        now = at(bars, row) + timedelta(minutes=row % 7)
        watching().look_watched(now)
    rows = [row for row in list_checks(watched, KEY) if row.model_id == CHALLENGER]
    assert [row.bar for row in rows] == [bars.index[TRAINED + WEEK + n] for n in (0, 6, 12)]


def test_what_is_found_of_a_watched_version_is_told_and_retrains_nothing(
    watching: Callable[..., Monitor], watched: Store, bars: pd.DataFrame
) -> None:
    monitor = watching(storm(bars, TRAINED))
    seen = only(monitor.look_watched(at(bars, TRAINED + WEEK + 50)))
    assert (seen.model_id, seen.triggers, seen.why_not) == (CHALLENGER, (), "")
    [alert] = list_alerts(watched)
    assert (alert.condition, alert.subject) == (Condition.DATA_DRIFT, CHALLENGER)
    assert list_triggers(watched) == ()


def test_a_champion_decides_every_hour_whatever_its_watch_says(
    watching: Callable[..., Monitor], live: Store, bars: pd.DataFrame
) -> None:
    start_watch(live, CHAMPION, 48.0, Why(NOW))
    monitor = watching()
    for row in (TRAINED + WEEK, TRAINED + WEEK + 1):
        assert only(monitor.look(at(bars, row))).check
        assert monitor.look_watched(at(bars, row)) == ()
    stop_watch(live, CHAMPION, Why(NOW))
    assert only(monitor.look(at(bars, TRAINED + WEEK + 2))).check


def test_a_watched_version_that_cannot_be_opened_leaves_the_others_alone(
    watched: Store, add: Callable[..., Any], bundle: Bundle, bars: pd.DataFrame
) -> None:
    add("linear_BTC_3", 4, service=KEY, model_type="linear")
    start_watch(watched, "linear_BTC_3", 1.0, Why(NOW))

    def opened(version: ModelVersion) -> Bundle:
        if version.model_id == CHALLENGER:
            raise BundleError("its files are gone")
        return bundle

    monitor = Monitor(watched, open_bundle=opened, bars_of=lambda service: dataset_of(bars))
    found = {one.model_id: one for one in monitor.look_watched(at(bars, TRAINED + WEEK))}
    assert "its files are gone" in found[CHALLENGER].why_not
    assert found["linear_BTC_3"].check


def test_another_process_reads_what_the_first_one_fitted(
    watching: Callable[..., Monitor],
    bars: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, kept = at(bars, TRAINED + WEEK + 50), tmp_path / "references"
    fitted_anew = only(watching(reference_folder=kept).look(now)).report
    monkeypatch.delattr(version_drift, "fit_reference")
    read = only(watching(reference_folder=kept).look(now)).report
    assert fitted_anew is not None
    assert read is not None
    assert [one.p_value for one in read.columns] == [one.p_value for one in fitted_anew.columns]
