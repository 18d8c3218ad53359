"""A window's forecasts are those of its bars alone, whoever is asked in the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from mlops.data.calendar import load_calendar
from mlops.errors import FeatureError, NotFinite
from mlops.features.dataset import Dataset
from mlops.features.indicators import register_indicator, unregister_indicator
from mlops.features.spec import FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.models.base import Forecaster, default_recipe
from mlops.models.baselines import Persistence
from mlops.models.bundle import FORECAST, Bundle
from mlops.models.custom import Pickled
from mlops.models.ensemble import Ensemble
from mlops.models.recipe import Recipe
from mlops.models.windows import JoinedWindows, Window, join_windows, window_of
from mlops.service import Target, Timeframe

ALWAYS = load_calendar("24/7")
VOLATILITY = TargetSpec(Target.VOLATILITY, 4)
RATIO = FeatureSpec(("volume_ratio",))


def dataset_from(joined: JoinedWindows) -> Dataset:
    return Dataset.of_bars(
        joined.bars, timeframe=Timeframe("1h"), target=VOLATILITY, history=joined.history
    )


def bundle_of(forecaster: Forecaster) -> Bundle:
    target = forecaster.target
    key = f"simulator.btc-usd.1h.{target.kind}.{target.horizon}"
    config = {"service": key, "calendar": "24/7", "warm_up": forecaster.warm_up}
    return Bundle(Path("bundle"), cast(Any, None), config, forecaster)


def cut(bars: pd.DataFrame) -> Window:
    return window_of(bars, Timeframe("1h"), ALWAYS)


def alone(bundle: Bundle, bars: pd.DataFrame) -> np.ndarray:
    """What `Bundle.predict` says, NaN where it says nothing."""
    return bundle.predict(bars)[FORECAST].reindex(bars.index).to_numpy()


def windows_of(frame: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Just enough bars, one more, many, two strangers' extremes, too few, and a hole."""
    loud, tiny = frame.iloc[40 : 40 + size + 2].copy(), frame.iloc[90 : 90 + size + 2].copy()
    loud["volume"] = 1e300
    tiny[["open", "high", "low", "close"]] *= 1e-6 / tiny["close"].mean()
    many = frame.iloc[100 : 140 + size]
    return [
        frame.iloc[300 : 300 + size],
        loud,
        frame.iloc[310 : 311 + size],
        tiny,
        frame.iloc[200 : 200 + max(size - 1, 1)],
        many,
        many.drop(many.index[size // 2 : size // 2 + 3]),
    ]


def assert_alone(bundle: Bundle, frames: list[pd.DataFrame], spread: float) -> None:
    together = bundle.forecast_windows([cut(frame) for frame in frames])
    for frame, got in zip(frames, together, strict=True):
        np.testing.assert_allclose(got, alone(bundle, frame), rtol=1e-6, atol=1e-6 * spread)


def test_every_model_forecasts_a_batch_as_each_window_alone(
    model_type, target, small_recipe, fitted, dataset_of
):
    bundle = bundle_of(fitted(small_recipe(model_type, target), target))
    frames = windows_of(dataset_of(target).frame, bundle.config["warm_up"])
    spread = float(np.nanstd(dataset_of(target).labels.y))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(frames))
        assert_alone(bundle, [frames[i] for i in order], spread)


class Ranges:
    """A pickled model that looks at every row it is given."""

    def predict(self, features: pd.DataFrame) -> np.ndarray:
        return features["har_1"].to_numpy() - features["har_1"].mean()


def test_a_pickled_model_gets_one_window_at_a_time(frame):
    recipe = Recipe("custom", features=("har_1",))
    bundle = bundle_of(Pickled(recipe, VOLATILITY, Ranges()))
    assert_alone(bundle, windows_of(frame, 10), 1.0)


class Threads(torch.nn.Module):
    """Answers with the threads that torch may start."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.full((len(features),), float(torch.get_num_threads()))


def test_a_pickled_network_starts_no_threads(frame):
    recipe = Recipe("custom", features=("har_1",), sequence_length=3)
    bundle = bundle_of(Pickled(recipe, VOLATILITY, Threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        [forecasts] = bundle.forecast_windows([cut(frame.iloc[:10])])
    finally:
        torch.set_num_threads(before)
    assert forecasts[-1] == 1.0


def test_an_ensemble_with_a_custom_member_is_not_row_by_row(small_recipe, fitted, frame):
    members = [small_recipe(name, VOLATILITY) for name in ("linear", "custom")]
    recipe = default_recipe("ensemble", VOLATILITY, {"members": members})
    forecaster = fitted(recipe, VOLATILITY)
    assert isinstance(forecaster, Ensemble)
    assert not forecaster.row_by_row
    bundle = bundle_of(forecaster)
    assert_alone(bundle, windows_of(frame, bundle.config["warm_up"]), 1.0)


def test_a_feature_that_looks_over_everything_gets_one_window_at_a_time(fitted, frame):
    register_indicator("level", lambda bars: bars.close / bars.close.max(), warm_up=0)
    try:
        recipe = default_recipe("linear", VOLATILITY, {"features": ["level", "har_1"]})
        bundle = bundle_of(fitted(recipe, VOLATILITY))
        assert_alone(bundle, windows_of(frame, bundle.config["warm_up"]), 1.0)
    finally:
        unregister_indicator("level")


def test_no_windows_give_no_forecasts(small_recipe, fitted):
    bundle = bundle_of(fitted(small_recipe("linear", VOLATILITY), VOLATILITY))
    assert bundle.forecast_windows([]) == []


def test_windows_too_short_have_no_forecast(small_recipe, fitted, frame):
    bundle = bundle_of(fitted(small_recipe("lstm", VOLATILITY), VOLATILITY))
    short = [cut(frame.iloc[:size]) for size in (1, bundle.config["warm_up"] - 1)]
    assert all(np.isnan(forecasts).all() for forecasts in bundle.forecast_windows(short))


def test_forecasting_windows_does_not_change_the_bars(small_recipe, fitted, frame):
    bundle = bundle_of(fitted(small_recipe("lstm", VOLATILITY), VOLATILITY))
    window = cut(frame.iloc[:200])
    before = (window.values.copy(), window.hole_before.copy())
    bundle.forecast_windows([window, window])
    np.testing.assert_array_equal(window.values, before[0])
    np.testing.assert_array_equal(window.hole_before, before[1])


def test_a_forecast_that_is_no_number_raises_not_finite(frame):
    class Broken(Persistence):
        def _predict(self, dataset, rows):
            return np.full(rows.size, np.inf)

    bundle = bundle_of(Broken(Recipe("persistence"), VOLATILITY))
    with pytest.raises(NotFinite, match="1 values not finite"):
        bundle.forecast_windows([cut(frame.iloc[:4])])


def test_only_a_windows_own_missing_feature_is_refused(frame):
    huge = frame.iloc[:200].copy()
    huge["volume"] = 1e307
    register_indicator(
        "small_volume", lambda bars: np.where(bars.volume < 1e300, 1.0, np.nan), warm_up=0
    )
    try:
        spec = FeatureSpec(("small_volume",))
        windows = join_windows([cut(frame.iloc[:200]), cut(frame.iloc[:200])])
        assert np.isfinite(dataset_from(windows).matrix(spec)).all()
        with pytest.raises(FeatureError, match="small_volume"):
            dataset_from(join_windows([cut(huge), cut(frame.iloc[:200])])).matrix(spec)
    finally:
        unregister_indicator("small_volume")


def test_one_windows_enormous_volumes_do_not_change_another_windows_features(frame):
    """24 bars of 1e307 fit into a sum, 168 do not."""
    huge = frame.iloc[:200].copy()
    huge["volume"] = 1e307

    matrix = dataset_from(join_windows([cut(huge), cut(frame.iloc[:200])])).matrix(RATIO)

    expected = dataset_from(join_windows([cut(frame.iloc[:200])])).matrix(RATIO)
    np.testing.assert_array_equal(matrix[200 + 167 :], expected[167:])
    assert np.isfinite(matrix[167:200]).all()


def test_sliding_windows_advance_by_one_bar(frame):
    whole = cut(frame.iloc[:12])
    parts = list(whole.sliding(10))
    assert [part.open_time[-1] for part in parts] == list(whole.open_time[-3:])
    assert all(np.shares_memory(part.values, whole.values) for part in parts)


def test_joined_windows_count_the_history_of_each_bar(frame):
    joined = join_windows([cut(frame.iloc[:3]), cut(frame.iloc[50:52])])
    assert joined.history.tolist() == [0, 1, 2, 0, 1]
    assert joined.bars.hole_before.tolist() == [True, False, False, True, False]
    parts = joined.split(np.arange(5.0))
    assert [part.tolist() for part in parts] == [[0.0, 1.0, 2.0], [3.0, 4.0]]
