"""One column of a reference: what it looked like, and what a later window of it is found to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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

FloatArray = NDArray[np.float64]

FEW_VALUES = 5
"""A numeric column of at most so many distinct values is compared as labels."""

MOST_LABELS = 63
LARGEST = 1e150
"""Numbers from here on count as infinite, for their squares are."""

OTHER = "(other)"
"""The label of all that are rarer than the 63 most frequent."""


class Role(StrEnum):
    """What a column is; a loss must not rise and a hit not fall, the others not change.

    ``REALISED`` is what each bar alone realised of a target that averages many, such as its log
    range: it shows a jump days before the average does, and is watched for nothing else.
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
    def waits(self) -> bool:
        """Whether the last rows are missing by nature, for their outcome is not known yet."""
        return self in {Role.TARGET, Role.LOSS, Role.HIT}


class Family(StrEnum):
    """Columns that are tested together; the level of a decision is split over the families."""

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
    """What a column was like in the reference, ready to check windows against.

    ``bars`` counts the rows that held a value. ``null`` is None where none did, or where all
    were the ``constant``; ``labels`` is empty for a column compared by its size. ``missing`` is
    the null of the share of missing rows, where some were; ``longest_run`` counts the bars for
    which a value stayed the same. ``jumps`` is the null of the largest jump in a span of looks of
    what is forecast, where the reference is long enough.
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
        """Present raw values as numbers (n,): sizes as they are, labels as their codes."""
        if self.numeric and not self.labels:
            return values.astype(np.float64) * self.sign
        codes = {label: code for code, label in enumerate(self.labels)}
        other = codes.get(OTHER, len(codes))
        return np.array([codes.get(_label(value), other) for value in values], dtype=np.float64)

    def other_values(self, values: NDArray[Any]) -> tuple[str, ...]:
        """What of the present raw values (n,) is not the reference's constant."""
        if isinstance(self.constant, float):
            # Features come as float32 or float64.
            same = np.isclose(values.astype(np.float64), self.constant, rtol=1e-6, atol=0.0)
            values = values[~same]
        return tuple(sorted({_label(value) for value in values} - {str(self.constant)}))

    def unseen(self, values: NDArray[Any]) -> tuple[str, ...]:
        """Labels among the present raw values (n,) that the reference never had."""
        if not self.labels or OTHER in self.labels:
            return ()
        return tuple(sorted({_label(value) for value in values} - set(self.labels)))

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
    """Fit the reference of one column (N,), in time order, calibrated for windows of that length.

    ``span`` is the looks (bars) that share one budget. Missing rows at its beginning are warm-up
    and do not count as missing.
    """
    numeric = role.family is Family.LOSSES or _is_numeric(column)
    values = raw_values(column, numeric)
    present = is_present(values)
    kept = values[present]
    if not kept.size:
        return ColumnReference(name=name, role=role, numeric=numeric)
    labels = () if role.family is Family.LOSSES else _labels(kept, numeric)
    plain = ColumnReference(
        name=name,
        role=role,
        numeric=numeric,
        bars=kept.size,
        missing=_missing_null(present, role, window_bars),
    )
    if len(labels) == 1 or (numeric and np.ptp(kept) == 0.0):
        return replace(plain, constant=float(kept[0]) if numeric else _label(kept[0]))
    coded = replace(plain, labels=labels)
    null = _null(coded, coded.encode(kept), max_bars)
    if null.size >= window_bars:
        null.calibrate(window_bars)
    runs = longest_run(null.values) if isinstance(null, NumericNull) else 0
    return replace(coded, null=null, longest_run=runs, jumps=_jumps(role, null, span))


def longest_run(values: FloatArray) -> int:
    """For how many rows in a row a value stayed the same."""
    if not values.size:
        return 0
    changes = np.flatnonzero(np.diff(values) != 0.0)
    ends = np.concatenate([[-1], changes, [values.size - 1]])
    return int(np.diff(ends).max())


def trimmed(present: NDArray[np.bool_], role: Role) -> slice:
    """The rows between those missing by nature: warm-up, and outcomes not known yet."""
    rows = np.flatnonzero(present)
    if not rows.size:
        return slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1 if role.waits else present.size)


def _null(coded: ColumnReference, values: FloatArray, max_bars: int | None) -> WindowNull:
    if coded.role.family is Family.LOSSES:
        return MeanNull(values, max_bars=max_bars)
    kind = CategoricalNull if coded.labels else NumericNull
    return kind(values, max_bars=max_bars)


def _jumps(role: Role, null: WindowNull, span: int) -> StatisticNull | None:
    # Only of what is forecast: each further column would cost all of them power.
    if role.family is not Family.TARGET or not isinstance(null, NumericNull):
        return None
    return fit_jumps(null.scores, span=span)


def _missing_null(
    present: NDArray[np.bool_], role: Role, window_bars: int
) -> CategoricalNull | None:
    absent = ~present[trimmed(present, role)]
    if not absent.any() or role.waits:
        return None
    null = CategoricalNull(absent.astype(np.float64))
    if null.size >= window_bars:
        null.calibrate(window_bars)
    return null


def raw_values(column: pd.Series, numeric: bool) -> NDArray[Any]:
    """A column's values (N,): numbers with NaN for what is none, or objects as they are."""
    if not numeric:
        return column.to_numpy(dtype=object)
    plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiub"
    numbers = column if plain else pd.to_numeric(column, errors="coerce")
    values: FloatArray = numbers.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    values[~(np.abs(values) < LARGEST)] = np.nan
    return values


def is_present(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows hold a value (N,)."""
    missing = np.isnan(values) if values.dtype == np.float64 else pd.isna(values)
    present: NDArray[np.bool_] = ~missing
    return present


def _is_numeric(column: pd.Series) -> bool:
    """Whether it is compared as numbers: also Decimals, and integers beside missing rows."""
    if pd.api.types.is_numeric_dtype(column):
        return not pd.api.types.is_complex_dtype(column)
    if column.dtype != np.object_ or not column.notna().any():
        return False
    numbers = pd.to_numeric(column, errors="coerce")
    return bool(numbers.notna().sum() == column.notna().sum())


def _labels(values: NDArray[Any], numeric: bool) -> tuple[str, ...]:
    """The labels of a column that is compared by them, else none."""
    # The first rows tell it of nearly every column, and are sorted sooner than all.
    if numeric and any(np.unique(part).size > FEW_VALUES for part in (values[:100], values)):
        return ()
    counted = pd.Series([_label(value) for value in values]).value_counts()
    kept = sorted(counted.index[:MOST_LABELS])
    return (*kept, OTHER) if len(counted) > MOST_LABELS else tuple(kept)


def _label(value: Any) -> str:
    """A label as text; 1 and 1.0 are one label, for a missing row turns integers into floats."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
