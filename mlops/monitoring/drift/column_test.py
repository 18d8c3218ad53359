"""Tests a window of one column against its reference; each test is one row of the report.

    absent -> broken -> too little data -> tested (p-value, effect, shift) -> jump

The first of these that applies is the status of the row. Bad data is a status, never an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import BoolArray, FloatArray
from mlops.json_values import number
from mlops.monitoring.drift.columns import (
    ColumnReference,
    Family,
    Role,
    is_present,
    longest_run,
    measured_rows,
    read_values,
)
from mlops.monitoring.drift.config import MIN_WINDOW_BARS
from mlops.stats.jumps import BARS, jump_p_values, measure_jumps
from mlops.stats.window_null import NumericNull, WindowNull

MIN_REFERENCE_BARS = 1000
MIN_WINDOWS = 10
"""A reference must be this many times as long as the window."""

MIN_INDEPENDENT = 6.0
"""A reference must be worth this many independent windows, or its p-values are too coarse."""

MIN_PRESENT = 0.8
"""Share of the rows of a window that must hold a value."""
STUCK_BARS = 12
"""Bars in a row with one value that make a feed look stuck."""
MISSING_LEVEL = 0.01
"""Level at which a window has more missing rows than the reference."""


class ColumnStatus(StrEnum):
    """The outcome of a column's test; a quality problem raises an alert but retrains nothing."""

    TESTED = "tested"
    UNCHANGED = "unchanged"
    INSUFFICIENT_DATA = "insufficient_data"
    ABSENT = "absent"
    ALL_MISSING = "all_missing"
    MANY_MISSING = "many_missing"
    CONSTANT_CHANGED = "constant_changed"
    STUCK = "stuck"

    @property
    def is_quality_problem(self) -> bool:
        return self in _QUALITY_PROBLEMS


