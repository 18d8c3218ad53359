"""Rows of one stamp: re-reads of one bar, or rows of another market or timeframe.

Two rows are equal where all values agree to `AGREE`. They are re-reads of one bar where their
opens agree to `AGREE` and the range from low to high and the volume of one lie within those of
the other: a later snapshot of a bar never has less. All other rows of one stamp conflict. A
coarser bar, such as a day bar among its hours, has the form of a re-read too; but it closes where
a later bar closes, not where the next bar opens (`are_coarser`).

What can pass: up to `FEW` stamps whose rows conflict, if their opens are as near as those of two
venues. Of such rows the one that fits its neighbours is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data.price_spans import (
    AGREE,
    PRICES,
    Bar,
    Prices,
    agree,
    bound_chance,
    count_bars_of_a_month,
    count_spanned,
    look_around,
)

FEW = 3
"""So many stamps may hold rows that conflict, or in any file rows that differ."""

MOST_DIFFERING = 0.005
"""A larger share of stamps with differing rows is no matter of re-reads."""

FAR_RANGES = 10.0
"""Opens further apart than so many typical ranges of a bar are those of two markets."""

ODD_SHARE = 0.1
"""Of re-reads, more than so many times those that fit do not miss the next open by chance."""

USUAL_QUANTILE = 0.99

BY_CHANCE = 0.01
"""Rows that fit the bars after them are coarser bars where chance seldom finds so many."""

_MOST_LOOKED_AT = 200
_COMPARED = 1000
VALUES = (*PRICES, "volume")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of bars as columns, in the order of the input, with their stamps in epoch ns."""

    stamps: IntArray
    values: Mapping[str, FloatArray]

    def column(self, name: str, rows: IntArray) -> FloatArray:
        return self.values[name][rows]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows by time, and each row that shares its stamp with the row kept for it.

    Attributes:
        kept: One row of each stamp, in the order of time: that of most volume, of equal volumes
            that of the widest range, then the last.
        finest: Of each stamp the row of the narrowest range; the same row where only one is.
        others: The remaining rows (P,), by time.
        places: The position in ``kept`` of the row that each of ``others`` was compared with.
        equal: Whether all values of the two rows agree (P,).
        re_read: Whether the two rows are re-reads of one bar and not equal (P,).
        nested: Whether their opens agree and one range lies within the other, whatever their
            volumes (P,); a coarser bar and a bar within it are nested.
    """

    kept: IntArray
    finest: IntArray
    others: IntArray
    places: IntArray
    equal: BoolArray
    re_read: BoolArray
    nested: BoolArray

    @property
    def conflicting(self) -> BoolArray:
        """Whether the two rows are neither equal nor re-reads of one bar (P,)."""
        return ~self.equal & ~self.re_read

    def pair(self, at: int) -> tuple[int, int]:
        """The two rows of one comparison, in the order of the input."""
        first, second = sorted((int(self.others[at]), int(self.kept[self.places[at]])))
        return first, second


def compare_repeats(table: Table, rows: IntArray) -> Repeats:
    """Group ``rows`` by stamp and compare the rows of each stamp with the one that is kept."""
    stamps = table.stamps[rows]
    width = table.column("high", rows) - table.column("low", rows)
    ranked = rows[np.lexsort((rows, width, table.column("volume", rows), stamps))]
    narrow = rows[np.lexsort((rows, width, stamps))]
    ordered = table.stamps[ranked]
    changes = np.diff(ordered) != 0
    last = np.append(changes, True)
    kept, finest = ranked[last], narrow[np.append(True, changes)]
    places = np.searchsorted(table.stamps[kept], ordered[~last])
    others = ranked[~last]
    twins = kept[places]
    equal = np.all([_agree(table, name, others, twins) for name in VALUES], axis=0)
    opens_agree = _agree(table, "open", others, twins)
    within = opens_agree & _lies_within(table, others, twins)
    around = opens_agree & _lies_within(table, twins, others)
    even = _agree(table, "volume", others, twins)
    re_read = ~equal & (within | (around & even))
    return Repeats(kept, finest, others, places, equal, re_read, (within | around) & ~equal)


def _agree(table: Table, name: str, one: IntArray, other: IntArray) -> BoolArray:
    first, second = table.column(name, one), table.column(name, other)
    return np.asarray(np.abs(first - second) <= AGREE * np.maximum(np.abs(first), np.abs(second)))


def _lies_within(table: Table, inner: IntArray, outer: IntArray) -> BoolArray:
    """Whether [low, high] of one row lies within that of the other, up to `AGREE`."""
    top = table.column("high", inner) <= table.column("high", outer) * (1 + AGREE)
    return np.asarray(
        top & (table.column("low", inner) >= table.column("low", outer) * (1 - AGREE))
    )


def are_coarser(table: Table, repeats: Repeats) -> IntArray:
    """The nested rows (positions in ``others``) of which the wider is a coarser bar.

    The wider row of a re-read is the later one and closes where the next bar opens. That of a
    coarser bar closes later: it misses the next open by more than the narrower row does, beyond
    what is usual between two bars of this table. Where both closes are as near, the wider row is
    a coarser bar if its range, its close and the ranges of the bars after it fit exactly.

    A few of many real re-reads miss the next open by chance: up to `ODD_SHARE` as many as fit are
    no coarser bars, or where their ranges are equal up to as many, unless they fit exactly.
    """
    nested = np.flatnonzero(repeats.nested)
    if not len(nested):
        return nested
    wide, narrow = _order_by_width(table, repeats, nested)
    misses = _measure_misses(table, repeats, nested, wide, narrow)
    usual = measure_usual_miss(table, repeats)
    odd, fitting = misses > usual, misses < -usual
    near = np.flatnonzero(~fitting)[:_MOST_LOOKED_AT]
    exact = np.zeros(len(nested), bool)
    exact[near] = _find_spanning(table, repeats, repeats.places[nested[near]], wide[near])
    wider = ~(_lies_within(table, wide, narrow) & _lies_within(table, narrow, wide))
    if (odd & wider).sum() > ODD_SHARE * fitting.sum() or odd.sum() > fitting.sum():
        return nested[odd | exact]
    return nested[exact]


def are_coarser_by_range(table: Table, repeats: Repeats) -> IntArray:
    """The conflicting rows (positions in ``others``) of which one is the union of bars beside it.

    A bar of a week or month may be stamped at its end, so that its open agrees with no other.
    """
    at = np.flatnonzero(repeats.conflicting & ~repeats.nested)[:_MOST_LOOKED_AT]
    places = repeats.places[at]
    pairs = (repeats.others[at], repeats.kept[places])
    exact = _find_spanning(table, repeats, np.tile(places, 2), np.concatenate(pairs))
    return at[exact.reshape(2, -1).any(axis=0)]


def _order_by_width(table: Table, repeats: Repeats, at: IntArray) -> tuple[IntArray, IntArray]:
    others, kept = repeats.others[at], repeats.kept[repeats.places[at]]
    widths = [table.column("high", rows) - table.column("low", rows) for rows in (others, kept)]
    wider = widths[0] > widths[1]
    return np.where(wider, others, kept), np.where(wider, kept, others)


def _measure_misses(
    table: Table, repeats: Repeats, at: IntArray, wide: IntArray, narrow: IntArray
) -> FloatArray:
    """By how much more the wider row's close misses the next open, as a share; 0 before a gap."""
    places = repeats.places[at]
    following = np.minimum(places + 1, len(repeats.kept) - 1)
    step = _find_step(table, repeats)
    stamps = table.stamps[repeats.kept]
    follows = stamps[following] - stamps[places] == step
    opens = table.column("open", repeats.finest[following])
    far = np.abs(table.column("close", wide) / opens - 1)
    near = np.abs(table.column("close", narrow) / opens - 1)
    return np.where(follows, far - near, 0.0)


