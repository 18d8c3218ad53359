"""The drift benchmark computes its figures; how large they are is for `make bench` to say."""

from __future__ import annotations

import pytest

from benchmarks import drift


@pytest.mark.slow
def test_a_check_is_set_beside_the_preset_and_scipy() -> None:
    cost, same = drift.against_evidently(2_000, 2)
    assert "times less" in cost.measured
    assert "DataDriftPreset" in cost.peer
    assert same.holds


def test_a_check_of_one_feature_is_timed_at_each_length() -> None:
    assert drift.cost_of_a_check(repeats=2).measured.count("ms at n=") == 3
