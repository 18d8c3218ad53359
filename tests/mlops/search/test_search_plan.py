"""What a request means, and the proof that stands before every fit."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.errors import LookaheadError, ModelError
from mlops.features.indicators import register_indicator, unregister_indicator
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import plan_search, prove_search_causal, request_digest, study_key


@pytest.fixture
def tomorrow():
    """A feature that is the next bar's close over this one's."""

    def compute(bars):
        return np.append(bars.close[1:] / bars.close[:-1] - 1, 0.0)

    register_indicator("tomorrow", compute, warm_up=0)
    yield "tomorrow"
    unregister_indicator("tomorrow")


def test_a_linear_model_is_the_yardstick_of_every_network(dataset):
    plan = plan_search(dataset, ModelType.LSTM, TrainingConfig())
    assert list(plan.recipes) == ["linear", "lstm"]


def test_named_families_replace_the_yardstick(dataset):
    plan = plan_search(dataset, ModelType.LSTM, TrainingConfig(families=(ModelType.LSTM,)))
    assert list(plan.recipes) == ["lstm"]


def test_overrides_go_to_the_type_asked_for_and_no_other(dataset):
    config = TrainingConfig(features=("log_range", "volume"), sequence_length=7)
    recipes = plan_search(dataset, ModelType.LSTM, config).recipes
    assert recipes["lstm"].features == ("log_range", "volume")
    assert recipes["lstm"].sequence_length == 7
    assert recipes["linear"].sequence_length != 7


def test_trials_turn_recipes_into_spaces_to_search(dataset):
    plan = plan_search(dataset, ModelType.ENSEMBLE, TrainingConfig(trials=6))
    assert [space.model_type for space in plan.spaces] == ["linear", "lstm"]
    assert (plan.recipes, plan.n_trials) == ({}, 7)


def test_an_unknown_parameter_is_refused_by_name(dataset):
    with pytest.raises(ModelError, match="lstm_unit"):
        plan_search(dataset, ModelType.LSTM, TrainingConfig(params={"lstm_unit": [4]}))


def test_a_feature_that_looks_ahead_is_refused_and_named(dataset, tomorrow):
    config = TrainingConfig(features=("log_return", tomorrow))
    plan = plan_search(dataset, ModelType.LINEAR, config)
    with pytest.raises(LookaheadError, match="'tomorrow' looks ahead"):
        prove_search_causal(plan, dataset, seed=0)


def test_the_proof_covers_every_feature_a_search_may_draw(dataset):
    plan = plan_search(dataset, ModelType.LSTM, TrainingConfig(trials=4))
    proof = prove_search_causal(plan, dataset, seed=0)
    drawn = {name for space in plan.spaces for name in space.base.features}
    assert drawn <= set(proof.features)


def test_a_request_is_the_same_whatever_its_period():
    later = TrainingConfig.model_validate({"end": "2024-01-01T00:00:00Z"})
    assert request_digest(ModelType.LSTM, TrainingConfig()) == request_digest(ModelType.LSTM, later)


@pytest.mark.parametrize("change", [{"seed": 1}, {"trials": 5}, {"params": {"epochs": 3}}])
def test_a_request_differs_by_what_is_asked(change):
    asked = TrainingConfig(**change)
    assert request_digest(ModelType.LSTM, asked) != request_digest(ModelType.LSTM, TrainingConfig())


def test_a_study_is_named_by_service_bars_request_and_code():
    keys = {study_key(*parts) for parts in [("s", "w", "r", "c"), ("s", "w2", "r", "c")]}
    assert len(keys) == 2
