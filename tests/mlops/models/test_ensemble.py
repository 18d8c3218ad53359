"""Learned weights: a simplex, right on known cases, learned on selection rows."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster
from mlops.models.ensemble import simplex_weights
from mlops.models.recipe import Recipe
from mlops.service import Target

VOLATILITY = TargetSpec(Target.VOLATILITY, 4)


def _errors(seed, scales, n=4000):
    return np.random.default_rng(seed).standard_normal((n, len(scales))) * scales


@pytest.mark.parametrize("pull", [0.0, 0.1, 10.0])
def test_weights_are_a_simplex(pull):
    weights = simplex_weights(_errors(0, [1, 2, 3]), pull)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-9)


def test_independent_errors_are_weighed_by_inverse_variance():
    """Standard error of a variance from 4,000 draws is 2.2 %, of the weight 0.007."""
    weights = simplex_weights(_errors(1, [1.0, 2.0]), 0.0)
    assert weights[0] == pytest.approx(0.8, abs=0.03)


def test_a_member_that_adds_only_error_gets_no_weight():
    good = _errors(2, [1.0])
    weights = simplex_weights(np.hstack([good, good + _errors(3, [3.0])]), 0.0)
    assert weights[1] < 0.01


def test_a_strong_pull_gives_equal_weights():
    np.testing.assert_allclose(simplex_weights(_errors(4, [1, 2]), 1e6), 0.5, atol=1e-3)


def test_equal_members_share_equally():
    one = _errors(5, [1.0])
    np.testing.assert_allclose(simplex_weights(np.hstack([one, one]), 0.1), 0.5, atol=1e-6)


def test_the_forecast_is_the_weighted_mean_of_the_members(dataset_of, small_recipe, fitted):
    ensemble = fitted(small_recipe("ensemble", VOLATILITY), VOLATILITY)
    rows = np.arange(710, 720)
    data = dataset_of(VOLATILITY)
    parts = np.stack([member.predict(data, rows) for member in ensemble.members])
    np.testing.assert_allclose(ensemble.predict(data, rows), ensemble.weights @ parts)


def test_a_good_member_outweighs_a_useless_one(dataset_of):
    """A forecast of zero is far from any log volatility."""
    members = (Recipe("linear", ("har_1", "har_24", "har_168")), Recipe("zero"))
    ensemble = build_forecaster(Recipe("ensemble", members=members), VOLATILITY)
    ensemble.fit(dataset_of(VOLATILITY), np.arange(200, 600), np.arange(610, 700), FitContext())
    assert ensemble.weights[0] > 0.9
