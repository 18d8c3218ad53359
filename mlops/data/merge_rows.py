"""One row of each stamp, or a refusal of rows that cannot be one market's bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray, IntArray
from mlops.data import repeated_stamps as repeated
from mlops.data.repeated_stamps import Repeats, Table
from mlops.data.row_labels import LABELS, find_mixed_labels, find_split, prices_jump_between
from mlops.errors import BarsError


@dataclass(frozen=True, slots=True)
class MergedRows:
    """One row of each stamp, in the order of time.

    ``dropped`` counts the other rows by reason: ``duplicate`` has the same values as the row that
    is kept, ``re_read`` is an earlier snapshot of its bar, ``conflicting`` is neither. ``opens``
    are those of the rows of each reason, ascending.
    """

    kept: IntArray
    dropped: Mapping[str, int] = field(default_factory=dict)
    opens: Mapping[str, pd.DatetimeIndex] = field(default_factory=dict)


def merge_rows(
    table: pd.DataFrame,
    stamps: IntArray,
    rows: IntArray,
    numbers: Mapping[str, FloatArray],
    time_column: str,
) -> MergedRows:
    """Keep one row of each stamp; `mlops.data.repeated_stamps` has the rules.

    Args:
        table: All columns, of which one may tell rows apart.
        stamps: Opens (epoch ns) of all rows of the table.
        rows: The rows that are complete bars.

    Raises:
        BarsError: when rows are of several markets or timeframes.
    """
    steps = np.diff(stamps[rows])
    if (steps > 0).all():
        merged = MergedRows(rows)
    elif len(np.unique(stamps[rows])) == len(rows):
        merged = MergedRows(rows[np.argsort(stamps[rows], kind="stable")])
    else:
        merged = _merge_repeats(table, Table(stamps, numbers), rows, time_column)
    _refuse_mixed_labels(table, merged.kept, numbers)
    return merged


def _refuse_mixed_labels(
    table: pd.DataFrame, kept: IntArray, numbers: Mapping[str, FloatArray]
) -> None:
    for split, (first, second) in find_mixed_labels(table):
        name = split.column
        if name not in LABELS and not prices_jump_between(table[name], kept, numbers):
            continue
        raise BarsError(
            f"column {name!r} holds {split.values[0]} in row {first} and {split.values[1]} in "
            f"row {second} (counted from 0); keep the rows of one {name}, or where all rows are "
            f"of one market pass columns={{'{name}': 'note'}}, so that the column is not read as "
            "a label",
            column=name,
            rows=(first, second),
        )


def _merge_repeats(
    table: pd.DataFrame, bars: Table, rows: IntArray, time_column: str
) -> MergedRows:
    repeats = repeated.compare_repeats(bars, rows)
    kinds = _Kinds(table, bars, repeats, time_column)
    kinds.refuse_conflicts()
    kinds.refuse_coarser_bars()
    kinds.refuse_other_markets()
    kinds.refuse_differing()
    reasons = {
        "duplicate": repeats.equal,
        "re_read": repeats.re_read,
        "conflicting": repeats.conflicting,
    }
    met = {reason: repeats.others[mask] for reason, mask in reasons.items() if mask.any()}
    return MergedRows(
        repeated.choose_by_neighbours(bars, repeats),
        {reason: len(others) for reason, others in met.items()},
        {
            reason: pd.DatetimeIndex(np.sort(bars.stamps[others]), tz="UTC")
            for reason, others in met.items()
        },
    )


@dataclass(frozen=True, slots=True)
class _Kinds:
    """The refusals of rows of one stamp; each names the first such stamp and both its rows."""

    table: pd.DataFrame
    bars: Table
    repeats: Repeats
    time_column: str

    def refuse_conflicts(self) -> None:
        at = np.flatnonzero(self.repeats.conflicting)
        if len(np.unique(self.repeats.places[at])) > repeated.FEW:
            raise self._conflict(at)

    def refuse_other_markets(self) -> None:
        at = repeated.are_far_apart(self.bars, self.repeats)
        if len(at):
            raise self._conflict(at)

    def _conflict(self, at: IntArray) -> BarsError:
        what, remedy = "are no re-reads of one bar", "keep the rows of one symbol and timeframe"
        return self._refusal(at, what, remedy)

    def refuse_coarser_bars(self) -> None:
        nested = repeated.are_coarser(self.bars, self.repeats)
        at = nested if len(nested) else repeated.are_coarser_by_range(self.bars, self.repeats)
        if len(at):
            raise self._refusal(
                at,
                "are bars of two timeframes: the wider one holds prices of the bars after it",
                "keep bars of one timeframe",
            )

    def refuse_differing(self) -> None:
        at = np.flatnonzero(~self.repeats.equal)
        stamps = len(np.unique(self.repeats.places[at]))
        limit = max(repeated.FEW, repeated.MOST_DIFFERING * len(self.repeats.kept))
        if stamps > limit:
            raise self._refusal(
                at,
                f"differ, more often than in {repeated.MOST_DIFFERING:.1%} of all stamps",
                "keep one row of each bar",
            )

    def _refusal(self, at: IntArray, what: str, remedy: str) -> BarsError:
        """The error that names the first of the pairs ``at``, their number and their column."""
        first, second = self.repeats.pair(int(at[0]))
        stamp = pd.Timestamp(int(self.bars.stamps[first]), tz="UTC")
        stamps, of = len(np.unique(self.repeats.places[at])), len(self.repeats.kept)
        known = {*repeated.VALUES, self.time_column}
        others, kept = self.repeats.others[at], self.repeats.kept[self.repeats.places[at]]
        split = find_split(self.table, np.minimum(others, kept), np.maximum(others, kept), known)
        text = (
            f"rows {first} and {second} (counted from 0) are both stamped {stamp:%Y-%m-%d %H:%M} "
            f"and {what} ({self._show(first)}; {self._show(second)}); so in {stamps:,} of "
            f"{of:,} stamps"
        )
        if split is not None:
            text, remedy = f"{text}; {split.describe()}", split.remedy(self.time_column)
        column = self.time_column if split is None else split.column
        return BarsError(f"{text}; {remedy}", column=column, rows=(first, second))

    def _show(self, row: int) -> str:
        return ", ".join(f"{name} {self.bars.values[name][row]:.6g}" for name in repeated.VALUES)
