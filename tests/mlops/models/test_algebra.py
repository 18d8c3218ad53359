"""Weights and forecasts do not depend on how many threads the machine has."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.linear import linear_combination
from mlops.service import Target, Timeframe


def test_a_linear_fit_of_many_bars_is_bit_equal_on_any_number_of_threads():
    target = TargetSpec(Target.VOLATILITY, 24)
    data = Dataset(simulate_bars(100_000, seed=1), timeframe=Timeframe("1h"), target=target)
    fit, selection, test = np.split(np.arange(300, 99_900), [70_000, 85_000])
    fitted = []
    for threads in (1, 2, 3):
        model = build_forecaster(default_recipe("linear", target), target)
        with threadpool_limits(threads, user_api="blas"):
            model.fit(data, fit, selection, FitContext())
            fitted.append((model.state()[1]["coefficients"], model.predict(data, test)))
    for coefficients, forecasts in fitted[1:]:
        np.testing.assert_array_equal(coefficients, fitted[0][0])
        np.testing.assert_array_equal(forecasts, fitted[0][1])


def test_a_combination_is_the_matrix_product():
    rng = np.random.default_rng(0)
    design, coefficients = rng.normal(size=(50, 7)), rng.normal(size=7)
    np.testing.assert_allclose(linear_combination(design, coefficients), design @ coefficients)