def _find_step(table: Table, repeats: Repeats) -> int:
    """The least distance of two stamps."""
    steps = np.diff(table.stamps[repeats.kept])
    return int(steps.min()) if len(steps) else 0


def measure_usual_miss(table: Table, repeats: Repeats) -> float:
    """How far a bar of one row closes from the next open, as a share that few bars exceed."""
    single = np.ones(len(repeats.kept), bool)
    single[repeats.places] = False
    follows = np.diff(table.stamps[repeats.kept]) == _find_step(table, repeats)
    at = np.flatnonzero(single[:-1] & single[1:] & follows)
    if not len(at):
        return AGREE
    closes = table.column("close", repeats.kept[at])
    misses = np.abs(closes / table.column("open", repeats.kept[at + 1]) - 1)
    return AGREE + float(np.quantile(misses, USUAL_QUANTILE))


def _find_spanning(table: Table, repeats: Repeats, places: IntArray, rows: IntArray) -> BoolArray:
    """Which rows are the union of the bar at their place and bars beside it, beyond chance (P,).

    A row that is no wider than the bar at its place is none.
    """
    finest = Prices.of(table.values, repeats.finest)
    reach = count_bars_of_a_month(_find_step(table, repeats))
    found = np.zeros(len(rows), bool)
    for at, (place, row) in enumerate(zip(places.tolist(), rows.tolist(), strict=True)):
        bar, own = Bar.of(table.values, row), finest.bar(place)
        if not (agree(own.high, bar.high) and agree(own.low, bar.low)):
            found[at] = count_spanned(*look_around(finest, bar, place - 1, place, reach)) > 0
    if not found.any():
        return found
    expected = len(rows) * _measure_chance(table, repeats, finest, reach)
    return found & (bound_chance(int(found.sum()), expected) < BY_CHANCE)


