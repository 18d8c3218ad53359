"""Bars are set against a version's own reference: more of the same is quiet, a storm is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops.data.simulator import simulate_bars
from mlops.errors import BarsError
from mlops.models.bundle import Bundle, open_bundle
from mlops.models.signing import load_or_make_key
from mlops.monitoring.drift.report import (
    ColumnStatus,
    DriftConfig,
    Family,
    Recommendation,
    ReportStatus,
)
from mlops.monitoring.drift.version_drift import VersionDrift, current_frame, reference_frame
from mlops.registry import bundle_parts, write_bundle
from tests.mlops.registry.conftest import SERVICE, dataset_of, fitted

TRAINED = 8000
FEATURES = ["har_1", "har_24", "volume", "hour_sin"]
HISTORY = 168 + 400


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return simulate_bars(TRAINED + 2000, seed=3)


@pytest.fixture(scope="module")
def bundle(bars: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A linear model of the first bars."""
    dataset = dataset_of(bars[:TRAINED])
    forecaster = fitted("linear", dataset, {"features": FEATURES, "sequence_length": 3})
    folder: Path = tmp_path_factory.mktemp("drifting")
    write_bundle(
        bundle_parts(forecaster, dataset, SERVICE),
        folder / "bundle",
        load_or_make_key(folder / "key"),
    )
    return open_bundle(folder / "bundle")


