"""Are the bars that a look saw sound? Columns that came in broken, bars missing or come twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import pandas as pd

from mlops.data.calendar import Calendar, missing_before
from mlops.monitoring.drift.report import DriftReport
from mlops.service import Timeframe
from mlops.store.alerts import Condition, Severity, Trouble, raise_alert, recover_alert
from mlops.store.engine import Connection
from mlops.store.monitor_runs import CheckRow

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


def tell_of_data(connection: Connection, row: CheckRow, report: DriftReport) -> None:
    """Raise what is wrong with the data of a look; a look at a window that is sound ends it."""
    bars = BarCounts.from_dict(row.bars or {"expected": 0, "present": 0})
    problems = find_data_problems(report, bars)
    if problems:
        trouble = Trouble(
            Condition.DATA_QUALITY,
            row.service,
            row.model_id,
            f"{row.model_id} is given data that are not sound",
            "; ".join(problems),
            detail={"check": row.id, "problems": list(problems), **bars.to_dict()},
        )
        raise_alert(connection, trouble, at=row.at)
    elif not find_data_problems(report, bars, most_missing=MOST_MISSING / 2):
        recover_alert(
            connection,
            condition=Condition.DATA_QUALITY,
            service=row.service,
            subject=row.model_id,
            at=row.at,
            text=f"the newest {bars.present:,} bars are sound",
        )


def tell_of_unreadable(
    connection: Connection, service: str, model_id: str, *, why: str, at: datetime
) -> None:
    """Raise that a version could not be looked at, because its bars break the contract."""
    trouble = Trouble(
        Condition.DATA_QUALITY,
        service,
        model_id,
        f"{model_id} is given data that cannot be read",
        why,
        Severity.CRITICAL,
    )
    raise_alert(connection, trouble, at=at)
