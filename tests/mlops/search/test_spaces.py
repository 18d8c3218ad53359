"""Search spaces: every point is a legal recipe, what is fixed stays fixed."""

from __future__ import annotations

import itertools

import pytest

from mlops.errors import ModelError
from mlops.features.targets import TargetSpec
from mlops.models.base import FORECASTERS, build_forecaster
from mlops.models.small_networks import compact_config
from mlops.search.spaces import Choices, search_space
from mlops.service import Target

TARGETS = [TargetSpec(Target.VOLATILITY, 24), TargetSpec(Target.RETURN, 1)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.kind))
@pytest.mark.parametrize("model_type", ["linear", "lstm", "transformer"])
def test_every_corner_of_a_space_is_a_legal_recipe(model_type, target):
    space = search_space(model_type, target)
    corners = [
        varied.values if isinstance(varied, Choices) else (varied.low, varied.high)
        for varied in space.varied.values()
    ]
    for values in itertools.product(*corners):
        recipe = space.recipe(dict(zip(space.varied, values, strict=True)))
        assert build_forecaster(recipe, target).recipe.model_type == model_type


@pytest.mark.parametrize("model_type", sorted(set(FORECASTERS) - {"custom"}))
def test_the_base_is_a_legal_recipe_of_its_type(model_type):
    assert search_space(model_type, TARGETS[0]).model_type == model_type


def test_what_is_fixed_is_not_varied():
    space = search_space("lstm", TARGETS[1], {"sequence_length": 7, "lstm_units": [4]})
    assert space.base.sequence_length == 7
    assert not {"sequence_length", "lstm_units"} & set(space.varied)


def test_a_type_that_is_no_network_has_no_compact_form():
    with pytest.raises(ModelError, match="linear"):
        compact_config("linear", TARGETS[0])
