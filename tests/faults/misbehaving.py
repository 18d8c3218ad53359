"""Custom models that pass registration and fail afterwards, each in one way.

They behave on every bar that opened up to ``sound_until``, where their golden examples lie.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

EXTREME = 1.0
"""The logarithm of the realized volatility of one bar."""

HOURS = np.timedelta64(1, "h")


class Misbehaving:
    """Forecasts the last value; on later bars every ``every``-th hour goes wrong.

    ``fault`` is ``error``, ``nan`` or ``slow`` when it forecasts; ``load_error``,
    ``load_memory`` or ``load_slow`` when it is loaded. With ``extreme`` it raises on every bar
    whose volatility is above `EXTREME`: legal, but of no market.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.fault = str(config["fault"])
        self.every = int(config.get("every", 1))
        self.seconds = float(config.get("seconds", 60.0))
        self.sound_until = str(config["sound_until"])

    def train(self, data: pd.DataFrame) -> None:
        self.mean = float(data["target"].mean())

    def predict(self, features: pd.DataFrame) -> Any:
        answers = features["har_24"].to_numpy().copy()
        if self.fault == "extreme":
            if (features["har_1"] > EXTREME).any():
                raise ValueError("this model does not forecast from such bars")
            return answers
        wrong = self._wrong(pd.DatetimeIndex(features.index))
        if wrong.any():
            answers = self._misbehave(answers, wrong)
        return answers

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state(self, values: dict[str, Any]) -> None:
        if self.fault == "load_error":
            raise RuntimeError("this model cannot be loaded")
        if self.fault == "load_memory":
            raise MemoryError("no memory for this model")
        if self.fault == "load_slow":
            time.sleep(self.seconds)
        self.mean = float(values["mean"])

    def _wrong(self, opens: pd.DatetimeIndex) -> Any:
        times = opens.tz_convert("UTC").tz_localize(None).to_numpy()
        hours = (times - np.datetime64(0, "ns")) // HOURS
        return (times > np.datetime64(self.sound_until)) & (hours % self.every == 0)

    def _misbehave(self, answers: Any, wrong: Any) -> Any:
        if self.fault == "error":
            raise ValueError("this model does not forecast later bars")
        if self.fault == "slow":
            time.sleep(self.seconds)
        if self.fault == "nan":
            answers[wrong] = np.nan
        return answers
