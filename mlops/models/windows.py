"""Bars a caller wants a forecast from, and several callers' bars laid end to end.

A batch of windows is one array of bars with a hole before each window. Trailing sums add
each window by itself and recursive features forget within their warm-up, so past its own
warm-up a window's features do not depend on what lies before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.data.bars import COLUMNS
from mlops.data.calendar import Calendar, hole_before
from mlops.features.bars import BarArrays, BoolArray, FloatArray, TimeArray, open_times
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Consecutive bars of one symbol, oldest first; whoever makes one has checked the bars.

    ``values`` (n, 5) float64 in the order of `mlops.data.bars.COLUMNS`; ``open_time`` (n,)
    naive UTC ``datetime64[ns]``; ``hole_before`` (n,) is True where a bar does not follow its
    predecessor, and its first entry says nothing.
    """

    values: FloatArray
    open_time: TimeArray
    hole_before: BoolArray

    @classmethod
    def of(cls, frame: pd.DataFrame, timeframe: Timeframe, calendar: Calendar) -> Window:
        """A validated bar frame as a window."""
        values = frame[list(COLUMNS)].to_numpy(dtype=np.float64)
        return cls(values, open_times(frame), hole_before(frame, timeframe, calendar))

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Windows laid end to end; ``starts`` (k,) is where each begins among the bars (N,)."""

    bars: BarArrays
    starts: NDArray[np.intp]

    @property
    def offsets(self) -> NDArray[np.intp]:
        """(N,) how many bars of its own window lie before each bar."""
        lengths = np.diff(self.starts, append=len(self.bars))
        return np.arange(len(self.bars)) - np.repeat(self.starts, lengths)

    def split(self, each_bar: FloatArray) -> list[FloatArray]:
        """One value a bar (N,) as one array a window."""
        return np.split(each_bar, self.starts[1:])


def join(windows: Sequence[Window]) -> Joined:
    """Lay windows, at least one, end to end, with a hole before each."""
    lengths = [len(window.values) for window in windows]
    starts = np.cumsum([0, *lengths[:-1]])
    # One copy that turns rows into columns, which every feature then reads in one stride.
    values = np.concatenate([window.values for window in windows]).T.copy()
    columns = dict(zip(COLUMNS, values, strict=True))
    holes = np.concatenate([window.hole_before for window in windows])
    holes[starts] = True
    times = np.concatenate([window.open_time for window in windows])
    return Joined(BarArrays(**columns, open_time=times, hole_before=holes), starts)
