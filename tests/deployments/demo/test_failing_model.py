"""The failing model forecasts until its time is up, and only after it was loaded."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from deployments.demo.failing_model import FailingModel

FEATURES = pd.DataFrame({"har_24": [-5.0, -4.5]})


def test_it_forecasts_the_volatility_of_the_last_day() -> None:
    model = FailingModel({"fails_after_s": 0.0})
    model.train(FEATURES)
    assert model.predict(FEATURES).tolist() == [-5.0, -4.5]


def test_a_loaded_one_fails_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FailingModel({})
    model.load_state(FailingModel({"fails_after_s": 60.0}).state())
    assert model.predict(FEATURES).tolist() == [-5.0, -4.5]
    later = time.monotonic() + 61.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(ConnectionError, match="licence server"):
        model.predict(FEATURES)
