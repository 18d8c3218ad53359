"""Progress is told by stage where there is no terminal."""

from __future__ import annotations

import pytest

from tasks.artifacts import show_progress


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
