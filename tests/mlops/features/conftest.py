"""Bars and planted features shared by the feature tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlops.data.simulator import simulate_bars
from mlops.features.indicators import register_indicator, unregister_indicator


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """1,500 simulated hourly bars; copy before changing."""
    return simulate_bars(1500, seed=3)


@pytest.fixture
def holed(frame):
    """The same bars with 40 hours cut out before position 800, and that position's mask."""
    kept = frame.drop(frame.index[800:840])
    holes = np.zeros(len(kept), dtype=bool)
    holes[800] = True
    return kept, holes


@pytest.fixture
def plant():
    """Register a feature for one test: ``plant(name, compute, warm_up=0)``."""
    planted = []

    def register(name, compute, *, warm_up=0):
        planted.append(name)
        return register_indicator(name, compute, warm_up=warm_up)

    yield register
    for name in planted:
        unregister_indicator(name)
