"""Windows of bars to forecast from, and several windows joined end to end for one call.

Joined windows are one array of bars with a hole before each window. Trailing sums add each span
separately and recursive features decay within their warm-up, so past its own warm-up a window's
features do not depend on the windows before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, RowArray, TimeArray
from mlops.data.bars import COLUMNS
from mlops.data.calendar import Calendar, hole_before
from mlops.features.bar_arrays import BarArrays, open_times
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Consecutive bars of one symbol, oldest first; the caller has checked them.

    ``values`` (n, 5) float64 in the order of `mlops.data.bars.COLUMNS`; ``open_time`` (n,)
    naive UTC ``datetime64[ns]``; ``hole_before`` (n,) is True where a bar does not directly
    follow its predecessor; its first entry is not used. ``timed`` is False where the bars came
    without times and have made-up ones, from which no model may read the clock.
    """

    values: FloatArray
    open_time: TimeArray
    hole_before: BoolArray
    timed: bool = True

    def __len__(self) -> int:
        return len(self.values)

    def sliding(self, size: int) -> Iterator[Window]:
        """Every run of ``size`` consecutive bars, oldest first, as views."""
        for end in range(size, len(self) + 1):
            yield self.part(end - size, end)

    def part(self, start: int, end: int) -> Window:
        """The bars from ``start`` up to ``end``, as views."""
        bars = slice(start, end)
        return Window(self.values[bars], self.open_time[bars], self.hole_before[bars], self.timed)


def window_of(frame: pd.DataFrame, timeframe: Timeframe, calendar: Calendar) -> Window:
    """A validated bar frame as a window."""
    values = frame[list(COLUMNS)].to_numpy(dtype=np.float64)
    return Window(values, open_times(frame), hole_before(frame, timeframe, calendar))


@dataclass(frozen=True, slots=True, eq=False)
class JoinedWindows:
    """Windows joined end to end: their bars (N,), and the end of each window among them.

    ``history`` (N,) is how many earlier bars of its own window each bar has.
    """

    bars: BarArrays
    ends: Sequence[int]
    history: RowArray

    def split(self, each_bar: FloatArray) -> list[FloatArray]:
        """Split one value a bar (N,) into one array a window."""
        return [each_bar[start:end] for start, end in pairwise([0, *self.ends])]


def join_windows(windows: Sequence[Window]) -> JoinedWindows:
    """Join at least one window end to end, with a hole before each."""
    lengths = [len(window.values) for window in windows]
    ends = list(accumulate(lengths))
    starts = [0, *ends[:-1]]
    # One copy turns rows into columns, so that every feature reads contiguous memory.
    values = np.concatenate([window.values for window in windows]).T.copy()
    columns = dict(zip(COLUMNS, values, strict=True))
    holes = np.concatenate([window.hole_before for window in windows])
    holes[starts] = True
    times = np.concatenate([window.open_time for window in windows])
    bars = BarArrays(**columns, open_time=times, hole_before=holes)
    return JoinedWindows(bars, ends, np.arange(ends[-1]) - np.repeat(starts, lengths))
