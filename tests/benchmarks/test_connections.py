"""The benchmark of connections judges what it measured, and measures a real replica."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import connections
from benchmarks.connections import Bench, Compared, Crowded, LongHeader, Round
from benchmarks.load import Report

REPORT = Report(answered=100, rate=100.0, p50=0.01, p99=0.02, worst=0.03, busy=0.1)
LOST = replace(REPORT, failures={"closed": 1}, first={"closed": "before the answer"})
OURS = LongHeader(size_mb=200, fed=49_152, worst=0.01)
PLAIN = LongHeader(size_mb=20, fed=0, worst=0.8)
CROWDED = Crowded(
    asked=20_000, descriptors=20_000, opened=20_000, before=REPORT, beside=REPORT, worst=0.1
)
ROUND = Round(ours=REPORT, plain=REPORT, our_cpu=31.0, plain_cpu=30.0)


def judged(**changes: Any) -> list[bool]:
    measured: dict[str, Any] = {"ours": OURS, "crowded": CROWDED, "round": ROUND} | changes
    compared = [Compared(what="inference", rounds=[measured["round"]] * 3)]
    figures = connections.judged(measured["ours"], PLAIN, measured["crowded"], compared)
    return [figure.holds for figure in figures]


def test_what_is_asked_holds_where_all_is_well() -> None:
    assert judged() == [True, True, True]


@pytest.mark.parametrize(
    ("figure", "changes"),
    [
        (0, {"ours": replace(OURS, fed=64 * 1024)}),
        (0, {"ours": replace(OURS, fed=0)}),
        (0, {"ours": replace(OURS, worst=1.1)}),
        (1, {"crowded": replace(CROWDED, opened=19_999)}),
        (1, {"crowded": replace(CROWDED, beside=LOST)}),
        (1, {"crowded": replace(CROWDED, worst=float("inf"))}),
        (2, {"round": replace(ROUND, ours=replace(REPORT, rate=94.0))}),
        (2, {"round": replace(ROUND, ours=LOST)}),
    ],
)
def test_a_figure_falls_with_what_it_is_about(figure: int, changes: dict[str, Any]) -> None:
    expected = [True] * 3
    expected[figure] = False
    assert judged(**changes) == expected


@pytest.mark.slow
def test_a_real_replica_is_sent_long_headers_and_holds_idle_connections(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quick=True)
    counted = bench.send_long_header("counting", 2)
    assert 32 * 1024 < counted.fed < 64 * 1024
    assert bench.send_long_header("plain", 1).fed == 0
    crowded = bench.hold_idle_connections(100)
    assert crowded.opened == 100
    assert crowded.beside.answered > 0
    assert not crowded.beside.failed
    bench.rounds = 1
    assert [found.failed for found in bench.compare()] == [0, 0]