_QUALITY_PROBLEMS = frozenset(
    {
        ColumnStatus.ABSENT,
        ColumnStatus.ALL_MISSING,
        ColumnStatus.MANY_MISSING,
        ColumnStatus.CONSTANT_CHANGED,
        ColumnStatus.STUCK,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift:
    """One row of the report; NaN where a number does not exist.

    Attributes:
        n: Usable bars of the window.
        reference_bars: Usable bars of the reference.
        effect: Kolmogorov distance to the reference beyond the usual one.
        location: Shift in standard deviations: of normal scores, or of the loss of one bar.
        scale: Spread of the window as a multiple of the reference's.
        worst_quantile: Quantile of the reference at which the difference is largest.
        distance: Wasserstein distance in standard deviations of the reference.
        tau: Bars that are worth one independent bar.
        independent_windows: Independent windows of n bars that the reference is worth.
        largest_window: Longest window (bars) that the reference supports.
        jump: Mean normal score of the last day less that of the month before.
        jump_p_value: Chance of a jump as large in a whole budget's days without a change.
    """

    name: str
    role: Role
    status: ColumnStatus
    reason: str
    n: int = 0
    reference_bars: int = 0
    p_value: float = math.nan
    effect: float = math.nan
    location: float = math.nan
    scale: float = math.nan
    worst_quantile: float = math.nan
    distance: float = math.nan
    tau: float = math.nan
    independent_windows: float = math.nan
    largest_window: int = 0
    missing_share: float = math.nan
    missing_p_value: float = math.nan
    jump: float = math.nan
    jump_p_value: float = math.nan

    def __post_init__(self) -> None:
        for name in _FLOAT_FIELDS:
            object.__setattr__(self, name, number(getattr(self, name)))

    @property
    def family(self) -> Family:
        return self.role.family

    @property
    def is_quality_problem(self) -> bool:
        """Whether the column came in broken, or with more missing rows than in the reference."""
        return self.status.is_quality_problem or self.missing_p_value < MISSING_LEVEL

    @property
    def quality_reason(self) -> str:
        """What is wrong with the column; only for one with a quality problem."""
        if self.status.is_quality_problem:
            return self.reason
        share = f"{self.missing_share:.1%}"
        return f"{share} of the rows are missing, more than ever in the reference"

    @property
    def figures(self) -> str:
        """The figures of a test as text; the status where there was no test."""
        if self.status is not ColumnStatus.TESTED:
            return f"{self.status:<18}"
        change = f"{self.direction:<4} scale={self.scale:.2f}"
        return f"p={self.p_value:.2g} effect={self.effect:.3f} {change}"

    @property
    def direction(self) -> str:
        """Which way the values went: "up", "down", or "" where there is no shift."""
        if not math.isfinite(self.location) or self.location == 0.0:
            return ""
        return "up" if self.location > 0 else "down"


_FLOAT_FIELDS = tuple(field.name for field in fields(ColumnDrift) if field.type == "float")


@dataclass(frozen=True, slots=True)
class _Window:
    """The present values of a column's window, raw and as numbers (n,).

    ``missing`` says which rows lack a value. Rows before the first known outcome, or after the
    last, are left out of it.
    """

    raw: NDArray[Any]
    values: FloatArray
    rows: int
    missing: BoolArray

    @classmethod
    def of(cls, reference: ColumnReference, column: pd.Series) -> Self:
        values = read_values(column, reference.numeric)
        present = is_present(values)
        # Rows before the first outcome or after the last known one are no fault of the feed.
        late = reference.role.is_late
        rows = measured_rows(present, reference.role) if late else slice(0, len(column))
        raw = values[present]
        return cls(raw, reference.encode(raw), len(column), ~present[rows])

    @property
    def n(self) -> int:
        return self.values.size

    @property
    def missing_share(self) -> float:
        return float(self.missing.mean()) if self.missing.size else math.nan


def largest_window(null: WindowNull) -> int:
    """The longest window (bars) that the reference supports; 0 where it supports none."""
    independent = math.floor(null.size / MIN_INDEPENDENT - null.tau)
    longest = min(null.size // MIN_WINDOWS, independent)
    enough = null.size >= MIN_REFERENCE_BARS and longest >= MIN_WINDOW_BARS
    return longest if enough else 0


def check_column(
    reference: ColumnReference, column: pd.Series | None, *, window_bars: int
) -> ColumnDrift:
    """Test the last window of a column against its reference.

    Args:
        column: Values in time order. The last ``window_bars`` are tested; jumps are measured on
            the rows before them as well. None where the column is absent.
    """
    if column is None:
        return _untested(reference, None, ColumnStatus.ABSENT, "the column is absent")
    window = _Window.of(reference, column.iloc[-window_bars:])
    untested = _find_broken(reference, window) or _find_too_little(reference, window)
    if untested:
        return untested
    row, null = _test(reference, window), reference.null
    if reference.jumps is None or not isinstance(null, NumericNull):
        return row
    history = read_values(column, numeric=True)
    history = history[is_present(history)][-BARS:]
    if history.size < BARS:
        return row
    jump = measure_jumps(null.ordered.normal_scores(history))
    p_value = float(jump_p_values(reference.jumps, jump)[0])
    return replace(row, jump=float(jump[0]), jump_p_value=p_value)


def _find_broken(reference: ColumnReference, window: _Window) -> ColumnDrift | None:
    """The row of a broken or constant window; None where the window can be tested."""
    constant = reference.constant
    if not window.rows:
        return None
    if not window.n and not reference.role.is_late:
        return _untested(reference, window, ColumnStatus.ALL_MISSING, "no row holds a value")
    if constant is not None and window.n and reference.bars >= MIN_REFERENCE_BARS:
        others = reference.other_values(window.raw)
        status = ColumnStatus.CONSTANT_CHANGED if others else ColumnStatus.UNCHANGED
        changed = f"always {constant} in the reference, now {', '.join(others[:3])}"
        return _untested(reference, window, status, changed if others else "constant, as ever")
    if window.rows >= MIN_WINDOW_BARS and window.missing_share > 1.0 - MIN_PRESENT:
        reason = f"{window.missing_share:.0%} of the rows are missing"
        return _untested(reference, window, ColumnStatus.MANY_MISSING, reason)
    run, limit = longest_run(window.values), max(STUCK_BARS, reference.longest_run + 1)
    if reference.null is not None and reference.longest_run and run >= limit:
        reason = (
            f"one value came {run} times in a row, in the reference at most "
            f"{reference.longest_run}: is the feed stuck?"
        )
        return _untested(reference, window, ColumnStatus.STUCK, reason)
    return None


def _find_too_little(reference: ColumnReference, window: _Window) -> ColumnDrift | None:
    """The row of a window or reference that is too short for a test; None where both suffice."""
    null = reference.null
    if not reference.bars:
        reason = "the reference holds no value of it"
    elif null is None or reference.bars < MIN_REFERENCE_BARS:
        reason = f"the reference has {reference.bars:,} bars, {MIN_REFERENCE_BARS:,} are needed"
    elif window.n < MIN_WINDOW_BARS:
        reason = f"{window.n} usable bars, at least {MIN_WINDOW_BARS} are needed"
    elif window.n > largest_window(null):
        reason = (
            f"a reference of {null.size:,} bars is worth {null.independent_windows(window.n):.1f} "
            f"independent windows of {window.n}, at least {MIN_INDEPENDENT:.0f} are needed"
        )
    else:
        return None
    return _untested(reference, window, ColumnStatus.INSUFFICIENT_DATA, reason)


def _test(reference: ColumnReference, window: _Window) -> ColumnDrift:
    null, missing_null = reference.null, reference.missing
    assert null is not None
    result = null.check(window.values)
    unseen = reference.unseen(window.raw)[:3]
    distance = missing_p_value = math.nan
    if isinstance(null, NumericNull):
        distance = null.ordered.wasserstein(window.values) / null.deviation
    size = window.missing.size
    if missing_null is not None and MIN_WINDOW_BARS <= size <= largest_window(missing_null):
        missing = window.missing.astype(np.float64)
        missing_p_value = float(missing_null.check(missing).p_value[0])
    return ColumnDrift(
        name=reference.name,
        role=reference.role,
        status=ColumnStatus.TESTED,
        reason=f"never seen before: {', '.join(unseen)}" if unseen else "",
        n=window.n,
        reference_bars=reference.bars,
        p_value=float(result.p_value[0]),
        effect=float(result.effect[0]),
        location=float(result.location[0]) * reference.sign,
        scale=float(result.scale[0]),
        worst_quantile=float(result.worst_quantile[0]),
        distance=distance,
        tau=null.tau,
        independent_windows=null.independent_windows(window.n),
        largest_window=largest_window(null),
        missing_share=window.missing_share,
        missing_p_value=missing_p_value,
    )


def _untested(
    reference: ColumnReference, window: _Window | None, status: ColumnStatus, reason: str
) -> ColumnDrift:
    null = reference.null
    return ColumnDrift(
        name=reference.name,
        role=reference.role,
        status=status,
        reason=reason,
        n=window.n if window else 0,
        reference_bars=reference.bars,
        tau=null.tau if null else math.nan,
        largest_window=largest_window(null) if null else 0,
        missing_share=window.missing_share if window else math.nan,
    )
