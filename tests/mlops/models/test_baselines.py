"""Each naive forecast against the same number counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.features.targets import TargetSpec
from mlops.models.base import BASELINES, build_forecaster, default_recipe
from mlops.models.recipe import Recipe
from mlops.service import Target

VOLATILITY = TargetSpec(Target.VOLATILITY, 4)
ROW = np.array([500])


def _forecast(name, dataset, config=None):
    recipe = default_recipe(name, dataset.target, config or {})
    return build_forecaster(recipe, dataset.target).predict(dataset, ROW)[0]


def _log_range(frame):
    spread = np.log(frame["high"] / frame["low"]).to_numpy()
    return 0.5 * np.log(np.maximum(spread**2 / (4 * np.log(2)), 1e-10))


def test_persistence_is_the_mean_of_the_last_bars(dataset_of, frame):
    expected = _log_range(frame)[497:501].mean()
    assert _forecast("persistence", dataset_of(VOLATILITY)) == pytest.approx(expected, abs=1e-9)


def test_last_price_is_the_last_close(dataset_of, frame):
    price = dataset_of(TargetSpec(Target.PRICE, 4))
    assert _forecast("last_price", price) == frame["close"].iloc[500]


def test_ewma_weighs_the_realised_target_exponentially(dataset_of, frame):
    realised = np.convolve(_log_range(frame), np.ones(4) / 4)
    weights = (1 - 2 / 13) ** np.arange(48)
    expected = (weights * realised[500 - np.arange(48)]).sum() / weights.sum()
    got = _forecast("ewma", dataset_of(VOLATILITY), {"span": 12})
    assert got == pytest.approx(expected, abs=1e-9)


def test_seasonal_is_the_mean_of_the_same_hours_on_earlier_days(dataset_of, frame):
    hours = _log_range(frame)
    days = [hours[501 - 24 * day : 505 - 24 * day].mean() for day in (1, 2, 3)]
    got = _forecast("seasonal", dataset_of(VOLATILITY), {"seasons": 3})
    assert got == pytest.approx(np.mean(days), abs=1e-9)


@pytest.mark.parametrize("kind", list(Target))
def test_every_target_has_a_baseline_equal_to_its_persistence(kind, dataset_of):
    data = dataset_of(TargetSpec(kind, 4))
    got = build_forecaster(Recipe(BASELINES[kind]), data.target).forecast(data)
    np.testing.assert_array_equal(got, data.labels.persistence)
