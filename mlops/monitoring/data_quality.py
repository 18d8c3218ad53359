"""Finds what is wrong with the bars of a look: broken columns, missing bars, repeated bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import pandas as pd

from mlops.data.calendar import Calendar, missing_before
from mlops.monitoring.drift.report import DriftReport
from mlops.service import Timeframe

MOST_MISSING = 0.02
"""A window with a larger share of missing bars raises an alert; half of it ends the alert."""


@dataclass(frozen=True, slots=True)
class BarCounts:
    """Counts of the bars of a window.

    Attributes:
        expected: Bars that the market could trade.
        present: Bars that can be used.
        repeated: Bars that came more than once.
    """

    expected: int
    present: int
    repeated: int = 0

    @classmethod
    def of(
        cls,
        came: pd.DatetimeIndex,
        used: pd.DatetimeIndex,
        *,
        timeframe: Timeframe,
        calendar: Calendar,
    ) -> Self:
        """Count the bars of a window.

        Args:
            came: The opens of the bars as they came, with repetitions; may begin earlier.
            used: The opens of the window's bars that can be used.
        """
        if not len(used):
            return cls(0, 0)
        missing = int(missing_before(used, timeframe, calendar).sum())
        repeated = int(came[came >= used[0]].duplicated().sum())
        return cls(len(used) + missing, len(used), repeated)

    @property
    def completeness(self) -> float:
        return self.present / self.expected if self.expected else 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back."""
        return cls(**values)


def find_data_problems(
    report: DriftReport, bars: BarCounts, *, most_missing: float = MOST_MISSING
) -> tuple[str, ...]:
    """Say what is wrong with the data of a look, a sentence for each problem.

    A column that came in broken counts at every look. A column with more missing rows than in the
    reference is a test with a false-positive rate, so it counts only in windows that decide.
    """
    problems = [
        f"{column.name}: {column.reason or 'far more missing rows than in the reference'}"
        for column in report.columns
        if column.status.is_quality_problem or (report.official and column.is_quality_problem)
    ]
    if 1.0 - bars.completeness > most_missing:
        missing = bars.expected - bars.present
        problems.append(f"{missing:,} of {bars.expected:,} bars are missing")
    if bars.repeated:
        problems.append(f"{bars.repeated:,} bars came more than once")
    return tuple(problems)


def is_data_sound(report: DriftReport, bars: BarCounts) -> bool:
    """Whether the data of a look is sound enough to end an alert.

    Missing bars must be at most half of `MOST_MISSING`, so that an alert does not come and go.
    """
    return not find_data_problems(report, bars, most_missing=MOST_MISSING / 2)
