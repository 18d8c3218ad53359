"""Has the world left what a version was trained on? One call, one frozen report.

`check_drift` judges one window by itself; `judge_hourly` is the same within a service's hourly run,
with the state that keeps false alarms in budget. Neither reads or writes anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import pandas as pd

from mlops.errors import DataError
from mlops.json_values import from_json, to_json
from mlops.monitoring.drift.advice import advise
from mlops.monitoring.drift.column_test import ColumnDrift, ColumnStatus, check_column
from mlops.monitoring.drift.columns import Family, Role
from mlops.monitoring.drift.config import DriftConfig
from mlops.monitoring.drift.recommendation import (
    Decision,
    DriftState,
    Recommendation,
    Rejections,
    advance_state,
    drop_known_changes,
    fast_at_look_before,
    is_window_due,
    recommend,
    recommend_between_windows,
    reject_columns,
)
from mlops.monitoring.drift.reference import DriftReference, columns_by_name, fit_reference

__all__ = [
    "ColumnDrift",
    "ColumnStatus",
    "DriftConfig",
    "DriftReference",
    "DriftReport",
    "DriftState",
    "Family",
    "Recommendation",
    "ReportStatus",
    "Role",
    "check_drift",
    "first_state",
    "fit_reference",
    "judge_hourly",
]


class ReportStatus(StrEnum):
    """Whether anything could be judged."""

    JUDGED = "judged"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """The verdict on one window.

    ``score`` is the largest effect over the columns noticed or behind the recommendation, else
    0: the Kolmogorov distance beyond what is usual between windows of the reference.
    ``official`` says that the window decides, rather than shows what an hour looks like.
    ``behind`` are the columns that led to the recommendation. ``suggested_window`` is the
    longest window (bars) that every column's reference supports, 0 where there is none.
    """

    status: ReportStatus
    recommendation: Recommendation
    score: float
    window_bars: int
    official: bool
    behind: tuple[str, ...]
    rejections: Rejections
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    suggested_window: int
    columns: tuple[ColumnDrift, ...]

    @property
    def drift_detected(self) -> bool:
        """Whether a changed feature, target or forecast asks for a retraining."""
        return self.recommendation.asks_for_retraining and any(
            column.family is not Family.LOSSES for column in self._behind()
        )

    @property
    def performance_degraded(self) -> bool:
        """Whether lost skill asks for a retraining."""
        return self.recommendation.asks_for_retraining and any(
            column.family is Family.LOSSES for column in self._behind()
        )

    def __getitem__(self, name: str) -> ColumnDrift:
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns)
        raise KeyError(f"no column {name!r} in the report; it has {known}")

    def score_of(self, family: Family) -> float:
        """The score of one family's columns; NaN where none of them could be tested."""
        tested = [
            column
            for column in self.columns
            if column.family is family and column.status is ColumnStatus.TESTED
        ]
        if not tested:
            return math.nan
        return _score(tested, self.rejections, self.behind)

    def to_dict(self) -> dict[str, Any]:
        """JSON-legal; a number that does not exist becomes null with a flag beside it."""
        found = {
            "drift_detected": self.drift_detected,
            "performance_degraded": self.performance_degraded,
        }
        values: dict[str, Any] = to_json(asdict(self))
        return values | found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back, exactly."""
        known: dict[str, Any] = from_json(dict(values))
        del known["drift_detected"], known["performance_degraded"]
        rejections = {key: tuple(names) for key, names in known["rejections"].items()}
        return cls(
            **known
            | {name: tuple(known[name]) for name in ("behind", "reasons", "advice")}
            | {
                "status": ReportStatus(known["status"]),
                "recommendation": Recommendation(known["recommendation"]),
                "rejections": Rejections(**rejections),
                "columns": tuple(_column(one) for one in known["columns"]),
            }
        )

    def __str__(self) -> str:
        head = f"{self.recommendation} (score {self.score:.3f}, {self.window_bars} bars)"
        width = max((len(column.name) for column in self.columns), default=0)
        rows = [f"  {c.name:<{width}}  {_numbers(c)}  {c.reason}".rstrip() for c in self.columns]
        return "\n".join([head, *(f"  {line}" for line in (*self.reasons, *self.advice)), *rows])

    def _behind(self) -> list[ColumnDrift]:
        return [column for column in self.columns if column.name in self.behind]


def check_drift(
    reference: DriftReference,
    current: pd.DataFrame,
    config: DriftConfig | None = None,
    *,
    before: Rejections | None = None,
) -> DriftReport:
    """Judge the last ``window_bars`` rows of ``current``, or all if there are fewer.

    ``current`` holds one row a bar, in time order; with `DriftConfig.history_bars` rows the
    jumps of targets are judged as well; ``before`` is what the window before it
    rejected. Whatever is wrong with the data is a status of a column, never an error.
    """
    config = config or DriftConfig()
    window = current.iloc[-config.window_bars :]
    columns = _check(reference, current, config)
    found = _reject(reference, columns, config)
    return _report(columns, found, recommend(found, columns, before=before), config, len(window))


def first_state(reference: DriftReference) -> DriftState:
    """The state of a version that goes live: its first window begins after its reference."""
    return DriftState(seen_until=reference.ends_at)


def judge_hourly(
    reference: DriftReference,
    current: pd.DataFrame,
    state: DriftState,
    config: DriftConfig | None = None,
) -> tuple[DriftReport, DriftState]:
    """Look at the last bars of a service, as each hour does, and decide where a window is whole.

    ``current`` should hold the last `DriftConfig.history_bars` rows, those of the reference
    included. Returns the report and the state to keep in its place. Looking twice at the same bar
    decides nothing twice. What lies in the reference is no news: nothing asks for a retraining
    by bars that the version was trained on.

    Raises:
        DataError: when the rows carry no ascending times, without which windows cannot be
            told apart.
    """
    config = config or DriftConfig()
    known = _times(current)
    times = known[-config.window_bars :]
    columns = _check(reference, current, config)
    found = drop_known_changes(
        _reject(reference, columns, config), reference.ends_at, known, config
    )
    if not len(times):
        return _report(
            columns, found, recommend_between_windows(found, columns), config, 0, official=False
        ), state
    due = is_window_due(state, times, config)
    earlier = fast_at_look_before(state, times, config)
    latest = state.recent[-1] if state.recent else None
    judge = recommend(found, columns, before=latest, fast_before=earlier)
    decision = (
        judge
        if due
        else recommend_between_windows(found, columns, latest=latest, fast_before=earlier)
    )
    report = _report(columns, found, decision, config, len(times), official=due)
    return report, advance_state(state, found, times, config, due=due)


def _check(
    reference: DriftReference, current: pd.DataFrame, config: DriftConfig
) -> tuple[ColumnDrift, ...]:
    found = columns_by_name(current)
    return tuple(
        check_column(own, found.get(own.name), window_bars=config.window_bars)
        for own in reference.columns
    )


def _reject(
    reference: DriftReference, columns: Sequence[ColumnDrift], config: DriftConfig
) -> Rejections:
    return reject_columns(
        columns,
        config,
        families=reference.families,
        testable=reference.testable,
        watched_for_jumps=reference.watched_for_jumps,
    )


def _times(rows: pd.DataFrame) -> pd.DatetimeIndex:
    times = rows.index
    if not len(times):
        return pd.DatetimeIndex([])
    if not isinstance(times, pd.DatetimeIndex) or not times.is_monotonic_increasing:
        raise DataError(
            f"the rows to watch are indexed by {type(times).__name__} {times.dtype}; index them by "
            "ascending open times, or judge one window by itself with check_drift"
        )
    return times


def _report(
    columns: tuple[ColumnDrift, ...],
    found: Rejections,
    decision: Decision,
    config: DriftConfig,
    rows: int,
    *,
    official: bool = True,
) -> DriftReport:
    tested = [column for column in columns if column.status is ColumnStatus.TESTED]
    short = [column for column in columns if column.status is ColumnStatus.INSUFFICIENT_DATA]
    judged = bool(tested or (columns and not short))
    supported = [c.largest_window for c in columns if math.isfinite(c.tau)]
    return DriftReport(
        status=ReportStatus.JUDGED if judged else ReportStatus.INSUFFICIENT_DATA,
        recommendation=decision.recommendation,
        score=_score(tested, found, decision.columns),
        window_bars=rows,
        official=official,
        behind=decision.columns,
        rejections=found,
        reasons=decision.reasons,
        advice=advise(columns, tested, found, config, rows),
        suggested_window=min(supported, default=0),
        columns=columns,
    )


def _score(tested: Sequence[ColumnDrift], found: Rejections, behind: Sequence[str]) -> float:
    rejected = {*found.noticed, *behind}
    return max((_effect(c, found) for c in tested if c.name in rejected), default=0.0)


def _effect(column: ColumnDrift, found: Rejections) -> float:
    """How far a column changed: its distance, or the one that a jump as large makes of a normal."""
    if column.name not in found.jumped:
        return column.effect
    return max(column.effect, math.erf(abs(column.jump) / math.sqrt(8.0)))


def _numbers(column: ColumnDrift) -> str:
    if column.status is not ColumnStatus.TESTED:
        return f"{column.status:<18}"
    where = f"{column.direction:<4}"
    return f"p={column.p_value:.2g} effect={column.effect:.3f} {where} scale={column.scale:.2f}"


def _column(values: Mapping[str, Any]) -> ColumnDrift:
    words = {"role": Role(values["role"]), "status": ColumnStatus(values["status"])}
    return ColumnDrift(**{**values, **words})
