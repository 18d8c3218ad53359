"""Columns beside the bars that tell which rows belong together: symbol, venue, timeframe, time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray, IntArray
from mlops.data.price_spans import AGREE

LABELS = (
    "symbol",
    "ticker",
    "tic",
    "sym",
    "instrument",
    "pair",
    "exchange",
    "venue",
    "timeframe",
    "interval",
    "resolution",
    "freq",
    "granularity",
)
"""Columns of which a table of one market's bars holds one value."""

LABELS_IN_DOUBT = (
    "name",
    "code",
    "asset",
    "coin",
    "market",
    "contract",
    "product",
    "base",
    "series",
    "period",
    "feed",
    "source",
)
"""Columns that may vary in one market's bars, as a source or a month of delivery does.

They tell markets apart where the price jumps from one value to the next.
"""

FEW_CHANGES = 6
FAR_RANGES, FAR_RANGES_OF_FEW = 2.0, 10.0
"""The price jumps where it changes by so many typical ranges of a bar as a rule; the second number
holds for fewer than `FEW_CHANGES` changes of the value, which a night may part."""

_MOST_LABELS = 1000
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
    ranked = sorted(others, key=lambda name: (not _is_label(name), not _holds_time(name)))
    for name in ranked:
        column = table[name]
        if isinstance(column, pd.DataFrame):
            continue
        one, other = column.iloc[first].to_numpy(), column.iloc[second].to_numpy()
        differs = pd.Series(one).astype(str).to_numpy() != pd.Series(other).astype(str).to_numpy()
        if not differs.all():
            continue
        is_named = _is_label(name) or _holds_time(name)
        if is_named or pd.unique(column.iloc[np.r_[first, second]]).size <= len(first):
            return Split(name, (_show(one[0]), _show(other[0])))
    return None


def _is_label(name: str) -> bool:
    return name in LABELS or name in LABELS_IN_DOUBT


def _holds_time(name: str) -> bool:
    return any(word in name for word in _TIME_WORDS) and not _is_label(name)


def find_mixed_labels(table: pd.DataFrame) -> Iterator[tuple[Split, tuple[int, int]]]:
    """Each column of the labels, also of those in doubt, with two values; the first row of each.

    Spellings that differ in signs or case, such as BTC/USD and BTCUSD, are one value.
    """
    for name in (*LABELS, *LABELS_IN_DOUBT):
        if name not in table.columns or isinstance(table[name], pd.DataFrame):
            continue
        column = table[name].reset_index(drop=True)
        kinds = column.dropna().drop_duplicates()
        if name in LABELS_IN_DOUBT and len(kinds) > _MOST_LABELS:
            continue
        rows = _spell_alike(kinds).drop_duplicates().index
        if len(rows) > 1:
            first, second = int(rows[0]), int(rows[1])
            yield Split(name, (_show(column[first]), _show(column[second]))), (first, second)


def _spell_alike(values: pd.Series) -> pd.Series:
    return values.astype(str).str.lower().str.replace(r"[^0-9a-z]", "", regex=True)


def prices_jump_between(
    labels: pd.Series, rows: IntArray, numbers: Mapping[str, FloatArray]
) -> bool:
    """Whether the price jumps where a label changes, as between the bars of two markets.

    Args:
        rows: The bars in the order of time, as positions in ``labels`` and ``numbers``.
    """
    kinds, _ = pd.factorize(_spell_alike(labels.iloc[rows]))
    at = np.flatnonzero(np.diff(kinds))
    if not len(at):
        return False
    jumps = np.abs(np.log(numbers["open"][rows[at + 1]] / numbers["close"][rows[at]]))
    usual = float(np.median(np.log(numbers["high"][rows] / numbers["low"][rows])))
    far = FAR_RANGES if len(at) >= FEW_CHANGES else FAR_RANGES_OF_FEW
    return bool(np.median(jumps) > far * usual + AGREE)


def _show(value: object) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
