"""Fits one column of a reference: its null distribution, labels, constant and longest run.

numbers          NumericNull      labels, or few distinct values   CategoricalNull
losses and hits  MeanNull         one value only                   constant, no null
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import BoolArray, FloatArray
from mlops.stats.jumps import fit_jumps
from mlops.stats.statistic_null import StatisticNull
from mlops.stats.window_null import (
    MAX_BARS,
    NULLS,
    CategoricalNull,
    MeanNull,
    NumericNull,
    WindowNull,
)

FEW_VALUES = 5
"""A numeric column with at most this many distinct values is compared as labels."""

MOST_LABELS = 63
"""The most frequent labels that are compared one by one."""
OTHER = "(other)"
"""The label that stands for all rarer ones."""

LARGEST = 1e150
"""Larger numbers count as infinite, because their squares are."""


class Role(StrEnum):
    """What a column means. A loss must not rise, a hit must not fall, others must not change.

    ``REALISED`` is the value of a single bar of a target that averages over many bars, such as
    the log range of the bar. It shows a jump days before the average does, and is watched for
    jumps only.
    """

    FEATURE = "feature"
    TARGET = "target"
    REALISED = "realised"
    FORECAST = "forecast"
    LOSS = "loss"
    HIT = "hit"

    @property
    def family(self) -> Family:
        return _FAMILIES[self]

    @property
    def is_late(self) -> bool:
        """Whether the last rows lack a value because their outcome is not known yet."""
        return self in {Role.TARGET, Role.LOSS, Role.HIT}


class Family(StrEnum):
    """Columns that are tested together; a decision level is divided among the families."""

    FEATURES = "features"
    TARGET = "target"
    FORECASTS = "forecasts"
    LOSSES = "losses"


_FAMILIES = {
    Role.FEATURE: Family.FEATURES,
    Role.TARGET: Family.TARGET,
    Role.REALISED: Family.TARGET,
    Role.FORECAST: Family.FORECASTS,
    Role.LOSS: Family.LOSSES,
    Role.HIT: Family.LOSSES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReference:
    """One column of the reference, ready to test windows against.

    Attributes:
        bars: Rows that held a value.
        labels: The labels of a column that is compared by them; else empty.
        constant: The only value, where there was one only.
        longest_run: Most bars in a row with one value.
        null: The null distribution; None where no row held a value or all held the constant.
        missing: The null of the share of missing rows, where some were missing.
        jumps: The null of the largest jump in a budget's looks; only of targets with a long
            enough reference.
    """

    name: str
    role: Role
    numeric: bool
    bars: int = 0
    labels: tuple[str, ...] = ()
    constant: float | str | None = None
    longest_run: int = 0
    null: WindowNull | None = field(default=None, repr=False, compare=False)
    missing: CategoricalNull | None = field(default=None, repr=False, compare=False)
    jumps: StatisticNull | None = field(default=None, repr=False, compare=False)

    @property
    def sign(self) -> float:
        return -1.0 if self.role is Role.HIT else 1.0

    def encode(self, values: NDArray[Any]) -> FloatArray:
        """Turn present raw values into numbers (n,): labels become codes, hits are negated."""
        if self.numeric and not self.labels:
            return values.astype(np.float64) * self.sign
        codes = {label: code for code, label in enumerate(self.labels)}
        other = codes.get(OTHER, len(codes))
        return np.array([codes.get(_label_of(value), other) for value in values], dtype=np.float64)

    def other_values(self, values: NDArray[Any]) -> tuple[str, ...]:
        """Those of the present raw values (n,) that differ from the constant of the reference."""
        if isinstance(self.constant, float):
            # A feature may be float32 in the reference and float64 in the window.
            same = np.isclose(values.astype(np.float64), self.constant, rtol=1e-6, atol=0.0)
            values = values[~same]
        return tuple(sorted({_label_of(value) for value in values} - {str(self.constant)}))

    def unseen(self, values: NDArray[Any]) -> tuple[str, ...]:
        """Labels among the present raw values (n,) that the reference never had."""
        if not self.labels or OTHER in self.labels:
            return ()
        return tuple(sorted({_label_of(value) for value in values} - set(self.labels)))

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, JSON-legal."""
        return {
            "name": self.name,
            "role": str(self.role),
            "numeric": self.numeric,
            "bars": self.bars,
            "labels": list(self.labels),
            "constant": self.constant,
            "longest_run": self.longest_run,
            "null": self.null.kind if self.null else None,
        }

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        parts = {"null": self.null, "missing": self.missing}
        arrays = {
            f"{part}/{key}": array
            for part, null in parts.items()
            if null is not None
            for key, array in null.to_arrays().items()
        }
        return arrays | ({"jumps": self.jumps.to_array()} if self.jumps else {})

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read `to_dict` and `to_arrays` back."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"null": {}, "missing": {}}
        for key, array in arrays.items():
            part, _, rest = key.partition("/")
            if rest:
                parts[part][rest] = array
        kind = values["null"]
        return cls(
            name=values["name"],
            role=Role(values["role"]),
            numeric=values["numeric"],
            bars=values["bars"],
            labels=tuple(values["labels"]),
            constant=values["constant"],
            longest_run=values["longest_run"],
            null=NULLS[kind].from_arrays(parts["null"]) if kind else None,
            missing=CategoricalNull.from_arrays(parts["missing"]) if parts["missing"] else None,
            jumps=StatisticNull.from_array(arrays["jumps"]) if "jumps" in arrays else None,
        )


