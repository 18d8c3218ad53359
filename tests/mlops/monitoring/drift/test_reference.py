"""A reference that was kept says the same as one fitted anew; a broken file costs time only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.monitoring.drift.reference import load_or_fit_reference, reference_path
from mlops.monitoring.drift.report import (
    DriftConfig,
    DriftReference,
    Role,
    check_drift,
    fit_reference,
)

CONFIG = DriftConfig(window_bars=48)
ROLES = {
    "slow": Role.FEATURE,
    "side": Role.FEATURE,
    "always": Role.FEATURE,
    "gone": Role.FEATURE,
    "target": Role.TARGET,
    "loss": Role.LOSS,
}


def frame(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    slow = np.convolve(rng.standard_normal(n + 47), np.ones(48), "valid")
    slow[n // 2 :: 100] = np.nan
    columns = {
        "slow": slow,
        "side": rng.choice(["long", "short"], n),
        "always": np.ones(n),
        "target": rng.standard_normal(n),
        "loss": rng.standard_normal(n),
    }
    return pd.DataFrame(columns, pd.date_range("2020-01-01", periods=n, freq="1h", tz="UTC"))


def fitted() -> DriftReference:
    return fit_reference(
        frame(5_000, seed=1), ROLES, window_bars=CONFIG.window_bars, span=CONFIG.looks_per_budget
    )


def never() -> DriftReference:
    raise AssertionError("it was kept")


def test_a_kept_reference_judges_exactly_as_the_fitted_one(tmp_path: Path) -> None:
    path = reference_path(tmp_path / "references", "d" * 64, CONFIG)
    first = load_or_fit_reference(path, fitted)
    again = load_or_fit_reference(path, never)
    assert again == first
    assert (again.families, again.testable) == (first.families, first.testable)
    assert again.watched_for_jumps == first.watched_for_jumps == ("target",)
    current = frame(CONFIG.history_bars, seed=2)
    current["slow"] += 20.0
    reports = [check_drift(one, current, CONFIG).to_dict() for one in (first, again)]
    assert reports[0] == reports[1]
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_other_windows_and_bundles_have_files_of_their_own(tmp_path: Path) -> None:
    places = {
        reference_path(tmp_path, digest, DriftConfig(window_bars=bars))
        for digest in ("a", "b")
        for bars in (48, 168)
    }
    assert len(places) == 4


def test_a_file_that_cannot_be_read_is_fitted_again(tmp_path: Path) -> None:
    path = reference_path(tmp_path, "d", CONFIG)
    load_or_fit_reference(path, fitted)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert load_or_fit_reference(path, fitted) == fitted()
    assert path.read_bytes() == whole


def test_a_reference_that_cannot_be_saved_is_fitted_and_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "references").write_text("a file where the folder should be")
    path = reference_path(tmp_path / "references", "d", CONFIG)
    assert load_or_fit_reference(path, fitted) == fitted()
    assert "was not kept" in caplog.text
