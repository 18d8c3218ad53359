"""Ridge against scikit-learn, its choice of penalty, and fits bit-equal on any number of cores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.linear import SHARES, RidgePath, linear_combination
from mlops.service import Target, Timeframe

VOLATILITY = TargetSpec(Target.VOLATILITY, 4)


def test_a_path_gives_scikit_learns_ridge():
    rng = np.random.default_rng(0)
    design, learned = rng.standard_normal((300, 4)) @ np.diag([3, 1, 1, 0.1]), rng.random(300)
    coefficients, intercept = RidgePath.of(design, learned).solve(0.3)
    centred = design - design.mean(axis=0)
    alpha = 0.3 * np.trace(centred.T @ centred) / 4
    expected = Ridge(alpha=alpha).fit(design, learned)
    np.testing.assert_allclose(coefficients, expected.coef_, rtol=1e-9)
    assert intercept == pytest.approx(expected.intercept_)


def test_a_constant_feature_gets_a_coefficient_of_zero():
    design = np.column_stack([np.arange(50.0), np.ones(50)])
    coefficients, _ = RidgePath.of(design, 2 * np.arange(50.0)).solve(1e-9)
    np.testing.assert_allclose(coefficients, [2, 0], atol=1e-6)


def test_the_penalty_is_chosen_on_selection_rows(dataset_of):
    """Features that say nothing about the label get a heavy penalty, a fixed one stays."""
    data = dataset_of(VOLATILITY)
    rows = np.arange(200, 600), np.arange(610, 700)
    free = build_forecaster(default_recipe("linear", VOLATILITY), VOLATILITY)
    free.fit(data, *rows, FitContext())
    assert free.penalty in SHARES
    fixed = build_forecaster(default_recipe("linear", VOLATILITY, {"alpha": 0.5}), VOLATILITY)
    fixed.fit(data, *rows, FitContext())
    assert fixed.penalty == 0.5


def test_the_refit_uses_selection_rows_only_where_asked(dataset_of):
    data = dataset_of(VOLATILITY)
    rows = np.arange(200, 600), np.arange(610, 700)
    found = []
    for refit in (True, False):
        config = {"alpha": 0.1, "refit_on_selection": refit}
        model = build_forecaster(default_recipe("linear", VOLATILITY, config), VOLATILITY)
        model.fit(data, *rows, FitContext())
        found.append(model.coefficients)
    assert not np.array_equal(*found)


def test_volatility_reads_har_terms_by_default():
    assert {"har_1", "har_24", "har_168"} <= set(default_recipe("linear", VOLATILITY).features)


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