def fit_column(
    name: str,
    column: pd.Series,
    role: Role,
    *,
    window_bars: int,
    span: int,
    max_bars: int | None = MAX_BARS,
) -> ColumnReference:
    """Fit the reference of one column.

    Args:
        column: Values (N,) in time order. Missing rows at the beginning are warm-up and do not
            count as missing.
        window_bars: Length of the windows to calibrate the null for.
        span: Looks (bars) that share one budget.
        max_bars: Keep only so many of the last values; None keeps all.
    """
    numeric = role.family is Family.LOSSES or _is_numeric(column)
    values = read_values(column, numeric)
    present = is_present(values)
    kept = values[present]
    if not kept.size:
        return ColumnReference(name=name, role=role, numeric=numeric)
    labels = () if role.family is Family.LOSSES else _find_labels(kept, numeric)
    plain = ColumnReference(
        name=name,
        role=role,
        numeric=numeric,
        bars=kept.size,
        missing=_fit_missing_null(present, role, window_bars),
    )
    if len(labels) == 1 or (numeric and np.ptp(kept) == 0.0):
        return replace(plain, constant=float(kept[0]) if numeric else _label_of(kept[0]))
    coded = replace(plain, labels=labels)
    kind = CategoricalNull if labels else NumericNull
    null = (MeanNull if role.family is Family.LOSSES else kind)(
        coded.encode(kept), max_bars=max_bars
    )
    if null.size >= window_bars:
        null.calibrate(window_bars)
    if not isinstance(null, NumericNull):
        return replace(coded, null=null)
    # Only of targets: with each further column, jumps would be tested at a lower level.
    jumps = fit_jumps(null.scores, span=span) if role.family is Family.TARGET else None
    return replace(coded, null=null, longest_run=longest_run(null.values), jumps=jumps)


def longest_run(values: FloatArray) -> int:
    """The most rows in a row with one value."""
    if not values.size:
        return 0
    changes = np.flatnonzero(np.diff(values) != 0.0)
    ends = np.concatenate([[-1], changes, [values.size - 1]])
    return int(np.diff(ends).max())


def measured_rows(present: BoolArray, role: Role) -> slice:
    """The rows (N,) without the warm-up at the beginning and unknown outcomes at the end."""
    rows = np.flatnonzero(present)
    if not rows.size:
        return slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1 if role.is_late else present.size)


def _fit_missing_null(present: BoolArray, role: Role, window_bars: int) -> CategoricalNull | None:
    absent = ~present[measured_rows(present, role)]
    if not absent.any() or role.is_late:
        return None
    null = CategoricalNull(absent.astype(np.float64))
    if null.size >= window_bars:
        null.calibrate(window_bars)
    return null


def read_values(column: pd.Series, numeric: bool) -> NDArray[Any]:
    """The values of a column (N,): floats with NaN for anything else, or objects as they are."""
    if not numeric:
        return column.to_numpy(dtype=object)
    plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiub"
    numbers = column if plain else pd.to_numeric(column, errors="coerce")
    values: FloatArray = numbers.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    values[~(np.abs(values) < LARGEST)] = np.nan
    return values


def is_present(values: NDArray[Any]) -> BoolArray:
    """Which rows hold a value (N,)."""
    missing = np.isnan(values) if values.dtype == np.float64 else pd.isna(values)
    present: BoolArray = ~missing
    return present


def _is_numeric(column: pd.Series) -> bool:
    """Whether a column is compared as numbers, such as Decimals or integers beside missing rows."""
    if pd.api.types.is_numeric_dtype(column):
        return not pd.api.types.is_complex_dtype(column)
    if column.dtype != np.object_ or not column.notna().any():
        return False
    numbers = pd.to_numeric(column, errors="coerce")
    return bool(numbers.notna().sum() == column.notna().sum())


def _find_labels(values: NDArray[Any], numeric: bool) -> tuple[str, ...]:
    """The labels of a column that is compared by labels; empty for any other."""
    # For nearly every column the first rows decide, and sorting them is faster than sorting all.
    if numeric and any(np.unique(part).size > FEW_VALUES for part in (values[:100], values)):
        return ()
    counted = pd.Series([_label_of(value) for value in values]).value_counts()
    kept = sorted(counted.index[:MOST_LABELS])
    return (*kept, OTHER) if len(counted) > MOST_LABELS else tuple(kept)


def _label_of(value: Any) -> str:
    """A label as text; 1 and 1.0 are one label, as a missing row turns integers into floats."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
