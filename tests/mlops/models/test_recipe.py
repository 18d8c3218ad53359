"""Recipes: plain JSON, stable digests, parameters checked by name."""

from __future__ import annotations

import json

import pytest

from mlops.errors import ModelError
from mlops.models.recipe import Param, Recipe

LSTM = Recipe("lstm", ("open", "close"), 12, {"lstm_units": [8, 4], "dropout_rate": 0.2})


def test_json_gives_an_equal_recipe_back():
    nested = Recipe("ensemble", members=(LSTM, Recipe("linear")))
    assert Recipe.from_dict(json.loads(json.dumps(nested.to_dict()))) == nested


def test_the_digest_follows_content_not_order():
    swapped = Recipe("lstm", ("open", "close"), 12, {"dropout_rate": 0.2, "lstm_units": (8, 4)})
    assert swapped.digest == LSTM.digest
    assert LSTM.with_params(dropout_rate=0.3).digest != LSTM.digest


def test_a_flat_config_replaces_values_of_the_recipe():
    changed = LSTM.with_config({"sequence_length": 5, "features": ["rsi"], "dropout_rate": 0.0})
    assert (changed.sequence_length, changed.features) == (5, ("rsi",))
    assert changed.params == {"lstm_units": (8, 4), "dropout_rate": 0.0}


@pytest.mark.parametrize(
    ("param", "value", "expected"),
    [
        (Param(0.1, low=0, high=1), 1, 1.0),
        (Param(3, low=1, high=9), 4.0, 4),
        (Param((8,), low=1, high=9), [2, 3], (2, 3)),
        (Param("a", choices=("a", "b")), "b", "b"),
        (Param(True), False, False),
    ],
)
def test_a_legal_value_takes_the_type_of_the_default(param, value, expected):
    got = param.check("size", value)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        (Param(0.1, low=0, high=1), 1.5),
        (Param(0.1, low=0, high=1), float("nan")),
        (Param(0.1), None),
        (Param(3), 3.5),
        (Param(3), True),
        (Param((8,), low=1), []),
        (Param((8,), low=1), [8, 0]),
        (Param("a", choices=("a", "b")), "c"),
        (Param(True), 1),
        (Param("text"), 3),
    ],
)
def test_an_illegal_value_is_refused_by_name(param, value):
    with pytest.raises(ModelError, match="size"):
        param.check("size", value)


def test_features_of_members_are_named_once_in_order():
    members = (Recipe("linear", ("har_1", "rsi")), Recipe("lstm", ("rsi", "macd")))
    assert Recipe("ensemble", members=members).every_feature == ("har_1", "rsi", "macd")
