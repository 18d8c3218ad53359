"""The serving benchmark and the soak judge what they measured, and measure what is served."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import peers, serving, soak
from benchmarks.load import Load, Report, measure
from benchmarks.served import ASKS, STEPS, make_place, questions
from mlops.store import Phase

REPORT = Report(answered=100, rate=100.0, p50=0.01, p99=0.02, worst=0.03, busy=0.1)
FAST = replace(REPORT, rate=1_000.0, p50=0.001)
WRONG = {"failures": {"wrong": 1}, "first": {"wrong": "0.4 is none of (0.5,)"}}


def measured(**changes: Any) -> serving.Measured:
    """A replica ten times as fast as MLflow, at two thirds of the bare network."""
    ours, mlflow = serving.Alone(FAST, FAST), serving.Alone(REPORT, REPORT)
    usual = {
        "window_bars": 83,
        "bar_bytes": 3_800,
        "feature_bytes": 4_000,
        "network": 1_500.0,
        "batch": 16,
        "servers": {serving.OFF: ours, serving.ON: ours, serving.MLFLOW: mlflow},
        "newest": replace(REPORT, rate=20_000.0),
        "echo": replace(REPORT, rate=30_000.0),
    }
    return serving.Measured(**{**usual, **changes})


def soaked(**changes: Any) -> soak.Soaked:
    """A quiet soak of two rollouts."""
    memory = soak.Memory([1.0, 65.0, 70.0, 290.0], [100.0, 400.0, 402.0, 410.0])
    usual = {
        "peak": FAST,
        "quiet": REPORT,
        "loaded": replace(REPORT, p99=0.05),
        "memory": memory,
        "rollouts": Counter({"done": 2}),
        "due": 6,
        "missing": 0,
        "double": 0,
        "wrong": 0,
    }
    return soak.Soaked(**{**usual, **changes})


def test_what_is_asked_of_serving_holds_where_all_is_well() -> None:
    found = serving.judged(measured())
    assert all(figure.holds for figure in found)
    times, latency, share, _ = found
    assert times.measured.startswith("10.0 times mlflow")
    assert "litserve: not installed here; bentoml: not installed here" in times.peer
    assert "83 bars (3,800 bytes)" in times.peer
    assert "mlflow: 10.00 ms" in latency.peer
    assert share.measured == "67%, batching off 67%"


@pytest.mark.parametrize(
    ("figure", "changes"),
    [
        (0, {"servers": {serving.ON: replace(FAST, rate=790.0)}}),
        (0, {"servers": {serving.ON: replace(FAST, **WRONG)}}),
        (1, {"servers": {serving.OFF: replace(FAST, p50=0.011)}}),
        (2, {"network": 2_001.0}),
        (3, {"newest": replace(REPORT, rate=9_999.0)}),
        (3, {"newest": replace(REPORT, rate=20_000.0, **WRONG)}),
    ],
)
def test_a_figure_of_serving_falls_with_what_it_is_about(
    figure: int, changes: dict[str, Any]
) -> None:
    if "servers" in changes:
        both = {name: serving.Alone(one, one) for name, one in changes["servers"].items()}
        changes = {"servers": measured().servers | both}
    assert not serving.judged(measured(**changes))[figure].holds


def test_what_is_asked_of_a_soak_holds_where_all_is_well() -> None:
    found = soak.judged(soaked(), soak.Length())
    assert all(figure.holds for figure in found)
    assert found[0].measured.startswith("2.50 times its quiet value")
    assert found[1].measured == "+2.2%, to 410 MiB"


@pytest.mark.parametrize(
    ("figure", "changes"),
    [
        (0, {"loaded": replace(REPORT, p99=0.061)}),
        (0, {"loaded": replace(REPORT, **WRONG)}),
        (1, {"memory": soak.Memory([65.0, 290.0], [400.0, 421.0])}),
        (2, {"rollouts": Counter({"done": 1, "failed": 1})}),
        (2, {"rollouts": Counter()}),
        (3, {"missing": 1}),
        (3, {"double": 1}),
        (3, {"wrong": 1}),
        (3, {"due": 0}),
    ],
)
def test_a_figure_of_a_soak_falls_with_what_it_is_about(
    figure: int, changes: dict[str, Any]
) -> None:
    assert not soak.judged(soaked(**changes), soak.Length())[figure].holds


def test_each_bar_that_closed_meanwhile_is_due(tmp_path: Path) -> None:
    """The sample is replayed at a bar a minute, so three minutes see four bars at most."""
    began = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    place: Any = SimpleNamespace(home=tmp_path)
    due = sorted(soak.bars_due(place, began, began + timedelta(minutes=3)))
    assert len(due) == 4
    assert {b - a for a, b in pairwise(due)} == {timedelta(hours=1)}


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = ["python", "-c", "raise SystemExit('no weights')"]
    server = peers.Server(name="broken", command=command, ready="/")
    with (
        pytest.raises(RuntimeError, match=r"broken does not serve \(exit status 1\):\nno weights"),
        peers.serving(server, tmp_path, core=None),
    ):
        pass


def test_a_server_gets_no_setting_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_URL", "postgresql://elsewhere/live")
    monkeypatch.setenv("HOME", "/home/user")
    found = peers.surroundings()
    assert "STORE_URL" not in found
    assert found["HOME"] == "/home/user"
    assert found["OMP_NUM_THREADS"] == "1"


@pytest.mark.slow
def test_a_replica_answers_right_what_it_is_asked_while_a_version_goes_live(
    tmp_path: Path,
) -> None:
    length = soak.Length(peak_s=1.0, quiet_s=1.0, soak_s=16.0, settled_s=4.0, compared_s=4.0)
    found = soak.soak(tmp_path, length)
    assert found.loaded.answered > 0
    assert not found.loaded.failures
    assert found.rollouts == {str(Phase.DONE): 1}
    assert found.due > 0
    assert found.missing == found.double == found.wrong == 0


@pytest.mark.slow
def test_mlflow_and_ours_are_asked_for_the_same_forecasts(tmp_path: Path) -> None:
    place = make_place(tmp_path / "base")
    asked = questions(place)
    assert len(asked.bars) == len(asked.features) == len(asked.frames) == ASKS
    assert place.window_bars == STEPS + 23
    network = peers.mlflow_network(place, tmp_path / "network")
    for server, asks in ((peers.replica(place), asked.bars), (network, asked.features)):
        with peers.serving(server, tmp_path / "logs", core=None) as served:
            report = measure(Load(port=served.port, asks=asks, connections=2, seconds=1.0))
        assert report.answered > 0
        assert not report.failures


def test_a_rollout_waits_for_the_one_before_it_and_none_begins_near_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    refusals = iter([True, False, False, False])

    def start(place: object, model_id: str, strategy: object) -> bool:
        if next(refusals):
            return False
        started.append(f"{model_id} {strategy}")
        return True

    monkeypatch.setattr(soak, "_started", start)
    monkeypatch.setattr(soak, "EVERY_S", 0.1)
    monkeypatch.setattr(soak, "LAST_S", 10.0)
    monkeypatch.setattr(soak, "LOOK_S", 0.01)
    place: Any = SimpleNamespace()
    soak.take_turns(place, ["a", "b"], seconds=10.21)
    assert started == ["b canary", "a blue_green", "b rolling"]
