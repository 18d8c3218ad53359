"""The significance levels of drift decisions, which keep false alarms within a budget.

    B  false_alarm_budget: the chance that 30 days without drift ask for a retraining
    K  windows_per_budget: decision windows in 30 days;  F  families of columns

    decision level = B (1 - JUMP_SHARE) / (K F)     jump level = B JUMP_SHARE / columns
    fast level     = B FAST_SHARE / (looks columns)

`JUMP_SHARE` counts as 0 where no column is watched for jumps. The sums are Bonferroni bounds over
windows, families and looks; within a family `benjamini_yekutieli` holds the level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from mlops.errors import SettingsError
from mlops.stats.jumps import BARS

MIN_WINDOW_BARS = 24
JUMP_SHARE = 2 / 3
"""Share of the budget that goes to jumps of the target, where they are watched."""

FAST_SHARE = 0.1
"""What the fast path may add to the budget, as a share of it.

Its looks overlap in nearly all of their bars, so that the path adds hardly any false alarm.
"""

SEVERE = 10
"""RETRAIN_IMMEDIATELY by a loss needs a p-value this many times below the decision level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """The settings of a drift check.

    Attributes:
        alpha: Level at which a window is worth watching.
        effect_threshold: Least Kolmogorov distance beyond the usual one that asks for a
            retraining; a smaller change, however significant, is watched only.
        window_bars: Length of a window.
        step: Length of a bar.
        false_alarm_budget: Chance that ``budget_days`` without drift ask for a retraining.

    Raises:
        SettingsError: when a value is out of range.
    """

    alpha: float = 0.05
    effect_threshold: float = 0.1
    window_bars: int = 168
    step: timedelta = timedelta(hours=1)
    false_alarm_budget: float = 0.05
    budget_days: int = 30

    def __post_init__(self) -> None:
        for name in ("alpha", "false_alarm_budget"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise SettingsError(f"{name}={getattr(self, name)!r} is no level between 0 and 1")
        if not 0.0 <= self.effect_threshold < 1.0:
            raise SettingsError(
                f"effect_threshold={self.effect_threshold!r} is no distance; choose 0 to below 1"
            )
        if self.window_bars < MIN_WINDOW_BARS:
            raise SettingsError(
                f"window_bars={self.window_bars} is below {MIN_WINDOW_BARS}, where only gross "
                "changes show; 168 is a week of hours"
            )
        if self.step <= timedelta(0) or self.budget_days < 1:
            raise SettingsError("step and budget_days must be positive")

    @property
    def budget_span(self) -> timedelta:
        return timedelta(days=self.budget_days)

    @property
    def windows_per_budget(self) -> int:
        """K: windows without overlap within the budget's days, at least 1."""
        return max(1, self.budget_span // (self.window_bars * self.step))

    @property
    def looks_per_budget(self) -> int:
        """Looks of the fast path within the budget's days: one a bar, at least 1."""
        return max(1, self.budget_span // self.step)

    def notice_level(self, families: int) -> float:
        """Level within a family of columns at which a window is worth watching."""
        return self.alpha / max(families, 1)

    def decision_level(self, families: int, *, watched: int = 0) -> float:
        """Level within a family at which one window asks for a retraining.

        Args:
            families: Families among which the level is divided.
            watched: Columns that are watched for jumps; any take `JUMP_SHARE` of the budget.
        """
        share = 1.0 - JUMP_SHARE if watched else 1.0
        return share * self.false_alarm_budget / (self.windows_per_budget * max(families, 1))

    def repeated_level(self, families: int, *, watched: int = 0) -> float:
        """Level at which a column must be rejected in two windows in a row to ask for a retraining.

        Two independent windows are both rejected by chance with the decision level.
        """
        return math.sqrt(self.decision_level(families, watched=watched))

    def severe_level(self, families: int, *, watched: int = 0) -> float:
        """Level at which a loss by itself asks for RETRAIN_IMMEDIATELY."""
        return self.decision_level(families, watched=watched) / SEVERE

    def jump_level(self, watched: int) -> float:
        """Level for the largest jump of one column in all looks of the budget's days."""
        return JUMP_SHARE * self.false_alarm_budget / max(watched, 1)

    def fast_level(self, columns: int) -> float:
        """Level for one column at one look of the fast path."""
        share = FAST_SHARE * self.false_alarm_budget
        return share / (self.looks_per_budget * max(columns, 1))

    @property
    def history_bars(self) -> int:
        """Rows that a look reads: those of a window, or of the month before a jump."""
        return max(self.window_bars, BARS)
