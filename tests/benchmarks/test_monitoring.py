"""The monitor's benchmark watches what it says; how long it takes is for `make bench` to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import monitoring
from benchmarks.monitoring import Run
from benchmarks.watched import HOUR, make_watched
from mlops.settings import Settings

SERVICES = 2


def test_a_run_that_works_longer_than_a_minute_does_not_hold() -> None:
    run = Run(seconds=90.0, busy=59.0, matched=500, looked=500, official=500)
    figure = monitoring.figure_of("five hundred", run)
    assert figure.holds
    assert "59.0 s of work, 118 ms a service" in figure.measured
    slow = Run(seconds=61.0, busy=60.5, matched=500, looked=500, official=0)
    assert not monitoring.figure_of("five hundred", slow).holds


@pytest.mark.slow
def test_every_service_is_matched_and_watched_in_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    watched = make_watched(tmp_path / "home", store, SERVICES)
    monkeypatch.chdir(watched.home)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MLOPS_BASE_PATH", str(watched.home))
    monkeypatch.setenv("STORE_URL", store)
    monitoring.catch_up(watched.begins - HOUR)
    deciding, later = monitoring.watch_once(watched.begins)
    assert (deciding.matched, deciding.looked, deciding.official) == (2, 2, 2)
    assert (later.matched, later.looked, later.official) == (2, 2, 0)


@pytest.mark.slow
def test_a_run_that_fails_in_its_process_says_why(tmp_path: Path) -> None:
    watched = make_watched(tmp_path / "home", f"sqlite:///{tmp_path / 'store.db'}", 1)
    with pytest.raises(RuntimeError, match="some services were not watched"):
        monitoring.in_a_fresh_process(watched, "watch", watched.begins - 20_000 * HOUR)
