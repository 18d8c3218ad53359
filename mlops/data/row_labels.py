"""Columns beside the bars that tell which rows belong together: symbol, venue, timeframe, time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops.arrays import IntArray

LABELS = (
    "symbol",
    "ticker",
    "instrument",
    "pair",
    "exchange",
    "venue",
    "timeframe",
    "interval",
)
"""Columns of which a table of one market's bars holds one value."""

_TIME_WORDS = ("time", "hour", "minute", "date")
_LONGEST_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Split:
    """A column that tells rows apart, with the values of two of them."""

    column: str
    values: tuple[str, str]

    def describe(self) -> str:
        first, second = self.values
        return f"column {self.column!r} tells them apart: {first} and {second}"

    def remedy(self, time_column: str) -> str:
        """What the caller can do.

        Args:
            time_column: The column that the stamps were read from.
        """
        if self.column.startswith("close"):
            return "keep bars of one timeframe"
        if _holds_time(self.column):
            return f"pass time_column='{time_column}+{self.column}'"
        return f"keep one {self.column}"


def find_split(
    table: pd.DataFrame, first: IntArray, second: IntArray, known: set[str]
) -> Split | None:
    """The column whose value differs in each pair of rows; None where there is none.

    A column with a usual name goes before others, of which a count or an average says nothing:
    they must have few values.

    Args:
        first: Rows that share their stamp with ``second``, and are of another kind.
        known: Columns that hold the bars themselves.
    """
    others = [name for name in map(str, table.columns) if name not in known]
    ranked = sorted(others, key=lambda name: (name not in LABELS, not _holds_time(name)))
    for name in ranked:
        column = table[name]
        if isinstance(column, pd.DataFrame):
            continue
        one, other = column.iloc[first].to_numpy(), column.iloc[second].to_numpy()
        differs = pd.Series(one).astype(str).to_numpy() != pd.Series(other).astype(str).to_numpy()
        if not differs.all():
            continue
        is_named = name in LABELS or _holds_time(name)
        if is_named or pd.unique(column.iloc[np.r_[first, second]]).size <= len(first):
            return Split(name, (_show(one[0]), _show(other[0])))
    return None


def _holds_time(name: str) -> bool:
    return any(word in name for word in _TIME_WORDS) and name not in LABELS


def find_mixed_label(table: pd.DataFrame) -> tuple[Split, tuple[int, int]] | None:
    """The first column of `LABELS` with two values, and the first row of each.

    Spellings that differ in signs or case, such as BTC/USD and BTCUSD, are one value.
    """
    for name in LABELS:
        if name not in table.columns or isinstance(table[name], pd.DataFrame):
            continue
        column = table[name].reset_index(drop=True)
        kinds = column.dropna().drop_duplicates()
        plain = kinds.astype(str).str.lower().str.replace(r"[^0-9a-z]", "", regex=True)
        rows = plain.drop_duplicates().index
        if len(rows) > 1:
            first, second = int(rows[0]), int(rows[1])
            return Split(name, (_show(column[first]), _show(column[second]))), (first, second)
    return None


def _show(value: object) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
