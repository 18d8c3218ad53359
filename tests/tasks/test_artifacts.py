"""What people see of progress, a verdict and a rollout."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops.registry.tracking import resolve_tracking_uri
from mlops.rollout.analysis import TrialCounts, judge_version
from mlops.rollout.runner import RolloutProgress
from mlops.service import Service
from mlops.store import Phase, Rollout, RolloutEvent
from tasks.artifacts import (
    gate_table,
    rollout_key,
    rollout_table,
    run_url,
    show_progress,
    training_key,
)
from tests.studied import Studied


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("binance.btc-usdt.1h.volatility.24", "train-binance-btc-usdt-1h-volatility-24"),
        ("gate_io.btc-usdt-usdt.5m.return.1", "train-gate-io-btc-usdt-usdt-5m-return-1"),
        ("xnys.brk~2e~b.1d.return.1", "train-xnys-brk--2e--b-1d-return-1"),
        ("xnys.brk-2e-b.1d.return.1", "train-xnys-brk-2e-b-1d-return-1"),
        ("gate.~5e01~-usdt.1w.return.1", "train-gate---5e01---usdt-1w-return-1"),
    ],
)
def test_a_key_has_the_characters_prefect_allows(key: str, expected: str) -> None:
    assert training_key(Service.parse(key)) == expected


NOW = datetime(2025, 1, 1, tzinfo=UTC)


def arrow(seq: int, phase: Phase, **detail: Any) -> RolloutEvent:
    return RolloutEvent("rollout-1", seq, NOW, None, phase, 0, 7, 1, f"because {phase}", detail)


def seen(*events: RolloutEvent, **more: Any) -> RolloutProgress:
    row = Rollout(
        id="rollout-1",
        service="gate_io.btc-usdt.1h.return.1",
        strategy="canary",
        from_version="a",
        to_version="b",
        plan={},
        phase=events[-1].to_phase,
        step=0,
        since=NOW,
        deadline=NOW,
        reason="",
        abort_requested=None,
        forced=False,
        requested_by="anna",
        requested_why="",
        requested_at=NOW,
    )
    return RolloutProgress(row, events, more.get("verdict"))


FIGURES = {
    "weight_bp": 2500, "verdict": "good", "e_value": 0.81234, "upper_bound": 0.00571,
    "trials": 601, "faults": 1,
}  # fmt: skip


def test_the_key_of_a_rollout_has_the_characters_prefect_allows() -> None:
    assert rollout_key("gate_io.btc-usdt.1h.return.1") == "deploy-gate-io-btc-usdt-1h-return-1"


def test_a_rollouts_table_has_a_row_for_each_arrow_with_its_evidence() -> None:
    asked, step = rollout_table(seen(arrow(0, Phase.PENDING), arrow(1, Phase.STEP, **FIGURES)))
    assert (asked["phase"], asked["weight"], asked["why"]) == ("pending", "", "because pending")
    assert step == {
        "at": "2025-01-01 00:00:00", "phase": "step", "step": 0, "weight": "25 %",
        "samples": "601", "faults": "1", "evidence for worse": "0.812 of 100",
        "upper bound": "0.57%", "verdict": "good", "generation": 7, "why": "because step",
    }  # fmt: skip


def test_while_it_waits_the_last_row_is_what_is_known_now() -> None:
    verdict = judge_version(TrialCounts(40, 0), max_fault_rate=0.01)
    *_, now = rollout_table(seen(arrow(0, Phase.STEP, **FIGURES), verdict=verdict))
    assert (now["at"], now["weight"], now["samples"], now["why"]) == (
        "now",
        "25 %",
        "40",
        "waiting",
    )
    assert now["verdict"] == "unknown"


def test_a_table_has_a_row_for_each_gate_with_its_reason(returns: Studied) -> None:
    judgement, version = returns.judged(), returns.registered()
    table = gate_table(returns.project, version, judgement, Path("card.html"))
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(judgement.report.results)
    assert table.startswith(f"# {version.model_id}: refused")
    assert all(result.reason in table for result in judgement.report.results)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("sqlite:////data/mlflow.db", "http://127.0.0.1:5100"),
        ("https://mlflow.example/", "https://mlflow.example"),
        ("https://ann:s3cret@mlflow.example", "https://mlflow.example"),
    ],
)
def test_a_run_is_linked_where_mlflow_shows_it(
    volatility: Studied, uri: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = volatility.project.registry.tracking
    version = volatility.registered()
    monkeypatch.setenv("MLFLOW_UI_URL", "http://127.0.0.1:5100/")
    url = run_url(replace(tracking, location=resolve_tracking_uri(uri)), version)
    assert url == f"{host}/#/experiments/{tracking.experiment_id}/runs/{version.run_id}"


def test_each_stage_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("simulator.btc-usd") as report:
        for done, what in enumerate(["linear", "linear", "lstm"], start=1):
            report(what, done, 3)
    assert capsys.readouterr().err.split("\n") == [
        "simulator.btc-usd: linear",
        "simulator.btc-usd: lstm",
        "",
    ]


def test_a_failure_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="diverged"), show_progress("x"):
        raise ValueError("diverged")
