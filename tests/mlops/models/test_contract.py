"""What every forecaster keeps, whatever its type and target."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlops.errors import ModelError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe, restore_forecaster
from mlops.service import Target, Timeframe

VOLATILITY = TargetSpec(Target.VOLATILITY, 4)
TEST = np.arange(710, 880)
ALLOWED = ["own_models:LastRange"]


def _same_state(one, other):
    (config, tensors), (other_config, other_tensors) = one.state(), other.state()
    assert json.dumps(config) == json.dumps(other_config)
    assert tensors.keys() == other_tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, other_tensors[name], strict=True)


def test_the_same_seed_gives_the_same_bits(model_type, target, small_recipe, fitted):
    recipe = small_recipe(model_type, target)
    _same_state(fitted(recipe, target), fitted(recipe, target))


def test_a_state_of_json_and_arrays_restores_the_same_forecasts(
    model_type, target, small_recipe, fitted, dataset_of
):
    forecaster = fitted(small_recipe(model_type, target), target)
    config, tensors = forecaster.state()
    restored = restore_forecaster(json.loads(json.dumps(config)), tensors, allowed_classes=ALLOWED)
    data = dataset_of(target)
    np.testing.assert_array_equal(restored.predict(data, TEST), forecaster.predict(data, TEST))
    _same_state(restored, forecaster)


def test_fitting_and_forecasting_do_not_change_the_bars(model_type, target, small_recipe, frame):
    data = Dataset(frame.copy(), timeframe=Timeframe("1h"), target=target)
    forecaster = build_forecaster(small_recipe(model_type, target), target, allowed_classes=ALLOWED)
    forecaster.fit(data, np.arange(200, 400), np.arange(410, 500), FitContext())
    forecaster.forecast(data)
    np.testing.assert_array_equal(data.frame.to_numpy(), frame.to_numpy())


def test_forecasts_are_one_finite_number_a_ready_row(
    model_type, target, small_recipe, fitted, dataset_of
):
    data = dataset_of(target)
    forecaster = fitted(small_recipe(model_type, target), target)
    forecasts = forecaster.forecast(data)
    assert forecasts.shape == (len(data),)
    np.testing.assert_array_equal(np.isfinite(forecasts), forecaster.ready(data))
    assert forecaster.ready(data)[forecaster.warm_up :].all()


def test_a_live_window_forecasts_what_the_batch_did(
    model_type, target, small_recipe, fitted, dataset_of
):
    """The shortest window a forecaster accepts agrees with the full history to 1e-6."""
    frame = dataset_of(target).frame
    forecaster = fitted(small_recipe(model_type, target), target)
    batch = forecaster.predict(dataset_of(target), TEST[:3])
    for row, expected in zip(TEST[:3], batch, strict=True):
        window = frame.iloc[row + 1 - forecaster.warm_up : row + 1]
        live = Dataset(window, timeframe=Timeframe("1h"), target=target)
        got = forecaster.predict(live, np.array([len(window) - 1]))[0]
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_future_does_not_change_a_forecast(model_type, small_recipe, fitted, dataset_of, frame):
    forecaster = fitted(small_recipe(model_type, VOLATILITY), VOLATILITY)
    changed = frame.copy()
    changed.iloc[800:] *= 3.0
    other = Dataset(changed, timeframe=Timeframe("1h"), target=VOLATILITY)
    rows = TEST[TEST < 800]
    np.testing.assert_array_equal(
        forecaster.predict(other, rows), forecaster.predict(dataset_of(VOLATILITY), rows)
    )


def test_no_rows_have_no_forecasts(model_type, target, small_recipe, fitted, dataset_of):
    forecaster = fitted(small_recipe(model_type, target), target)
    assert forecaster.predict(dataset_of(target), TEST[:0]).shape == (0,)


def test_a_row_without_history_is_refused(model_type, small_recipe, fitted, dataset_of):
    forecaster = fitted(small_recipe(model_type, VOLATILITY), VOLATILITY)
    if forecaster.ready(dataset_of(VOLATILITY))[0]:
        pytest.skip("a baseline that needs no history")
    with pytest.raises(ModelError, match="cannot forecast from row 0"):
        forecaster.predict(dataset_of(VOLATILITY), np.array([0]))


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        ("lstm", {"lstm_units": []}, "lstm_units"),
        ("lstm", {"lstm_units": [64, 0]}, "lstm_units"),
        ("lstm", {"lstm_units": 64}, "lstm_units"),
        ("lstm", {"dropout_rate": 1.5}, "dropout_rate"),
        ("lstm", {"learning_rate": "fast"}, "learning_rate"),
        ("lstm", {"batch_size": 2.5}, "batch_size"),
        ("lstm", {"epochs": True}, "epochs"),
        ("lstm", {"batch_size": float("nan")}, "batch_size"),
        ("lstm", {"epochs": float("inf")}, "epochs"),
        ("lstm", {"sequence_length": 0}, "sequence_length"),
        ("lstm", {"sequence_length": 2.5}, "sequence_length"),
        ("lstm", {"sequence_length": "12"}, "sequence_length"),
        ("lstm", {"features": "close"}, "features='close'"),
        ("lstm", {"units": [4]}, "units"),
        ("lstm", {"features": ["vibes"]}, "vibes"),
        ("transformer", {"num_heads": 7}, "embed_dim"),
        ("linear", {"alpha": -1}, "alpha"),
        ("linear", {"refit_on_selection": "yes"}, "refit_on_selection"),
        ("ewma", {"span": 0}, "span"),
        ("seasonal", {"season": 24}, "season"),
        ("persistence", {"span": 3}, "span"),
        ("ensemble", {"members": []}, "members"),
        ("custom", {"sequence_length": 5}, "sequence_length"),
        ("oracle", {}, "oracle"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(name, config, named):
    with pytest.raises(ValueError, match=named):
        default_recipe(name, VOLATILITY, config)


def test_the_platforms_configurations_are_the_defaults():
    lstm, transformer = (default_recipe(name, VOLATILITY) for name in ("lstm", "transformer"))
    assert lstm.sequence_length == 60
    assert lstm.params["lstm_units"] == (128, 64, 32)
    assert transformer.sequence_length == 100
    assert transformer.features == ("open", "high", "low", "close", "volume", "rsi", "macd")
    assert transformer.params["ff_dim"] == 256
