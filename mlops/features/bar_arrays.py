"""Bars as arrays for indicators: one array a column, and a mask of the holes.

A change of price never spans a hole: the first bar after a hole is measured from its own
open. Rolling statistics count bars, so a hole does not change their length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, TimeArray, naive_utc_times
from mlops.errors import BarsError
from mlops.features.rolling import log_of_ratio

_PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True)
class BarArrays:
    """Bars as arrays of equal length (N,).

    ``open_time`` is naive UTC, ``datetime64[ns]``; ``hole_before`` is True where a bar does not
    directly follow its predecessor.
    """

    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    open_time: TimeArray
    hole_before: BoolArray

    @classmethod
    def of(cls, frame: pd.DataFrame, hole_before: BoolArray | None = None) -> BarArrays:
        """Read a validated bar frame.

        Args:
            hole_before: A mask (N,); by default there is no hole.

        Raises:
            BarsError: when a column is missing, a number is not usable, or the mask does not fit.
        """
        columns = {name: _read_column(frame, name) for name in (*_PRICES, "volume")}
        holes = np.zeros(len(frame), dtype=bool) if hole_before is None else hole_before
        if holes.shape != (len(frame),):
            raise BarsError(
                f"the hole mask has shape {holes.shape} for {len(frame)} bars; pass one flag a bar"
            )
        return cls(**columns, open_time=open_times(frame), hole_before=holes)

    def __len__(self) -> int:
        return len(self.close)

    @cached_property
    def anchor(self) -> FloatArray:
        """The price from which a change is measured: the previous close, after a hole the open."""
        anchor = np.empty_like(self.close)
        anchor[:1] = self.open[:1]
        anchor[1:] = self.close[:-1]
        anchor[self.hole_before] = self.open[self.hole_before]
        return anchor

    @cached_property
    def change(self) -> FloatArray:
        """Log change of the close since `anchor`."""
        return log_of_ratio(self.close, self.anchor)


def open_times(frame: pd.DataFrame) -> TimeArray:
    """The frame's bar opens as naive UTC ``datetime64[ns]``."""
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise BarsError(
            f"bars are indexed by {type(index).__name__} {index.dtype}; "
            "index them by open time in UTC (validate_bars does)"
        )
    return naive_utc_times(index)


def _read_column(frame: pd.DataFrame, name: str) -> FloatArray:
    if name not in frame.columns:
        raise BarsError(
            f"column {name!r} is missing; bars have open, high, low, close and volume", column=name
        )
    values = frame[name].to_numpy(dtype=np.float64)
    usable = np.isfinite(values) & (values > 0 if name in _PRICES else values >= 0)
    if not usable.all():
        rows = tuple(int(row) for row in np.flatnonzero(~usable)[:5])
        raise BarsError(
            f"column {name!r} holds {values[rows[0]]} in row {rows[0]}; prices are finite and "
            "positive, volumes finite and not negative: run validate_bars first",
            column=name,
            rows=rows,
        )
    return values
