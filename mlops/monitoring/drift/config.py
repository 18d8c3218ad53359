"""How sure a drift check must be, so that false alarms stay within a budget per 30 days."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from mlops.errors import SettingsError
from mlops.stats.jumps import BARS

MIN_WINDOW_BARS = 24
JUMP_SHARE = 2 / 3
"""What jumps of what is forecast take of the budget, where they are watched; windows the rest."""

FAST_SHARE = 0.1
"""What the fast path may add: so little, for its looks repeat one another, that it adds none."""

SEVERE = 10
"""How many times rarer than a decision by chance a loss must be to retrain at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """What counts as drift.

    ``alpha`` is the level at which a window is worth watching, ``false_alarm_budget`` the
    chance that ``budget_days`` without drift ask for a retraining.
    ``effect_threshold`` is the least Kolmogorov distance beyond the usual one; a significant
    change below it is watched only. ``step`` is the length of a bar.

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
        """K: whole windows, one after the other, in a budget's days; at least one."""
        return max(1, self.budget_span // (self.window_bars * self.step))

    @property
    def looks_per_budget(self) -> int:
        """Bars, and so looks of the fast path, in a budget's days."""
        return max(1, self.budget_span // self.step)

    def notice_level(self, families: int) -> float:
        """Level within a family of columns at which a window is worth watching."""
        return self.alpha / max(families, 1)

    def decision_level(self, families: int, *, watched: int = 0) -> float:
        """Level within a family at which one window asks for a retraining.

        ``watched`` counts the columns whose jumps take their share of the same budget.
        """
        share = 1.0 - JUMP_SHARE if watched else 1.0
        return share * self.false_alarm_budget / (self.windows_per_budget * max(families, 1))

    def repeated_level(self, families: int, *, watched: int = 0) -> float:
        """Level at which the same column must be rejected in two windows in a row."""
        return math.sqrt(self.decision_level(families, watched=watched))

    def severe_level(self, families: int, *, watched: int = 0) -> float:
        """Level at which a loss alone asks for a retraining at once."""
        return self.decision_level(families, watched=watched) / SEVERE

    def jump_level(self, watched: int) -> float:
        """Level of one column's largest jump in all looks of a budget."""
        return JUMP_SHARE * self.false_alarm_budget / max(watched, 1)

    def fast_level(self, columns: int) -> float:
        """Level of one column at one look of the fast path."""
        share = FAST_SHARE * self.false_alarm_budget
        return share / (self.looks_per_budget * max(columns, 1))

    @property
    def history_bars(self) -> int:
        """Rows, up to the last bar, that a look reads."""
        return max(self.window_bars, BARS)
