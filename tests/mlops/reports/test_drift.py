"""The drift page shows our p-values, and nothing that comes in keeps it from being drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.monitoring.drift.report import DriftConfig, DriftReport, Role, check_drift, fit_reference
from mlops.reports import drift
from mlops.reports.drift import save_drift_report

BARS, WINDOW = 2_000, 100
ROLES = dict.fromkeys(["calm", "moved", "empty", "gone", "side"], Role.FEATURE)


def frame(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {
        "calm": rng.standard_normal(n),
        "moved": rng.standard_normal(n),
        "empty": rng.standard_normal(n),
        "gone": rng.standard_normal(n),
        "side": rng.choice(["long", "short"], n),
    }
    return pd.DataFrame(columns, pd.date_range("2020-01-01", periods=n, freq="1h", tz="UTC"))


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return frame(BARS, seed=1)


@pytest.fixture(scope="module")
def broken() -> pd.DataFrame:
    """One column moved, one infinite here and there, one empty, one absent."""
    current = frame(WINDOW, seed=2).drop(columns="gone")
    current["moved"] += 3.0
    current["empty"] = np.nan
    current.iloc[::50, 0] = np.inf
    return current


@pytest.fixture(scope="module")
def report(reference: pd.DataFrame, broken: pd.DataFrame) -> DriftReport:
    fitted = fit_reference(reference, ROLES, window_bars=WINDOW)
    return check_drift(fitted, broken, DriftConfig(window_bars=WINDOW))


def test_the_page_shows_our_p_values_and_says_what_it_could_not_draw(
    report: DriftReport, reference: pd.DataFrame, broken: pd.DataFrame, tmp_path: Path
) -> None:
    path = save_drift_report(report, reference, broken, tmp_path / "new" / "a.html", title="a <b>")
    html = path.read_text()
    for name in ("calm", "moved", "side"):
        said = "detected" if name == "moved" else "not detected"
        score = round(report[name].p_value, 3)
        by = f"Drift detection method: {drift.TEST_TITLE}. Drift score: {score:g}"
        assert f"Drift in column '{name}'" in html
        assert f"Data drift {said}. {by}" in html
    assert "(not drawn: all_missing)" in html
    assert "(not drawn: absent)" in html
    assert "a &lt;b&gt;" in html
    assert str(report.recommendation) in html


def test_a_window_of_which_nothing_was_tested_is_a_page_of_words(
    reference: pd.DataFrame, broken: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_reference(reference, ROLES, window_bars=WINDOW)
    short = check_drift(fitted, broken[:5], DriftConfig(window_bars=WINDOW))
    monkeypatch.delattr(drift, "_draw_with_evidently")
    html = save_drift_report(
        short, reference, broken[:5], tmp_path / "a.html", title="a"
    ).read_text()
    assert html.count("(not drawn: ") == len(ROLES)
    assert "5 usable bars" in html
