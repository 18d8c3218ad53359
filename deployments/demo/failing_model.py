"""A version that goes wrong after a while, for the demonstration: nothing at registration, at
loading or in replayed bars gives it away, so only its own requests can."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class FailingModel:
    """The day's volatility as its forecast, until ``fuse_s`` seconds after it was loaded."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.loaded_at: float | None = None

    def train(self, data: pd.DataFrame) -> None:
        """Nothing to learn."""

    def predict(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """One forecast a row.

        Raises:
            ConnectionError: once the fuse has burnt down, as a lapsed licence would.
        """
        if self.loaded_at is not None:
            burnt = time.monotonic() - self.loaded_at > float(self.config["fuse_s"])
            if burnt:
                raise ConnectionError("the licence server does not answer any more")
        return features["har_24"].to_numpy(dtype=np.float64)

    def state(self) -> dict[str, Any]:
        return {"config": self.config}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.config = dict(state["config"])
        self.loaded_at = time.monotonic()
