"""A fitted forecaster as one file, and what a file may not do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from mlops.errors import ModelFileError
from mlops.features.targets import TargetSpec
from mlops.models.base import FORECASTERS
from mlops.models.model_file import (
    FORMAT,
    check_model_file,
    make_model_file,
    read_model_file,
)
from mlops.models.tensor_file import read_tensor_header
from mlops.service import Target

VOLATILITY = TargetSpec(Target.VOLATILITY, 4)
TEST = np.arange(710, 880)


FAMILIES = sorted(set(FORECASTERS) - {"custom"})


@pytest.fixture(scope="module")
def linear(small_recipe, fitted):
    return fitted(small_recipe("linear", VOLATILITY), VOLATILITY)


@pytest.fixture(scope="module")
def ensemble(small_recipe, fitted):
    return fitted(small_recipe("ensemble", VOLATILITY), VOLATILITY)


def rewrite(content: bytes, change) -> bytes:
    """The file with another state; ``change`` gets the state and edits it."""
    state = json.loads(read_tensor_header(content).metadata["model"])
    change(state)
    return save(load(content), metadata={"format": FORMAT, "model": json.dumps(state)})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_restored_file_forecasts_equal_to_the_bit(family, small_recipe, fitted, dataset_of):
    forecaster = fitted(small_recipe(family, VOLATILITY), VOLATILITY)
    content = make_model_file(forecaster)
    restored = read_model_file(content, target=VOLATILITY)
    data = dataset_of(VOLATILITY)
    np.testing.assert_array_equal(restored.predict(data, TEST), forecaster.predict(data, TEST))
    assert make_model_file(restored) == content


def test_a_custom_model_is_not_exported(small_recipe, fitted):
    custom = fitted(small_recipe("custom", VOLATILITY), VOLATILITY)
    with pytest.raises(ModelFileError, match=r"type 'custom'; a file may hold base_rate, ensemble"):
        make_model_file(custom)


@pytest.mark.parametrize("inside", ["recipe", "recipe of a member", "state of a member"])
def test_a_file_that_names_code_is_refused_before_it_is_imported(ensemble, inside, monkeypatch):
    def name_code(state):
        holder = {
            "recipe": state,
            "recipe of a member": {"recipe": state["recipe"]["members"][0]},
            "state of a member": state["members"][0],
        }[inside]
        holder["recipe"] |= {"model_type": "custom", "params": {"class_path": "antigravity:x"}}

    content = rewrite(make_model_file(ensemble), name_code)
    imported = []
    monkeypatch.setattr("mlops.models.custom.import_module", imported.append)
    with pytest.raises(ModelFileError, match="'custom'"):
        read_model_file(content, target=VOLATILITY)
    assert imported == []


def test_bare_weights_restore_with_their_config(linear, dataset_of):
    config, tensors = linear.state()
    del config["target"]
    restored = read_model_file(save(dict(tensors)), config, target=VOLATILITY)
    data = dataset_of(VOLATILITY)
    np.testing.assert_array_equal(restored.predict(data, TEST), linear.predict(data, TEST))


def test_bare_weights_without_a_config_are_refused(linear):
    with pytest.raises(ModelFileError, match="send a config with recipe, scaler and transform"):
        read_model_file(save(dict(linear.state()[1])), target=VOLATILITY)


@pytest.mark.parametrize("lacking", ["scaler", "transform", "intercept", "recipe"])
def test_a_config_that_lacks_a_part_is_refused_with_its_name(linear, lacking):
    config, tensors = linear.state()
    del config[lacking]
    with pytest.raises(ModelFileError, match=f"lacks {lacking}"):
        read_model_file(save(dict(tensors)), config, target=VOLATILITY)


def test_a_config_beside_a_file_that_has_its_own_is_refused(linear):
    with pytest.raises(ModelFileError, match="leave config out"):
        read_model_file(make_model_file(linear), linear.state()[0], target=VOLATILITY)


def test_a_later_format_is_refused_by_name(linear):
    content = save(dict(linear.state()[1]), metadata={"format": "mlops-forecaster/2"})
    with pytest.raises(ModelFileError, match="'mlops-forecaster/2'; this release reads"):
        check_model_file(content, target=VOLATILITY)


def _shorten_scaler(state):
    state["scaler"]["center"].pop()


def _zero_scale(state):
    state["scaler"]["scale"][0] = 1e-60


def _other_horizon(state):
    state["transform"]["horizon"] = 7


def _longer_window(state):
    state["recipe"]["sequence_length"] = 9


def _unknown_parameter(state):
    state["recipe"]["params"]["depth"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shorten_scaler, "one center and one scale"),
        (_zero_scale, "a scale of zero"),
        (_other_horizon, "transform is of volatility over 7 bars"),
        (_longer_window, "coefficients have the shape"),
        (_unknown_parameter, "no parameter 'depth'"),
    ],
)
def test_a_state_that_does_not_fit_its_recipe_is_refused(linear, change, message):
    with pytest.raises(ModelFileError, match=message):
        read_model_file(rewrite(make_model_file(linear), change), target=VOLATILITY)


def test_a_recipe_larger_than_its_weights_costs_no_memory(small_recipe, fitted):
    lstm = fitted(small_recipe("lstm", VOLATILITY), VOLATILITY)

    def widen(state):
        state["recipe"]["params"]["lstm_units"] = [4096] * 60

    content = rewrite(make_model_file(lstm), widen)
    with pytest.raises(ModelFileError, match="the recipe needs"):
        read_model_file(content, target=VOLATILITY)


def test_weights_of_an_ensemble_that_are_no_shares_are_refused(ensemble):
    def double(state):
        state["weights"] = [2 * weight for weight in state["weights"]]

    with pytest.raises(ModelFileError, match="add up to 1"):
        read_model_file(rewrite(make_model_file(ensemble), double), target=VOLATILITY)


def test_members_that_differ_from_the_recipe_are_refused(ensemble):
    def exchange(state):
        state["recipe"]["members"].reverse()

    with pytest.raises(ModelFileError, match="other recipes"):
        read_model_file(rewrite(make_model_file(ensemble), exchange), target=VOLATILITY)
