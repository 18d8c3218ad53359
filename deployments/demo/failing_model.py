"""A model that fails some seconds after it was loaded, for the demonstration.

It passes registration, loading and replayed bars, so only live requests show that it fails. It is
alone in its file: CUSTOM_MODEL_MODULES allows every name of a module that it lists.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray


class FailingModel:
    """Forecasts the volatility of the last day; fails ``fails_after_s`` seconds after loading."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.loaded_at: float | None = None

    def train(self, data: pd.DataFrame) -> None:
        """The model has no parameters."""

    def predict(self, features: pd.DataFrame) -> FloatArray:
        """One forecast a row.

        Raises:
            ConnectionError: when its time is up, as a lapsed licence would raise.
        """
        if self.loaded_at is not None:
            loaded_for_s = time.monotonic() - self.loaded_at
            if loaded_for_s > float(self.config["fails_after_s"]):
                raise ConnectionError("the licence server does not answer any more")
        return features["har_24"].to_numpy(dtype=np.float64)

    def state(self) -> dict[str, Any]:
        return {"config": self.config}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.config = dict(state["config"])
        self.loaded_at = time.monotonic()
