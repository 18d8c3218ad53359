"""The archive gives back what was kept, by time, and never half a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlops.search.trial_archive import TrialArchive

MADE_AT = np.datetime64("2024-01-01", "ns") + np.arange(6) * np.timedelta64(1, "h")
FORECASTS = np.array([np.nan, 0.1, 0.2, 0.3, 0.4, np.nan])


@pytest.fixture
def archive(tmp_path: Path) -> TrialArchive:
    return TrialArchive(tmp_path / "studies")


def test_a_trial_comes_back_as_it_was(archive: TrialArchive) -> None:
    archive.keep("one", "lstm-3", MADE_AT, FORECASTS)
    recalled = archive.recall("one", "lstm-3", MADE_AT)
    assert recalled is not None
    np.testing.assert_array_equal(recalled, FORECASTS)


def test_an_unknown_trial_is_none(archive: TrialArchive) -> None:
    archive.keep("one", "lstm-3", MADE_AT, FORECASTS)
    assert archive.recall("one", "lstm-4", MADE_AT) is None
    assert archive.recall("two", "lstm-3", MADE_AT) is None


def test_forecasts_are_joined_by_time_not_by_place(archive: TrialArchive) -> None:
    archive.keep("one", "linear", MADE_AT, FORECASTS)
    later = archive.recall("one", "linear", MADE_AT[2:] + np.timedelta64(1, "h"))
    np.testing.assert_array_equal(later, [0.3, 0.4, np.nan, np.nan])


def test_earlier_trials_are_those_of_other_studies_on_these_rows(archive: TrialArchive) -> None:
    archive.keep("one", "linear", MADE_AT, FORECASTS)
    archive.keep("two", "linear", MADE_AT, FORECASTS * 2)
    archive.keep("three", "short", MADE_AT[:3], FORECASTS[:3])
    recalled = archive.earlier("one", MADE_AT[1:5])
    assert list(recalled) == ["two/linear"]
    np.testing.assert_array_equal(recalled["two/linear"], FORECASTS[1:5] * 2)


def test_a_window_that_lacks_a_few_rows_after_a_hole_is_still_tried(archive: TrialArchive) -> None:
    made_at = MADE_AT[0] + np.arange(100) * np.timedelta64(1, "h")
    for name, missing in (("window-6", 5), ("window-60", 6)):
        forecasts = np.where(np.arange(100) < missing, np.nan, 0.5)
        archive.keep("one", name, made_at, forecasts)
    recalled = archive.earlier("two", made_at)
    assert list(recalled) == ["one/window-6"]
    assert np.isnan(recalled["one/window-6"]).sum() == 5


def test_trials_are_counted_by_study(archive: TrialArchive) -> None:
    assert archive.count("one") == 0
    for name in ("linear", "lstm-1", "linear"):
        archive.keep("one", name, MADE_AT, FORECASTS)
    archive.keep("two", "linear", MADE_AT, FORECASTS)
    assert archive.count("one") == 2


def test_a_file_that_was_never_finished_is_no_trial(archive: TrialArchive) -> None:
    path = archive.keep("one", "linear", MADE_AT, FORECASTS)
    path.rename(path.with_suffix(".123.part"))
    assert archive.recall("one", "linear", MADE_AT) is None
    assert archive.count("one") == 0
    assert archive.earlier("two", MADE_AT[1:5]) == {}