def _measure_chance(table: Table, repeats: Repeats, finest: Prices, reach: int) -> float:
    """How often a bar that comes once closes as a later bar within its range, which they show.

    A snapshot of it would show one end of its range as well, so one is enough here.
    """
    single = np.ones(len(repeats.kept), bool)
    single[repeats.places] = False
    places = np.flatnonzero(single)
    places = places[:: max(len(places) // _COMPARED, 1)]
    met = 0
    for place in places.tolist():
        after = look_around(finest, finest.bar(place), place - 1, place + 1, reach)[1]
        met += math.isfinite(after.first_end(max(min(after.top, after.bottom), 1)))
    # Half a bar more, because a short table that has none does not show that there are none.
    return (met + 0.5) / (len(places) + 1)


def choose_by_neighbours(table: Table, repeats: Repeats) -> IntArray:
    """``kept``, with the row of each conflicting stamp that fits the bars before and after best.

    Of rows that fit equally well, the one with the most volume.
    """
    kept = repeats.kept.copy()
    for place in np.unique(repeats.places[repeats.conflicting]).tolist():
        others = repeats.others[(repeats.places == place)]
        rows = np.append(repeats.kept[place], others[::-1])
        kept[place] = rows[np.argmin(np.round(_measure_misfits(table, kept, place, rows), 6))]
    return kept


def _measure_misfits(table: Table, kept: IntArray, place: int, rows: IntArray) -> FloatArray:
    """How far the rows open and close from the close before and the open after, as logs."""
    misfit = np.zeros(len(rows))
    if place > 0:
        before = table.values["close"][kept[place - 1]]
        misfit += np.abs(np.log(table.column("open", rows) / before))
    if place + 1 < len(kept):
        after = table.values["open"][kept[place + 1]]
        misfit += np.abs(np.log(table.column("close", rows) / after))
    return misfit


def are_far_apart(table: Table, repeats: Repeats) -> IntArray:
    """The conflicting rows (positions in ``others``) whose opens are those of two markets."""
    at = np.flatnonzero(repeats.conflicting)
    kept, others = repeats.kept[repeats.places[at]], repeats.others[at]
    high, low = (table.column(name, repeats.kept) for name in ("high", "low"))
    usual = float(np.median(np.log(high / low)))
    apart = np.abs(np.log(table.column("open", kept) / table.column("open", others)))
    return at[apart > FAR_RANGES * usual + AGREE]