def wilder(bars: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The same bars with every move so many times as large."""
    prices = ["open", "high", "low", "close"]
    start = float(bars["close"].iloc[0])
    moved = bars.copy()
    moved[prices] = start * np.exp(factor * np.log(bars[prices] / start))
    return moved


@pytest.fixture(scope="module")
def drift(bundle: Bundle) -> VersionDrift:
    return VersionDrift(bundle, DriftConfig())


@pytest.fixture
def recent(bars: pd.DataFrame) -> pd.DataFrame:
    return bars[-HISTORY:]


def test_bars_like_the_reference_ask_for_no_retraining(
    drift: VersionDrift, recent: pd.DataFrame
) -> None:
    report = drift.check(recent)
    assert report.status is ReportStatus.JUDGED
    assert not report.drift_detected


def test_moves_six_times_as_large_ask_for_a_retraining(
    drift: VersionDrift, recent: pd.DataFrame
) -> None:
    report = drift.check(wilder(recent, 6.0))
    assert report.drift_detected
    assert report.score >= drift.config.effect_threshold


def test_features_target_and_forecasts_are_families_and_the_clock_is_left_out(
    drift: VersionDrift, recent: pd.DataFrame
) -> None:
    report = drift.check(recent)
    assert {column.name: column.family for column in report.columns} == {
        "har_1": Family.FEATURES,
        "har_24": Family.FEATURES,
        "volume": Family.FEATURES,
        "target": Family.TARGET,
        "realised": Family.TARGET,
        "forecast": Family.FORECASTS,
    }


def test_a_storm_of_a_day_is_a_jump_of_what_each_bar_realised(
    drift: VersionDrift, bars: pd.DataFrame
) -> None:
    history = bars[-drift.config.history_bars - HISTORY :]
    assert drift.check(history).rejections.jumped == ()
    stormy = pd.concat([history[:-24], wilder(history[-24:], 8.0)])
    assert drift.check(stormy).rejections.jumped == ("realised",)


def test_a_window_of_bars_gives_what_the_reference_keeps_of_them(
    bundle: Bundle, bars: pd.DataFrame
) -> None:
    kept = reference_frame(bundle)
    history = bundle.dataset(bars[bars.index <= kept.index[-1]][-HISTORY:])
    again = current_frame(bundle, history)[-100:]
    shown = kept.loc[again.index]
    for name in (*FEATURES, "forecast", "realised"):
        np.testing.assert_allclose(again[name], shown[name], rtol=1e-4, atol=1e-6)


def test_the_target_of_a_bar_is_the_one_known_by_then(bundle: Bundle, recent: pd.DataFrame) -> None:
    whole = current_frame(bundle, bundle.dataset(recent))
    cut = current_frame(bundle, bundle.dataset(recent[:-24]))
    pd.testing.assert_series_equal(whole["target"][:-24], cut["target"])
    assert whole["target"].notna().to_numpy()[-168:].all()


def test_columns_of_the_version_may_be_given_as_they_are(
    drift: VersionDrift, bundle: Bundle
) -> None:
    columns = reference_frame(bundle)[-168:] + 10.0
    report = drift.check(columns)
    assert report.recommendation is not Recommendation.NO_ACTION_NEEDED
    assert report["har_1"].p_value < 0.01


def test_23_bars_are_too_few_to_say_anything(drift: VersionDrift, recent: pd.DataFrame) -> None:
    report = drift.check(recent[-23:])
    assert report.status is ReportStatus.INSUFFICIENT_DATA
    assert report.recommendation is not Recommendation.RETRAIN_SOON
    assert not report.drift_detected


def test_bars_that_are_none_are_refused_with_their_cell(
    drift: VersionDrift, recent: pd.DataFrame
) -> None:
    wrong = recent.copy()
    wrong.iloc[5, 1] = np.nan
    with pytest.raises(BarsError):
        drift.check(wrong)


class TestTables:
    """A table is bars, held to their rules, or all the version's own columns."""

    def same(self, drift: VersionDrift, table: object, recent: pd.DataFrame, **written) -> None:
        assert str(drift.check(table, **written)) == str(drift.check(recent))

    @pytest.mark.parametrize("name", ["open", "high", "low", "close", "volume"])
    def test_a_missing_column_of_bars_is_named(
        self, drift: VersionDrift, recent: pd.DataFrame, name: str
    ) -> None:
        """The version has a feature named volume."""
        with pytest.raises(BarsError, match=f"column '{name}' is missing") as caught:
            drift.check(recent.drop(columns=name))
        assert caught.value.column == name

    def test_names_in_pairs_are_refused(self, drift: VersionDrift, recent: pd.DataFrame) -> None:
        levels = (recent.columns.str.title(), ["BTC-USD"])
        for place, pairs in ((1, levels), (0, levels[::-1])):
            table = recent.set_axis(pd.MultiIndex.from_product(pairs), axis=1)
            with pytest.raises(BarsError, match="named in pairs, such as") as told:
                drift.check(table)
            assert f"recent_data.droplevel({place}, axis=1)" in str(told.value)
            self.same(drift, table.droplevel(place, axis=1), recent)

    def test_other_tables_of_the_same_bars_give_the_same(
        self, drift: VersionDrift, recent: pd.DataFrame
    ) -> None:
        rows = recent.reset_index()
        tables = [
            pa.Table.from_pandas(rows),
            rows.to_dict("records"),
            rows.to_dict("list"),
            rows.rename(columns=str.upper),
            rows.convert_dtypes(dtype_backend="pyarrow"),
            rows.to_records(index=False),
        ]
        for table in tables:
            self.same(drift, table, recent)

    def test_times_without_zone_are_read_as_the_caller_says(
        self, drift: VersionDrift, recent: pd.DataFrame
    ) -> None:
        local = recent.set_axis(recent.index.tz_convert("Europe/Berlin").tz_localize(None))
        with pytest.raises(BarsError, match="pass timezone='UTC'"):
            drift.check(local)
        self.same(drift, local, recent, timezone="Europe/Berlin")

    @pytest.mark.parametrize(
        "table",
        [None, "bars", [], [[1.0, 2.0]], np.zeros((400, 5)), pd.Series([1.0]), {"open": 1.0}],
        ids=lambda table: type(table).__name__,
    )
    def test_what_has_no_named_columns_is_refused(self, drift: VersionDrift, table: object) -> None:
        with pytest.raises(BarsError, match="pass a data frame, a table of Arrow or Polars"):
            drift.check(table)

    def test_numbered_and_unknown_columns_are_refused_with_the_names_that_are_meant(
        self, drift: VersionDrift, recent: pd.DataFrame
    ) -> None:
        for names in ([*range(5)], [f"feature{number}" for number in range(5)]):
            with pytest.raises(BarsError, match="columns har_1, har_24, volume, target") as told:
                drift.check(recent.set_axis(names, axis=1))
            assert "pass bars with open, high, low, close, volume" in str(told.value)

    def test_features_alone_are_judged_and_a_missing_one_is_absent_in_the_report(
        self, drift: VersionDrift, bundle: Bundle
    ) -> None:
        features = reference_frame(bundle)[["har_1", "har_24", "volume"]][-168:]
        assert drift.check(features).status is ReportStatus.JUDGED
        report = drift.check(features.drop(columns="har_24"))
        assert report["har_24"].status is ColumnStatus.ABSENT
        assert report["har_1"].status is ColumnStatus.TESTED
        assert not report.drift_detected

    def test_rows_with_none_of_the_columns_are_refused_with_those_that_are_watched(
        self, drift: VersionDrift
    ) -> None:
        rows = [{"feature1": 0.5, "feature2": 1.0}, {"feature1": 0.6, "feature2": 1.1}]
        named = "columns har_1, har_24, volume, target, forecast, realised are missing"
        with pytest.raises(BarsError, match=named) as told:
            drift.check(rows)
        assert "got feature1, feature2" in str(told.value)

    def test_fewer_than_24_rows_of_the_columns_are_too_few(
        self, drift: VersionDrift, bundle: Bundle
    ) -> None:
        rows = reference_frame(bundle)[["har_1", "har_24", "volume"]][-2:]
        report = drift.check(rows.to_dict("records"))
        assert report.status is ReportStatus.INSUFFICIENT_DATA
        assert not report.drift_detected

    def test_bars_that_are_still_open_are_left_out(
        self, drift: VersionDrift, recent: pd.DataFrame
    ) -> None:
        newest = pd.Timestamp.now("UTC").floor("h")
        index = pd.date_range(end=newest, periods=len(recent), freq="h", name="open_time")
        moved = recent.set_axis(index)
        self.same(drift, moved, moved[:-1])

    def test_bars_of_another_timeframe_are_refused(
        self, drift: VersionDrift, recent: pd.DataFrame
    ) -> None:
        half_hours = pd.date_range(recent.index[0], periods=len(recent), freq="30min")
        with pytest.raises(BarsError, match="overlaps its predecessor at timeframe 1h"):
            drift.check(recent.set_axis(half_hours))
        days = pd.date_range("2020-01-01", periods=len(recent), freq="1D", tz="UTC")
        with pytest.raises(BarsError, match="these look like 1d bars"):
            drift.check(recent.set_axis(days))
