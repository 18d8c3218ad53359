"""Golden examples in a bundle: raw bars and the forecast that the model must make from them.

They detect what a checksum cannot: a model that loads but forecasts something else, because a
feature, a scaler or a library has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.data.bars import COLUMNS
from mlops.errors import BundleError

GOLDEN_EXAMPLES = 3
RELATIVE_TOLERANCE = 1e-5
"""As a share of the forecast or, where it is larger, of the target's spread: float32 on another
processor differs by some 1e-6."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The bars known at one close, oldest first, and the forecast made from them."""

    bars: pd.DataFrame
    expected: float


def deviation(got: float, expected: float, spread: float) -> float:
    """Distance of a forecast from its example, as a share of the larger of forecast and spread."""
    scale = max(abs(expected), spread, float(np.finfo(np.float64).tiny))
    return abs(got - expected) / scale if np.isfinite(got) else float("inf")


def golden_tensors(examples: Sequence[Golden]) -> dict[str, NDArray[Any]]:
    """The examples as named arrays: times (int64 ns UTC), bars (n, 5) and the forecast."""
    tensors: dict[str, NDArray[Any]] = {}
    for number, example in enumerate(examples):
        index = pd.DatetimeIndex(example.bars.index).tz_convert("UTC").as_unit("ns")
        tensors[f"{number}.open_time"] = index.asi8.astype(np.int64)
        tensors[f"{number}.bars"] = example.bars[list(COLUMNS)].to_numpy(dtype=np.float64)
        tensors[f"{number}.expected"] = np.array([example.expected], dtype=np.float64)
    return tensors


def golden_from_tensors(tensors: Mapping[str, NDArray[Any]]) -> tuple[Golden, ...]:
    """Read `golden_tensors` back.

    Raises:
        BundleError: when there is no example or one is incomplete.
    """
    try:
        examples = tuple(_read_example(tensors, number) for number in range(len(tensors) // 3))
    except (KeyError, ValueError, IndexError) as error:
        raise BundleError(f"a golden example is not complete ({error}); train again") from error
    if not examples:
        raise BundleError("the bundle has no golden example; register the model again")
    return examples


def _read_example(tensors: Mapping[str, NDArray[Any]], number: int) -> Golden:
    stamps = tensors[f"{number}.open_time"].astype("datetime64[ns]")
    index = pd.DatetimeIndex(stamps, tz="UTC", name="open_time")
    bars = pd.DataFrame(tensors[f"{number}.bars"], index=index, columns=list(COLUMNS))
    return Golden(bars, float(tensors[f"{number}.expected"][0]))
