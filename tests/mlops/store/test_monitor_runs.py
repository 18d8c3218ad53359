"""A version is watched from when somebody says so until somebody ends it, over restarts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from mlops.errors import SettingsError, StoreError, VersionNotFound
from mlops.store import Store, Why, list_audit_entries, open_store
from mlops.store.monitor_runs import WatchRow, list_watches, start_watch, stop_watch

from .conftest import NOW

ANNA = Why(NOW, actor="anna", reason="a new feature")


@pytest.fixture
def trained(began: Store, add: Callable[..., Any]) -> str:
    row = add("linear_BTC_1", 2, model_type="linear")
    return str(row.model_id)


def test_a_watch_outlives_the_process_and_ends_when_told(
    store: Store, url: str, trained: str
) -> None:
    started = start_watch(store, trained, 6, ANNA)
    with closing(open_store(url)) as later:
        assert list_watches(later) == (started,)
        assert stop_watch(later, trained, Why(NOW + timedelta(hours=1), actor="ben"))
    assert list_watches(store) == ()
    [ended] = list_watches(store, stopped_too=True)
    assert (ended.started_by, ended.stopped_by) == ("anna", "ben")
    told = [(one.action, one.actor) for one in list_audit_entries(store, subject=trained)][1:]
    assert told == [("start_monitoring", "anna"), ("stop_monitoring", "ben")]
    assert not stop_watch(store, trained, ANNA)


def test_the_interval_given_last_holds(store: Store, trained: str) -> None:
    first = start_watch(store, trained, 6, ANNA)
    assert start_watch(store, trained, 6, ANNA) == first
    start_watch(store, trained, 12, ANNA)
    assert [row.interval_hours for row in list_watches(store)] == [12]
    assert len(list_watches(store, stopped_too=True)) == 2


@pytest.mark.parametrize("hours", [0.0, 0.5, -1.0, 9000.0, float("nan"), float("inf")])
def test_an_interval_that_nothing_could_keep_is_refused(hours: float) -> None:
    with pytest.raises(SettingsError, match="choose 1 or more"):
        start_watch(None, "linear_BTC_1", hours, ANNA)  # type: ignore[arg-type]


def test_a_baseline_and_an_unknown_version_are_refused(store: Store, trained: str) -> None:
    with pytest.raises(StoreError, match="is the baseline of"):
        start_watch(store, "persistence_BTC_1", 1, ANNA)
    for call in (
        lambda: start_watch(store, "nobody", 1, ANNA),
        lambda: stop_watch(store, "nobody", ANNA),
    ):
        with pytest.raises(VersionNotFound, match="nobody"):
            call()


def test_a_run_that_comes_late_is_made_up_for_once() -> None:
    row = WatchRow("w", "s", "m", 6.0, NOW, "anna")
    hour = timedelta(hours=1)
    assert row.due(NOW, None)
    assert [row.due(NOW + n * hour, NOW) for n in (5, 6, 20)] == [False, True, True]
