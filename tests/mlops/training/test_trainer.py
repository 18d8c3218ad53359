"""A training: proof first, then the walk."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.errors import LookaheadError, ModelError
from mlops.features.indicators import register_indicator, unregister_indicator
from mlops.models.base import FitContext, default_recipe
from mlops.models.compact import compact_config
from mlops.models.recipe import Recipe
from mlops.training import trainer
from mlops.training.trainer import available_threads, features_of, train

CONTEXT = FitContext(seed=4)


@pytest.fixture
def tomorrow():
    """A feature that is the next bar's close over this one's."""

    def compute(bars):
        return np.append(bars.close[1:] / bars.close[:-1] - 1, 0.0)

    register_indicator("tomorrow", compute, warm_up=0)
    yield "tomorrow"
    unregister_indicator("tomorrow")


def test_a_candidate_carries_forecasts_and_proof(dataset, folds):
    candidate = train(default_recipe("linear", dataset.target), dataset, folds, CONTEXT)
    assert candidate.proof.features == candidate.recipe.features
    assert np.isfinite(candidate.walk.forecasts).sum() == sum(len(fold.test) for fold in folds)
    assert candidate.forecaster is candidate.walk.last
    assert len(candidate.histories) == len(folds)


def test_a_feature_that_looks_ahead_stops_the_training_before_any_fit(
    dataset, folds, tomorrow, monkeypatch
):
    monkeypatch.setattr(trainer, "run_walk_forward", lambda *_, **__: pytest.fail("was fitted"))
    recipe = Recipe("linear", ("log_return", tomorrow))
    with pytest.raises(LookaheadError, match="'tomorrow' looks ahead"):
        train(recipe, dataset, folds, CONTEXT)


def test_a_member_that_looks_ahead_is_found_too(dataset, folds, tomorrow):
    members = (Recipe("linear", ("log_return",)), Recipe("linear", (tomorrow,)))
    with pytest.raises(LookaheadError, match="tomorrow"):
        train(Recipe("ensemble", members=members), dataset, folds, CONTEXT)


def test_a_recipe_without_features_needs_no_proof(dataset, folds):
    assert train(default_recipe("zero", dataset.target), dataset, folds, CONTEXT).proof is None


def test_features_of_members_are_named_once_in_order():
    members = (Recipe("linear", ("har_1", "rsi")), Recipe("lstm", ("rsi", "macd")))
    assert features_of(Recipe("ensemble", members=members)) == ("har_1", "rsi", "macd")


@pytest.mark.parametrize("device", ["tpu", "cuda:7"])
def test_a_device_that_does_not_exist_is_refused(dataset, folds, device):
    recipe = default_recipe("lstm", dataset.target, compact_config("lstm", dataset.target))
    with pytest.raises(ModelError, match=device):
        train(recipe, dataset, folds, FitContext(device=device))


def test_auto_takes_what_is_there(dataset, folds):
    config = {**compact_config("lstm", dataset.target), "epochs": 1}
    recipe = default_recipe("lstm", dataset.target, config)
    candidate = train(recipe, dataset, folds, FitContext(device="auto"))
    assert candidate.histories[0].device in ("cpu", "cuda")


def test_at_least_one_thread_is_available():
    assert available_threads() >= 1
