"""The figures of reads over the API are ratios of what was measured in one run."""

from __future__ import annotations

import pytest

from benchmarks.api_reads import figures, judge_ratio


def test_a_ratio_holds_up_to_its_bound() -> None:
    within = judge_ratio("it", 4e-5, 1e-5, 4.0, "the peer")
    assert (within.holds, within.measured, within.peer) == (True, "4.00 (40 µs)", "the peer: 10 µs")
    assert not judge_ratio("it", 4.1e-5, 1e-5, 4.0, "the peer").holds


@pytest.mark.slow
def test_every_read_is_measured() -> None:
    assert len(figures(quick=True)) == 4
