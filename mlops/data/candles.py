"""Leaves the invalid candles of an exchange out, so that the bars around them are kept.

Candles are held to the rules of files (`mlops.data.cleaning`), with another consequence. A file
with one wrong row is refused, because its owner can correct that row. A candle of an exchange can
be corrected by the exchange only, so it becomes a hole, which is counted and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data import bar_rules
from mlops.data.bar_columns import COLUMNS
from mlops.data.sources.base import MOST_AHEAD
from mlops.service import Timeframe

Texts: TypeAlias = NDArray[np.object_]

MOST_INVALID_SHARE = 0.5
"""A page with a larger share of invalid candles, the first and the last among them, is refused."""

FEW_INVALID = 3
"""So many invalid candles alone say nothing about a page."""

MOST_TOLD = 10
"""So many invalid candles are named in a message."""

SAME_OPEN = 1e-6
"""Relative difference between the opens of two readings of one bar."""

_HOUR_NS = 3_600 * 10**9


@dataclass(frozen=True, slots=True)
class Candles:
    """One page without its invalid candles.

    ``invalid`` says by open time (UTC) what is wrong; ``repeated`` counts rows of which another
    reading of the same bar is kept; ``holds_bars`` is False where the page as a whole is none.
    """

    sound: pd.DataFrame
    invalid: Mapping[pd.Timestamp, str]
    repeated: int
    holds_bars: bool


def describe_invalid(invalid: Mapping[pd.Timestamp, str]) -> str:
    """Invalid candles with their open times; the first `MOST_TOLD` of them."""
    told = [f"{at:%Y-%m-%d %H:%M} UTC ({what})" for at, what in list(invalid.items())[:MOST_TOLD]]
    more = len(invalid) - len(told)
    return ", ".join(told) + (f" and {more:,} more" if more else "")


def screen_candles(
    page: pd.DataFrame,
    *,
    timeframe: Timeframe,
    now: pd.Timestamp,
    known_open: pd.Timestamp | None = None,
) -> Candles:
    """Separate the invalid candles of a page from its bars.

    An unknown volume is not 0, so a candle without a volume is invalid too. Bars that are not
    closed by ``now`` are not judged.

    Args:
        page: Raw bars, their opens as a UTC index.
        known_open: The open of a bar that is known to be right. Bars open at whole steps from it;
            by default, from the opens of most rows.
    """
    page = page[np.asarray(page.index.notna())].sort_index(kind="stable")
    opened = pd.DatetimeIndex(page.index)
    ahead = np.asarray(opened > now + timeframe.step + MOST_AHEAD)
    judged = np.asarray(opened <= now - timeframe.step) | ahead
    numbers = {name: _to_numbers(page[name]) for name in COLUMNS}
    faults = _find_faults(numbers)
    _note(faults, ahead, "the open lies in the future")
    _note(
        faults,
        _find_misaligned(opened, ahead, timeframe, known_open),
        "the open lies between those of two bars",
    )
    faults[~judged] = ""
    sound = np.flatnonzero((faults == "") & judged)
    contradict, repeated = _compare_readings(opened, numbers, sound)
    _note(faults, contradict, "rows of this open contradict each other")
    sound = np.flatnonzero((faults == "") & judged & ~repeated)
    _note(faults, _find_jumps(numbers, sound, len(page)), "prices of another market")
    wrong = faults != ""
    has_sound = opened.round("min").isin(opened[~wrong & ~repeated].round("min"))
    repeated |= wrong & has_sound
    wrong &= ~has_sound
    return Candles(
        sound=page[~wrong & ~repeated],
        invalid=dict(zip(opened[wrong].floor("ms"), faults[wrong].tolist(), strict=True)),
        repeated=int(repeated.sum()),
        holds_bars=_holds_bars(wrong[judged]),
    )


def _to_numbers(values: pd.Series) -> FloatArray:
    parsed = pd.to_numeric(values, errors="coerce")
    return np.asarray(parsed.to_numpy(dtype="float64", na_value=np.nan))


def _note(faults: Texts, broken: BoolArray, what: str) -> None:
    """Keep what is wrong with the rows that nothing was found wrong with before."""
    faults[broken & (faults == "")] = what


def _find_faults(numbers: Mapping[str, FloatArray]) -> Texts:
    """What is wrong with the values of each row (N,); empty where nothing is."""
    faults = np.full(len(numbers["open"]), "", object)
    for name, cells in numbers.items():
        _note(faults, bar_rules.not_finite(cells), f"{name}: no finite number")
    for name, what, broken in bar_rules.find_broken_rules(numbers):
        _note(faults, broken, f"{name}: {what}")
    return faults


def _find_misaligned(
    opened: pd.DatetimeIndex,
    ahead: BoolArray,
    timeframe: Timeframe,
    known_open: pd.Timestamp | None,
) -> BoolArray:
    """Rows whose open is no whole number of steps from the open of a right bar."""
    minutes, off = bar_rules.round_to_minutes(np.asarray(opened.as_unit("ns").asi8), timeframe)
    step = pd.Timedelta(timeframe.step).value
    phases = minutes % step
    if known_open is not None:
        right = int(known_open.as_unit("ns").value % step)
    else:
        right = _find_most_common(phases[~ahead & ~off])
    apart = np.abs(phases - right)
    # Long bars of a local clock open an hour earlier or later over a change of that clock.
    tolerance = _HOUR_NS if step >= 4 * _HOUR_NS else 0
    return np.asarray(off | (np.minimum(apart, step - apart) > tolerance))


def _find_most_common(phases: IntArray) -> int:
    if not len(phases):
        return 0
    values, counts = np.unique(phases, return_counts=True)
    return int(values[np.argmax(counts)])


def _compare_readings(
    opened: pd.DatetimeIndex, numbers: Mapping[str, FloatArray], sound: IntArray
) -> tuple[BoolArray, BoolArray]:
    """Among rows of one open: masks of contradicting rows, and of earlier readings of a bar.

    Two readings of a bar have one open, and the earlier one lies within the later one: a bar that
    is still being formed only grows.
    """
    contradict, repeated = np.zeros(len(opened), bool), np.zeros(len(opened), bool)
    minutes = opened[sound].round("min")
    for stamp in minutes[minutes.duplicated()].unique():
        rows = sound[np.asarray(minutes == stamp)]
        values = np.column_stack([numbers[name][rows] for name in COLUMNS])
        last = int(np.lexsort((np.arange(len(rows)), values[:, 4]))[-1])
        price, high, low, _, volume = values.T
        within = (
            (np.abs(price - price[last]) <= SAME_OPEN * price[last])
            & (high <= high[last])
            & (low >= low[last])
            & (volume <= volume[last])
        )
        if within.all():
            repeated[rows[np.arange(len(rows)) != last]] = True
        else:
            contradict[rows] = True
    return contradict, repeated


def _find_jumps(numbers: Mapping[str, FloatArray], sound: IntArray, count: int) -> BoolArray:
    """Rows whose prices no market has beside those of the other rows of the page."""
    jumps = np.zeros(count, bool)
    # Of two rows none is known to be right.
    if len(sound) > 2:
        usual = float(np.median(numbers["close"][sound]))
        high, low = numbers["high"][sound], numbers["low"][sound]
        ratio = bar_rules.LARGEST_RATIO
        jumps[sound] = (high / ratio > usual) | (usual / ratio > low)
    return jumps


def _holds_bars(wrong: BoolArray) -> bool:
    """Whether the candles (N,), oldest first, of which some are wrong, are bars as a whole."""
    count = int(wrong.sum())
    if count <= FEW_INVALID or count <= MOST_INVALID_SHARE * len(wrong):
        return True
    # A sound candle at either end says that the venue sends bars, but did not for a while.
    return not bool(wrong[0] and wrong[-1])
