"""The rules that every bar keeps, in training and in requests alike, as functions of arrays.

Each rule is a mask (N,) of the bars that break it. The callers say so in their own words: training
names columns and rows of a table, a request names its cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray, TimeArray
from mlops.data.parts import PART_ROWS, is_true_of_all, map_parts
from mlops.service import Timeframe

ROUNDING = 1e-9
"""open and close may leave [low, high] by rounding, not by more."""

LEAST_PRICE, LARGEST_PRICE = 1e-30, 1e30
LARGEST_RATIO = 1e12
"""Of two prices of one bar, and of any price of a bar to the close before it."""

LARGEST_VOLUME = 1e305
"""The sum of a thousand such volumes is finite, and the longest feature adds those of a week."""

# Stamps within 1 % of a bar, at most half a minute, of a whole minute mean that minute. The last
# second of a bar of one minute means its close as well.
NEAR_SHARE = 0.01
_LAST_SECOND = pd.Timedelta(seconds=1)
NEAR_LIMIT = pd.Timedelta(seconds=29)
_MINUTE_NS = 60 * 10**9


def are_sound(values: FloatArray) -> bool:
    """Whether all bars (N, 5) keep all rules; False also where only a slower look can tell.

    Prices are compared with those of all other bars, so bars of several symbols may lie end to end.
    """
    opened, high, low, close, volume = values.T
    return columns_are_sound(opened, high, low, close, volume)


def columns_are_sound(
    opened: FloatArray,
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    volume: FloatArray,
) -> bool:
    """`are_sound` of columns (N,)."""
    least, largest, most = low.min(), high.max(), volume.max()
    # NaN makes each comparison false. No matrix product: it releases the interpreter lock, and
    # another thread would run before the request is read.
    return bool(
        least >= LEAST_PRICE
        and largest <= LARGEST_PRICE
        and largest / LARGEST_RATIO <= least
        and volume.min() >= 0
        and most <= LARGEST_VOLUME
        and (low <= np.minimum(opened, close)).all()
        and (high >= np.maximum(opened, close)).all()
    )


def rows_after_gaps(stamps: IntArray | TimeArray, step: Any) -> IntArray:
    """Rows that lie more than ``step`` after the row before them."""
    found = map_parts(
        lambda at: at + np.flatnonzero(np.diff(stamps[at : at + PART_ROWS + 1]) > step),
        len(stamps) - 1,
    )
    return np.concatenate([*found, np.empty(0, np.int64)]) + 1


def not_finite(cells: FloatArray) -> BoolArray:
    """Cells that are NaN or infinite."""
    return np.asarray(~np.isfinite(cells))


def not_positive(price: FloatArray) -> BoolArray:
    """Prices that are 0 or less."""
    return np.asarray(price <= 0)


def no_market_price(price: FloatArray) -> BoolArray:
    """Prices that no market has: below `LEAST_PRICE` or above `LARGEST_PRICE`."""
    return np.asarray((price < LEAST_PRICE) | (price > LARGEST_PRICE))


def negative(volume: FloatArray) -> BoolArray:
    """Volumes below 0."""
    return np.asarray(volume < 0)


def no_market_volume(volume: FloatArray) -> BoolArray:
    """Volumes above `LARGEST_VOLUME`."""
    return np.asarray(volume > LARGEST_VOLUME)


def below(high: FloatArray, price: FloatArray) -> BoolArray:
    """Highs below another price of the bar by more than rounding."""
    return np.asarray(high < price * (1 - ROUNDING))


def above(low: FloatArray, price: FloatArray) -> BoolArray:
    """Lows above another price of the bar by more than rounding."""
    with np.errstate(over="ignore"):
        return np.asarray(low > price * (1 + ROUNDING))


def too_wide(high: FloatArray, low: FloatArray) -> BoolArray:
    """Bars whose high is more than `LARGEST_RATIO` times their low."""
    return np.asarray(high / LARGEST_RATIO > low)


def too_far(high: FloatArray, low: FloatArray, close: FloatArray) -> BoolArray:
    """Bars of one symbol, oldest first, with a price too far from the close before them."""
    far = np.zeros(len(close), bool)
    before = close[:-1]
    far[1:] = (high[1:] / LARGEST_RATIO > before) | (before / LARGEST_RATIO > low[1:])
    return far


def find_broken_rules(bars: Mapping[str, FloatArray]) -> Iterator[tuple[str, str, BoolArray]]:
    """The rules that one bar alone can break: the column, what is wrong, and where (N,).

    Args:
        bars: The five columns by name. NaN breaks no rule here; see `not_finite`.
    """
    opened, high, low, close, volume = (
        bars[name] for name in ("open", "high", "low", "close", "volume")
    )
    prices = {"open": opened, "high": high, "low": low, "close": close}
    for name, price in prices.items():
        yield name, "a price that is not positive", not_positive(price)
    yield "volume", "a negative volume", negative(volume)
    yield "high", "high below low", np.asarray(high < low)
    yield "high", "high below open or close", below(high, np.fmax(opened, close))
    yield "low", "low above open or close", above(low, np.fmin(opened, close))
    for name, price in prices.items():
        what = f"a price outside {LEAST_PRICE:g} to {LARGEST_PRICE:g}"
        yield name, what, no_market_price(price)
    yield "volume", f"a volume above {LARGEST_VOLUME:g}", no_market_volume(volume)
    yield "high", f"a high more than {LARGEST_RATIO:g} times the low", too_wide(high, low)


def round_to_minutes(stamps: IntArray, timeframe: Timeframe) -> tuple[IntArray, BoolArray]:
    """Round stamps (epoch ns) to whole minutes, on which bars of every market open and close.

    Returns:
        The rounded stamps, and where one is too far from a whole minute.
    """
    if is_true_of_all(lambda part: bool((part // _MINUTE_NS * _MINUTE_NS == part).all()), stamps):
        return stamps, np.zeros(len(stamps), bool)
    minutes = (stamps + _MINUTE_NS // 2) // _MINUTE_NS * _MINUTE_NS
    limit = min(pd.Timedelta(timeframe.step) * NEAR_SHARE, NEAR_LIMIT)
    late = stamps - minutes
    too_far = (late > limit.value) | (-late > max(limit, _LAST_SECOND).value)
    return minutes, np.asarray(too_far)


def are_last_moments(stamps: IntArray, minutes: IntArray) -> BoolArray:
    """Stamps that were rounded up to their minute.

    A venue may stamp an open a little late, never early: the stamp ends the bar before.
    """
    return np.asarray(stamps < minutes)
