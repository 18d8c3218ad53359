"""The files of the reading benchmark hold the same bars, and a cost beyond a limit is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.reading import FORMS, Cost, judge, measure, read_ours, read_peer, write_files

BARS = 3_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reading")
    write_files(path, BARS)
    return path


def test_every_form_holds_the_same_bars(folder: Path) -> None:
    first, *others = (read_ours(folder / name) for name in FORMS.values())
    assert len(first) == BARS
    for other in others:
        pd.testing.assert_frame_equal(other, first, check_exact=True)
    assert {read_peer(folder / name).num_rows for name in FORMS.values()} == {BARS}


def test_a_file_is_measured_in_turns_and_in_a_process_of_its_own(folder: Path) -> None:
    cost = measure(folder / "bars.parquet", BARS, runs=1)
    assert min(cost.ours_s, cost.pyarrow_s, cost.sizes) > 0


def test_a_cost_beyond_either_limit_does_not_hold() -> None:
    fair = Cost(ours_s=1.5, pyarrow_s=1.0, sizes=4.0)
    assert judge("CSV", BARS, fair).holds
    assert not judge("CSV", BARS, replace(fair, ours_s=1.6)).holds
    assert not judge("CSV", BARS, replace(fair, sizes=4.1)).holds
