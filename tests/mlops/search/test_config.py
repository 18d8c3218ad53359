"""A training's form: what it takes, what it refuses, what it means."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from mlops.search.config import ModelType, TrainingConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("start", "2024-01-01T00:00:00"),
        ("data_window_days", 0),
        ("validation_split", 0.5),
        ("validation_split", 0),
        ("holdout_share", 0.6),
        ("refits", 1),
        ("holdout_refits", 251),
        ("trials", -1),
        ("families", ["forest"]),
        ("sequence_length", 0),
        ("params", {"lstm_units": {"first": 1}}),
        ("seed", -1),
        ("epochs", 5),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainingConfig.model_validate({field: value})


def test_it_survives_json_as_prefect_keeps_it() -> None:
    config = TrainingConfig(
        families=(ModelType.LINEAR, ModelType.LSTM),
        features=("har_1",),
        params={"lstm_units": [8, 4], "learning_rate": 0.01, "refit_on_selection": True},
    )
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("days", "window"), [(None, None), (30, timedelta(days=30))])
def test_a_window_is_in_days_or_all_that_was_known(
    days: int | None, window: timedelta | None
) -> None:
    assert TrainingConfig(data_window_days=days).fit_window == window


def test_only_given_values_override_a_models_defaults() -> None:
    assert TrainingConfig().overrides == {}
    said = TrainingConfig(features=("rsi",), sequence_length=4, params={"epochs": 3})
    assert said.overrides == {"features": ("rsi",), "sequence_length": 4, "epochs": 3}
