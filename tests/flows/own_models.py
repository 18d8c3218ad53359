"""Custom models as a user would write them, in a module of the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


class MeanReversion:
    """The target, a fixed part of the way from its last value to its mean."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.pull = float(config.get("pull", 0.5))

    def train(self, data: pd.DataFrame) -> None:
        self.mean = float(data["target"].mean())

    def predict(self, features: pd.DataFrame) -> Any:
        last = features["har_24"].to_numpy()
        return last + self.pull * (self.mean - last)


class Endless(MeanReversion):
    """Never finishes, as an unlucky user's loop may."""

    def train(self, data: pd.DataFrame) -> None:
        total = np.float64(0)
        while True:
            total += 1
