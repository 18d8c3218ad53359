"""Are the bars that a look saw sound? Columns that came in broken, bars missing or come twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import pandas as pd

from mlops.data.calendar import Calendar, missing_before
from mlops.monitoring.drift.report import DriftReport
from mlops.service import Timeframe

MOST_MISSING = 0.02
"""More of a window's bars missing than this is trouble; it ends at half of it."""


@dataclass(frozen=True, slots=True)
class BarCounts:
    """The bars of a window: how many the market could trade and how many are there.

    ``repeated`` counts bars that came more than once.
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
        """From the opens of the window's bars as they ``came``, and of those that could be used."""
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
    """What is wrong with the data, a sentence each.

    That a column has more missing rows than ever is a matter of chance: it counts in windows that
    decide, while what came in broken counts at every look.
    """
    found = [
        f"{column.name}: {column.reason or 'far more missing rows than in the reference'}"
        for column in report.columns
        if column.status.is_quality_problem or (report.official and column.is_quality_problem)
    ]
    if 1.0 - bars.completeness > most_missing:
        missing = bars.expected - bars.present
        found.append(f"{missing:,} of {bars.expected:,} bars are missing")
    if bars.repeated:
        found.append(f"{bars.repeated:,} bars came more than once")
    return tuple(found)


def is_data_sound(report: DriftReport, bars: BarCounts) -> bool:
    """Whether the data of a look is sound enough to end an alert.

    Missing bars must be at most half of `MOST_MISSING`, so that an alert does not come and go.
    """
    return not find_data_problems(report, bars, most_missing=MOST_MISSING / 2)
