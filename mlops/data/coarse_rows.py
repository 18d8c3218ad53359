"""Bars that hold prices of the bars beside them, though they share a stamp with none of them.

Such are the day bars of a table whose rows of equal stamps were dropped before, or that lie in
closed hours or holes. A bar that took the place of the first bar it spans closes where a later bar
closes, and one in the place of the last opens where an earlier bar opens. Prices also agree by
chance, so the number of bars found is compared with the number that chance would give in this
table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data.bar_rules import rows_after_gaps
from mlops.data.parts import PART_ROWS, map_parts
from mlops.data.price_spans import (
    AGREE,
    PRICES,
    Prices,
    Side,
    bound_chance,
    count_bars_of_a_month,
    count_spanned,
    look_around,
)
from mlops.errors import BarsError
from mlops.service import Timeframe

MISSED_SHARE = 0.05
"""A bar whose close is further from the next open, as a share of its range, is looked at; so is
one whose open is as far from the close before."""

BY_CHANCE = 1e-3
"""A number of bars counts where chance finds as many in a smaller share of tables."""

PAIRS_COMPARED = 200
"""Of at least so many pairs the other direction of time tells how often prices agree."""

_MOST_LOOKED_AT = 200
_COMPARED = 400
_FOR_RATES = 20_000
_DISTANCES = 10


@dataclass(frozen=True, slots=True)
class Series:
    """Bars as arrays (N,), in order of time or backwards.

    ``stamps`` and ``step`` are in the unit of the frame's index, ``reach`` is the number of bars of
    a month.
    """

    stamps: IntArray
    prices: Prices
    step: int
    reach: int

    @classmethod
    def of(cls, frame: pd.DataFrame, timeframe: Timeframe) -> Series:
        index = pd.DatetimeIndex(frame.index)
        step = int(np.timedelta64(timeframe.minutes, "m") // np.timedelta64(1, index.unit))
        prices = Prices(*(frame[name].to_numpy() for name in PRICES))
        reach = count_bars_of_a_month(timeframe.minutes * 60 * 10**9)
        return cls(np.asarray(index.asi8), prices, step, reach)

    def look_around(self, row: int) -> tuple[Side, Side]:
        """The bars before and after a bar that may be those it spans."""
        return look_around(self.prices, self.prices.bar(row), row - 1, row + 1, self.reach)

    def reversed(self) -> Series:
        """The bars as they are when time runs backwards: they open at their closes."""
        prices = self.prices
        turned = Prices(*(v[::-1] for v in (prices.close, prices.high, prices.low, prices.open)))
        return Series(self.stamps[::-1], turned, self.step, self.reach)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The bars (M,) that hold the next one, which opens a step later, within their range.

    Attributes:
        rows: Their positions.
        miss: Whether they close away from the next open.
        agree: Whether they close where the next one closes.
        growth: By how much they are wider than the next one.
    """

    rows: IntArray
    miss: BoolArray
    agree: BoolArray
    growth: FloatArray


@dataclass(frozen=True, slots=True)
class Rates:
    """How often prices agree by chance in bars that are no coarser ones.

    Attributes:
        met: The share of the bars after a bar, within its range, that close where it closes.
        shown: The share of bars whose high and low are both seen in those after them.
    """

    met: float
    shown: float

    def expect(self, room: int) -> float:
        """The chance that one of ``room`` bars closes where a bar closes."""
        return min(1.0, self.met * room)


def refuse_coarse_rows(frame: pd.DataFrame, timeframe: Timeframe) -> None:
    """Refuse bars that span the bars beside them.

    Raises:
        BarsError: naming the first such bar and how many bars it spans.
    """
    found = find_coarse_rows(Series.of(frame, timeframe))
    if not found:
        return
    row, count = min(found.items())
    held = f"{count} bars" if count > 1 else "the bar"
    more = f", as {len(found) - 1:,} more do theirs" if len(found) > 1 else ""
    raise BarsError(
        f"the bar of {frame.index[row]:%Y-%m-%d %H:%M} holds the prices of {held} beside it"
        f"{more}: these are bars of two timeframes; keep the {timeframe} bars alone",
        column="close",
    )


def find_coarse_rows(series: Series) -> dict[int, int]:
    """The positions of coarser bars, and how many other bars each spans."""
    turned = series.reversed()
    pairs, turned_pairs = _find_pairs(series), _find_pairs(turned)
    rates, turned_rates = _measure_rates(series, pairs), _measure_rates(turned, turned_pairs)
    last = len(series.stamps) - 1
    chosen = _choose_widest(pairs)
    turned_chosen = _choose_widest(turned_pairs)
    apart = np.concatenate([_choose_apart(series), chosen, last - turned_chosen])
    backward = _find_pairs_beyond_chance(turned_pairs, pairs)
    backward |= _find_spanning_after(turned, turned_chosen, turned_rates)
    return {
        **{last - row: count for row, count in backward.items()},
        **_find_pairs_beyond_chance(pairs, turned_pairs),
        **_find_spanning_after(series, chosen, rates),
        **_find_unions(series, np.unique(apart), turned_rates, rates),
    }


def _find_pairs(series: Series) -> Pairs:
    found = map_parts(lambda begin: _find_pairs_of_part(series, begin), len(series.stamps) - 1)
    none = np.empty(0)
    columns = zip(*found, strict=True) if found else ((none,),) * 4
    rows, miss, agree, growth = (np.concatenate(column) for column in columns)
    return Pairs(rows.astype(np.int64), miss.astype(bool), agree.astype(bool), growth)


