"""Example bars, and the input specification of a model, for the tests of both protocols."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd

from mlops.data.bars import COLUMNS
from mlops.data.calendar import load_calendar
from mlops.data.simulator import simulate_bars
from mlops.service import Timeframe
from mlops.serving.protocol.request_bars import InputSpec

MIN_BARS = 5
SPEC = InputSpec(
    timeframe=Timeframe("1h"),
    calendar=load_calendar("24/7"),
    min_bars=MIN_BARS,
    max_bars=50,
    max_windows=4,
    needs_clock=False,
    unbroken_bars=3,
)
CLOCKED = replace(SPEC, needs_clock=True)
FX = replace(SPEC, calendar=load_calendar("FX"))


def frame_of(bars: int = MIN_BARS, seed: int = 1) -> pd.DataFrame:
    """Clean bars, indexed by open time."""
    return simulate_bars(bars, seed=seed)


def values_of(bars: int = MIN_BARS, seed: int = 1) -> np.ndarray:
    """(bars, 5)."""
    return frame_of(bars, seed)[list(COLUMNS)].to_numpy(copy=True)


def batch_of(windows: int, bars: int = MIN_BARS) -> np.ndarray:
    """(windows, bars, 5), all different."""
    return np.stack([values_of(bars, seed) for seed in range(windows)])


def opens_from(first: str, *hours: float) -> np.ndarray:
    """Epoch nanoseconds of bars so many hours after the first."""
    start = pd.Timestamp(first, tz="UTC")
    return np.array([(start + timedelta(hours=hour)).value for hour in hours], np.int64)
