"""The story of the demonstration puts versions into words."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.demo.story import describe_recipe, format_interval, format_parameter
from mlops.validation.measures import Measure

LSTM: dict[str, Any] = {
    "model_type": "lstm",
    "features": ["har_1", "har_24"],
    "sequence_length": 12,
    "params": {"lstm_units": [32], "learning_rate": 0.00312, "epochs": 12},
    "members": [],
}


def test_a_recipe_is_one_line_with_the_parameters_that_tell_it_apart() -> None:
    assert (
        describe_recipe(LSTM)
        == "lstm on 2 features x 12 bars (lstm_units [32], learning_rate 0.00312)"
    )


def test_an_ensemble_names_its_members() -> None:
    linear = {**LSTM, "model_type": "linear", "sequence_length": 1, "params": {}}
    ensemble = {**LSTM, "members": [linear, linear]}
    assert describe_recipe(ensemble) == " + ".join(["linear on 2 features x 1 bars"] * 2)


@pytest.mark.parametrize(("value", "text"), [(0.123456, "0.123"), (256, "256"), ([32], "[32]")])
def test_only_floats_are_shortened(value: object, text: str) -> None:
    assert format_parameter(value) == text


def test_a_ratio_may_be_written_as_a_change() -> None:
    figures: Any = {"mse_vs_baseline": Measure("mse_vs_baseline", 0.8, 0.75, 0.9, 1.0)}
    assert format_interval(figures, "mse_vs_baseline") == "0.800 [0.750, 0.900]"
    assert format_interval(figures, "mse_vs_baseline", as_change=True) == "-20.0 % [-25.0, -10.0]"