def _find_pairs_of_part(
    series: Series, begin: int
) -> tuple[IntArray, BoolArray, BoolArray, FloatArray]:
    """The columns of `Pairs`, of the bars of one part."""
    part = slice(begin, begin + PART_ROWS + 1)
    stamps, prices = series.stamps[part], series.prices
    opened, high, low, close = (
        column[part] for column in (prices.open, prices.high, prices.low, prices.close)
    )
    held = high[1:] <= high[:-1] * (1 + AGREE)
    held &= low[1:] >= low[:-1] * (1 - AGREE)
    held &= np.abs(np.diff(stamps)) == series.step
    rows = np.flatnonzero(held)
    closes, width = close[rows], high[rows] - low[rows]
    inner = np.maximum(high[rows + 1] - low[rows + 1], high[rows] * 1e-12)
    return (
        begin + rows,
        np.abs(closes - opened[rows + 1]) > MISSED_SHARE * width,
        np.abs(closes - close[rows + 1]) <= AGREE * closes,
        width / inner,
    )


def _choose_widest(pairs: Pairs) -> IntArray:
    """The bars that close away from the next open, the widest by the next one first."""
    order = np.argsort(-pairs.growth[pairs.miss], kind="stable")
    return pairs.rows[pairs.miss][order[:_MOST_LOOKED_AT]]


def _choose_apart(series: Series) -> IntArray:
    """Bars beside a gap, those between two gaps first, then the widest."""
    after = rows_after_gaps(series.stamps, series.step)
    rows, sides = np.unique(np.append(after, after - 1), return_counts=True)
    width = (series.prices.high[rows] - series.prices.low[rows]) / series.prices.low[rows]
    chosen: IntArray = rows[np.lexsort((-width, -sides))][:_MOST_LOOKED_AT]
    return chosen


def _measure_rates(series: Series, pairs: Pairs) -> Rates:
    """The rates of the bars that close nearest to the next open, so that few are coarser ones."""
    calm = _choose_calm(series)
    closes, high, low = (getattr(series.prices, name) for name in ("close", "high", "low"))
    met = room = 0
    for distance in range(2, _DISTANCES):
        rows = calm[calm + distance < len(closes)]
        later = closes[rows + distance]
        room += int(((later <= high[rows]) & (later >= low[rows])).sum())
        met += int((np.abs(later - closes[rows]) <= AGREE * later).sum())
    holding = _take_spread(_choose_common(calm, pairs.rows), _COMPARED)
    shown = sum(math.isfinite(series.look_around(row)[1].whole) for row in holding.tolist())
    return Rates(_bound_share(met, room), _bound_share(shown, len(holding)))


def _choose_calm(series: Series) -> IntArray:
    """The bars that close at the next open; where they are few, the quarter that is nearest."""
    last, prices = len(series.stamps) - 1, series.prices
    rows = np.arange(0, last, max(last // _FOR_RATES, 1))
    rows = rows[np.abs(series.stamps[rows + 1] - series.stamps[rows]) == series.step]
    missed = np.abs(prices.open[rows + 1] / prices.close[rows] - 1)
    calm: IntArray = rows[missed <= AGREE]
    if len(calm) < _COMPARED:
        calm = np.sort(rows[np.argsort(missed, kind="stable")[: len(rows) // 4]])
    return calm


def _choose_common(some: IntArray, many: IntArray) -> IntArray:
    """The rows in both, each ascending; numpy's own intersection sorts all of them again."""
    at = np.searchsorted(many, some)
    there = at < len(many)
    there[there] = many[at[there]] == some[there]
    return some[there]


def _take_spread(rows: IntArray, most: int) -> IntArray:
    return rows[:: max(len(rows) // most, 1)]


def _bound_share(count: int, of: int) -> float:
    """A share that is higher than that of ``count`` by two standard deviations or so."""
    return min(1.0, (count + 2 * math.sqrt(count) + 1) / max(of, 1))


def _find_pairs_beyond_chance(pairs: Pairs, turned: Pairs) -> dict[int, int]:
    """The bars that close where the next one closes, if more do so than when time runs backwards.

    Of two bars in one place of a coarser bar, such as hours of a 2h bar, only this is left.
    """
    rows = pairs.rows[pairs.miss & pairs.agree]
    compared = turned.agree[turned.miss]
    if len(compared) < PAIRS_COMPARED:
        compared = turned.agree
    expected = int(pairs.miss.sum()) * _bound_share(int(compared.sum()), len(compared))
    return _keep_beyond_chance(dict.fromkeys(rows.tolist(), 1), expected)


def _find_spanning_after(series: Series, rows: IntArray, rates: Rates) -> dict[int, int]:
    """The bars that stand in the place of the first of at least three bars that they span."""
    found, expected = {}, 0.0
    for row in rows.tolist():
        after = series.look_around(row)[1]
        expected += rates.shown * rates.expect(after.room)
        # One bar of the same close and range is chance.
        count = after.first_end(max(after.whole, 2))
        if math.isfinite(count):
            found[row] = int(count)
    return _keep_beyond_chance(found, expected)


def _find_unions(series: Series, rows: IntArray, opens: Rates, closes: Rates) -> dict[int, int]:
    """The bars that are the union of at least two bars before and after them."""
    found, expected = {}, 0.0
    for row in rows.tolist():
        before, after = series.look_around(row)
        met = opens.expect(before.room + 1) * closes.expect(after.room + 1)
        expected += met * max(opens.shown, closes.shown)
        count = count_spanned(before, after)
        if count:
            found[row] = count
    return _keep_beyond_chance(found, expected)


def _keep_beyond_chance(found: dict[int, int], expected: float) -> dict[int, int]:
    return found if found and bound_chance(len(found), expected) < BY_CHANCE else {}
