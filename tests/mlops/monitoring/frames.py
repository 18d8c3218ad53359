"""Frames of simulated columns, as references and windows of hourly bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from mlops.monitoring.drift.report import DriftConfig, DriftReference, Role, fit_reference
from tests.mlops.monitoring.series import FloatArray, iid

START = pd.Timestamp("2020-01-01", tz="UTC")
WINDOW = 168
MONTH = 720


def hourly(columns: Mapping[str, object]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(columns))
    frame.index = pd.date_range(START, periods=len(frame), freq="h", name="open_time")
    return frame


def each_path(columns: Mapping[str, FloatArray]) -> Iterator[pd.DataFrame]:
    """One frame (T, P) for each path of columns (R, T)."""
    for path in range(len(next(iter(columns.values())))):
        yield hourly({name: x[path] for name, x in columns.items()})


def fit(frame: pd.DataFrame, **roles: Role) -> DriftReference:
    """All columns as features, but for those of another role."""
    wanted = {str(name): roles.get(str(name), Role.FEATURE) for name in frame}
    return fit_reference(frame, wanted, window_bars=WINDOW)


def noise(bars: int, columns: int = 3, seed: int = 0) -> pd.DataFrame:
    x = iid(columns, bars, np.random.default_rng(seed))
    return hourly({f"f{number}": row for number, row in enumerate(x)})


def settings(**changes: object) -> DriftConfig:
    return DriftConfig(**{"window_bars": WINDOW, **changes})
