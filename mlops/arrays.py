"""NumPy array types by what they hold, and times as arrays hold them: naive UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Float32Array: TypeAlias = NDArray[np.float32]
"""What networks are fitted on and bundles keep."""

IntArray: TypeAlias = NDArray[np.int64]
RowArray: TypeAlias = NDArray[np.intp]
"""Positions of rows, for indexing."""

BoolArray: TypeAlias = NDArray[np.bool_]
TimeArray: TypeAlias = NDArray[np.datetime64]
"""Naive UTC times."""


def naive_utc(moment: datetime, unit: Literal["us", "ns"] = "ns") -> np.datetime64:
    """An aware moment as naive UTC ``datetime64``, which is what arrays of times hold.

    Args:
        unit: ``ns`` beside times of bars, ``us`` beside times that the store keeps.
    """
    utc = pd.Timestamp(moment).tz_convert("UTC").tz_localize(None)
    return utc.as_unit(unit).to_datetime64()


def naive_utc_times(index: pd.DatetimeIndex) -> TimeArray:
    """An aware index as naive UTC ``datetime64[ns]`` (N,)."""
    if index.tz is not None and index.unit == "ns":
        # A view, as of an index of any zone the numbers are those of UTC.
        return index.asi8.view("datetime64[ns]")
    return index.tz_convert("UTC").tz_localize(None).as_unit("ns").to_numpy()


def aware_utc(stamp: np.datetime64) -> datetime:
    """A naive UTC ``datetime64`` as an aware moment; the reverse of `naive_utc`."""
    moment: datetime = stamp.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)
