"""Real series from a folder of the user's; what they measure is for `make bench` to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import series
from benchmarks.extra_series import ExtraSeries, list_extra_series
from benchmarks.series import Trained, figure_of, horizons_of, read_series
from mlops.data.calendar import load_calendar
from tests.mlops.data.conftest import make_bars

TRAINED = Trained("spy-1h", 7, "challenger", (), 0.5, 0.25, 12.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_SERIES", str(tmp_path))
    make_bars(300).to_parquet(tmp_path / "btc-eur-1h.parquet")
    (tmp_path / "README.md").write_text("not a series")
    return tmp_path


def test_a_file_is_named_by_symbol_and_timeframe() -> None:
    named = [ExtraSeries(Path(name)) for name in ("btc-eur-1h.parquet", "spy-1d.parquet")]
    assert [(one.symbol, one.timeframe) for one in named] == [("BTC/EUR", "1h"), ("SPY/USD", "1d")]


def test_nothing_is_run_without_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLOPS_SERIES", raising=False)
    assert [one.measured for one in series.figures()] == ["not run: MLOPS_SERIES is empty"]
    monkeypatch.setenv("MLOPS_SERIES", str(tmp_path))
    assert [one.measured for one in series.figures()] == ["not run: MLOPS_SERIES is empty"]


def test_a_series_is_described_with_its_calendar(folder: Path) -> None:
    (found,) = list_extra_series()
    bars = read_series(found)

    figure = figure_of(replace(TRAINED, series=found.name), bars)

    assert horizons_of(bars) == (1, 6, 24)
    assert figure.what == (
        "btc-eur-1h: 300 bars, 2024-01 to 2024-01, calendar 24/7, 0 holes; horizon 7"
    )
    assert (figure.measured, figure.holds) == ("challenger; R2 0.500, skill 0.250", True)
    assert horizons_of(replace(bars, calendar=load_calendar("XNYS"))) == (1, 7, 24)


def test_a_refused_training_is_told_with_its_gates(folder: Path) -> None:
    bars = read_series(list_extra_series()[0])
    figure = figure_of(replace(TRAINED, status="refused", refused_by=("G2 skill",)), bars)
    assert figure.measured.startswith("refused by G2 skill; R2")
    assert not figure.holds
