"""A window of one column against its reference: one frozen row of the report, whatever comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.json_values import number
from mlops.monitoring.drift.columns import (
    ColumnReference,
    Family,
    FloatArray,
    Role,
    is_present,
    longest_run,
    raw_values,
    trimmed,
)
from mlops.monitoring.drift.config import MIN_WINDOW_BARS
from mlops.stats.jumps import BARS, jump_p_values, jumps
from mlops.stats.window_null import NumericNull, WindowNull

MIN_REFERENCE_BARS = 1000
MIN_WINDOWS = 10
"""A reference must hold the window so many times ..."""

MIN_INDEPENDENT = 6.0
"""... and be worth so many independent ones, or its p-values mean little."""

MIN_PRESENT = 0.8
STUCK_BARS = 12
MISSING_LEVEL = 0.01


class ColumnStatus(StrEnum):
    """What became of a column's check; the quality problems never retrain, but are watched."""

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

    ``n`` counts the usable bars of the window, ``reference_bars`` those of the reference.
    ``effect`` is the Kolmogorov distance beyond the usual one; ``location`` the shift in
    standard deviations (of normal scores, of one bar's loss), ``scale`` the spread beside the
    reference's; ``worst_quantile`` where in the reference the difference is largest;
    ``distance`` the exact Wasserstein distance in standard deviations. ``tau`` is the bars that
    one independent bar is worth and ``independent_windows`` how many independent windows of n
    bars the reference is worth; ``largest_window`` the longest it supports. ``jump`` is the last
    day's mean normal score less that of the month before, and ``jump_p_value`` how likely a
    whole budget's span without a change holds one as large.
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
        for name in _NUMBERS:
            object.__setattr__(self, name, number(getattr(self, name)))

    @property
    def family(self) -> Family:
        return self.role.family

    @property
    def is_quality_problem(self) -> bool:
        """Whether the column came in broken, or with far more missing rows than ever."""
        return self.status.is_quality_problem or self.missing_p_value < MISSING_LEVEL

    @property
    def quality_reason(self) -> str:
        """What is wrong with the column; only for one with a quality problem."""
        if self.status.is_quality_problem:
            return self.reason
        share = f"{self.missing_share:.1%}"
        return f"{share} of the rows are missing, more than ever in the reference"

    @property
    def direction(self) -> str:
        """Where the values went: up, down, or nowhere that can be told."""
        if not math.isfinite(self.location) or self.location == 0.0:
            return ""
        return "up" if self.location > 0 else "down"


_NUMBERS = tuple(own.name for own in fields(ColumnDrift) if own.type == "float")


@dataclass(frozen=True, slots=True)
class _Window:
    """What a window holds of a column: its present values, raw and as numbers."""

    raw: NDArray[Any]
    values: FloatArray
    rows: int
    missing: NDArray[np.bool_]

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
    """Check the last window of a column, in time order, against its reference.

    The rows before the window tell jumps; None is an absent column. Nothing that comes in is
    an error: what cannot be tested says so in its status.
    """
    if column is None:
        return _untested(reference, None, ColumnStatus.ABSENT, "the column is absent")
    window = _read(reference, column.iloc[-window_bars:])
    found = _broken(reference, window) or _too_little(reference, window)
    return found or _with_jump(reference, column, _tested(reference, window))


def _with_jump(reference: ColumnReference, column: pd.Series, found: ColumnDrift) -> ColumnDrift:
    null = reference.null
    if reference.jumps is None or not isinstance(null, NumericNull):
        return found
    history = raw_values(column, numeric=True)
    history = history[is_present(history)][-BARS:]
    if history.size < BARS:
        return found
    jump = jumps(null.ordered.normal_scores(history))
    p_value = float(jump_p_values(reference.jumps, jump)[0])
    return replace(found, jump=float(jump[0]), jump_p_value=p_value)


def _read(reference: ColumnReference, column: pd.Series) -> _Window:
    values = raw_values(column, reference.numeric)
    present = is_present(values)
    # What came before the first outcome, or after the last known one, is no fault of the feed.
    rows = trimmed(present, reference.role) if reference.role.waits else slice(0, len(column))
    raw = values[present]
    return _Window(raw, reference.encode(raw), len(column), ~present[rows])


def _broken(reference: ColumnReference, window: _Window) -> ColumnDrift | None:
    """The quality problem of a window, or that a constant is still the same."""
    if not window.rows:
        return None
    if not window.n and not reference.role.waits:
        return _untested(reference, window, ColumnStatus.ALL_MISSING, "no row holds a value")
    if reference.constant is not None and window.n and reference.bars >= MIN_REFERENCE_BARS:
        return _constant(reference, window)
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


def _constant(reference: ColumnReference, window: _Window) -> ColumnDrift:
    others = reference.other_values(window.raw)
    if not others:
        return _untested(reference, window, ColumnStatus.UNCHANGED, "constant, as ever")
    reason = f"always {reference.constant} in the reference, now {', '.join(others[:3])}"
    return _untested(reference, window, ColumnStatus.CONSTANT_CHANGED, reason)


def _too_little(reference: ColumnReference, window: _Window) -> ColumnDrift | None:
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


def _tested(reference: ColumnReference, window: _Window) -> ColumnDrift:
    null = reference.null
    assert null is not None
    found = null.check(window.values)
    unseen = reference.unseen(window.raw)[:3]
    return ColumnDrift(
        name=reference.name,
        role=reference.role,
        status=ColumnStatus.TESTED,
        reason=f"never seen before: {', '.join(unseen)}" if unseen else "",
        n=window.n,
        reference_bars=reference.bars,
        p_value=float(found.p_value[0]),
        effect=float(found.effect[0]),
        location=float(found.location[0]) * reference.sign,
        scale=float(found.scale[0]),
        worst_quantile=float(found.worst_quantile[0]),
        distance=_distance(null, window.values),
        tau=null.tau,
        independent_windows=null.independent_windows(window.n),
        largest_window=largest_window(null),
        missing_share=window.missing_share,
        missing_p_value=_missing_p_value(reference, window),
    )


def _distance(null: WindowNull, values: FloatArray) -> float:
    if not isinstance(null, NumericNull):
        return math.nan
    return null.ordered.wasserstein(values) / null.deviation


def _missing_p_value(reference: ColumnReference, window: _Window) -> float:
    null = reference.missing
    if null is None or not MIN_WINDOW_BARS <= window.missing.size <= largest_window(null):
        return math.nan
    return float(null.check(window.missing.astype(np.float64)).p_value[0])


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
