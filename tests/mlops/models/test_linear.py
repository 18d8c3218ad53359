"""Ridge against scikit-learn, and its choice of penalty."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.linear import SHARES, RidgePath
from mlops.service import Target

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


def test_a_constant_feature_costs_nothing():
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
