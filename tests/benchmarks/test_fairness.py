from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import fairness
from benchmarks.fairness import WINDOWS, Batches, Measured
from benchmarks.load import Ask, Report

ALONE = Report(answered=100, rate=10.0, p50=0.003, p99=0.005, worst=0.006, busy=0.1)
WELL = Measured(alone=ALONE, beside=replace(ALONE, p50=0.01), batches=Batches(answered=5))


def test_a_batch_repeats_the_windows_of_the_single_requests() -> None:
    asks = [Ask.post("/", {"instances": [[[number]]]}, 0.0) for number in range(3)]
    sent = json.loads(fairness.batch_body(asks))["instances"]
    assert (len(sent), sent[:4]) == (WINDOWS, [[[0]], [[1]], [[2]], [[0]]])


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (WELL, True),
        (replace(WELL, beside=replace(ALONE, p50=0.353)), False),
        (replace(WELL, beside=replace(ALONE, failures={"503": 1})), False),
        (replace(WELL, batches=Batches()), False),
        (replace(WELL, batches=Batches(answered=5, failed=["500"])), False),
    ],
)
def test_the_figure_holds_where_single_requests_and_batches_go_on(
    found: Measured, holds: bool
) -> None:
    [figure] = fairness.judged(found)
    assert figure.holds == holds
