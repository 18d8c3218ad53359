"""Bars of a file with oddities put in, for tests of what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import Bars
from mlops.data.load import load_bars
from mlops.data.sources.files import FileSource
from tests.mlops.data.conftest import START

Loaded = Callable[..., Bars]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Bars of a file that holds this frame."""

    def load(
        frame: pd.DataFrame, *, stamps: Literal["open", "close"] = "open", **changes: Any
    ) -> Bars:
        frame.to_parquet(tmp_path / "mine.parquet")
        source = FileSource(path=tmp_path / "mine.parquet", stamps=stamps)
        return load_bars(
            source=source, symbol="X/USD", timeframe="1h", cache_root=tmp_path, **changes
        )

    return load


def at(hour: int) -> pd.Timestamp:
    return pd.Timestamp(START) + timedelta(hours=hour)


def with_bad_prints(frame: pd.DataFrame, hours: range) -> pd.DataFrame:
    spoiled = frame.copy()
    spoiled["high"] *= np.where(frame.index.isin([at(hour) for hour in hours]), 1.5, 1.0)
    return spoiled
