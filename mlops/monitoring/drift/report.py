"""Drift of a window of columns against a reference, as one report. Pure functions.

    columns -> test each -> reject at each level -> recommend -> DriftReport

`check_drift` judges one window by itself. `judge_hourly` does so in the hourly look at a service,
with the state that keeps false alarms within their budget.
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
    """Whether any column could be judged."""

    JUDGED = "judged"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """The verdict on one window.

    Attributes:
        score: Largest effect among the columns that were noticed or led to the recommendation;
            0 where there are none. An effect is a Kolmogorov distance beyond the usual one
            between windows of the reference, 0 to 1.
        window_bars: Bars of the window.
        official: Whether the window decides, or is a look between decision windows.
        behind: The columns that led to the recommendation.
        reasons: The reasons for it, in sentences.
        advice: What limits the report, in sentences.
        suggested_window: Longest window (bars) that the references of all columns support; 0
            where there is none.
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
        """The score among the columns of a family; NaN where none of them could be tested."""
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
        values: dict[str, Any] = to_json(asdict(self))
        return values | {
            "drift_detected": self.drift_detected,
            "performance_degraded": self.performance_degraded,
        }

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
                "columns": tuple(
                    ColumnDrift(
                        **column
                        | {
                            "role": Role(column["role"]),
                            "status": ColumnStatus(column["status"]),
                        }
                    )
                    for column in known["columns"]
                ),
            }
        )

    def __str__(self) -> str:
        head = f"{self.recommendation} (score {self.score:.3f}, {self.window_bars} bars)"
        width = max((len(column.name) for column in self.columns), default=0)
        rows = [f"  {c.name:<{width}}  {c.figures}  {c.reason}".rstrip() for c in self.columns]
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
    """Judge the last window of ``current``, whole or shorter.

    Bad data is a status of a column in the report, never an error.

    >>> import numpy as np
    >>> rng = np.random.default_rng(7)
    >>> bars = pd.DataFrame({"volume": rng.normal(size=3168), "spread": rng.normal(size=3168)})
    >>> bars.loc[3000:, "spread"] += 1.0
    >>> roles = {"volume": Role.FEATURE, "spread": Role.FEATURE}
    >>> reference = fit_reference(bars[:3000], roles, window_bars=168)
    >>> report = check_drift(reference, bars)
    >>> str(report.recommendation), report.behind, report["spread"].direction
    ('RETRAIN_SOON', ('spread',), 'up')

    Args:
        current: One row a bar, in time order. The last ``config.window_bars`` rows are the
            window. With `DriftConfig.history_bars` rows, jumps of targets are judged as well.
        before: What the window before it rejected.
    """
    config = config or DriftConfig()
    window = current.iloc[-config.window_bars :]
    columns = _check_columns(reference, current, config)
    rejections = _reject_columns(reference, columns, config)
    decision = recommend(rejections, columns, before=before)
    return _report(columns, rejections, decision, config, len(window))


def first_state(reference: DriftReference) -> DriftState:
    """The state of a version that goes live: its first window begins after its reference."""
    return DriftState(seen_until=reference.ends_at)


def judge_hourly(
    reference: DriftReference,
    current: pd.DataFrame,
    state: DriftState,
    config: DriftConfig | None = None,
) -> tuple[DriftReport, DriftState]:
    """Judge the last bars of a service, and decide where a decision window is complete.

    The same bar decides nothing twice. Bars of the reference ask for no retraining, because the
    version was trained on them.

    Args:
        current: The last `DriftConfig.history_bars` rows, those of the reference included.
        state: The state after the look before, or `first_state`.

    Returns:
        The report, and the state to keep in the place of ``state``.

    Raises:
        DataError: when the rows have no ascending times, by which windows are kept apart.
    """
    config = config or DriftConfig()
    history = _open_times(current)
    times = history[-config.window_bars :]
    columns = _check_columns(reference, current, config)
    rejections = drop_known_changes(
        _reject_columns(reference, columns, config), reference.ends_at, history, config
    )
    if not len(times):
        decision = recommend_between_windows(rejections, columns)
        return _report(columns, rejections, decision, config, 0, official=False), state
    due = is_window_due(state, times, config)
    fast_before = fast_at_look_before(state, times, config)
    latest = state.recent[-1] if state.recent else None
    decision = (
        recommend(rejections, columns, before=latest, fast_before=fast_before)
        if due
        else recommend_between_windows(rejections, columns, latest=latest, fast_before=fast_before)
    )
    report = _report(columns, rejections, decision, config, len(times), official=due)
    return report, advance_state(state, rejections, times, config, due=due)


def _check_columns(
    reference: DriftReference, current: pd.DataFrame, config: DriftConfig
) -> tuple[ColumnDrift, ...]:
    columns = columns_by_name(current)
    return tuple(
        check_column(column, columns.get(column.name), window_bars=config.window_bars)
        for column in reference.columns
    )


def _reject_columns(
    reference: DriftReference, columns: Sequence[ColumnDrift], config: DriftConfig
) -> Rejections:
    return reject_columns(
        columns,
        config,
        families=reference.families,
        testable=reference.testable,
        watched_for_jumps=reference.watched_for_jumps,
    )


def _open_times(rows: pd.DataFrame) -> pd.DatetimeIndex:
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
    rejections: Rejections,
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
        score=_score(tested, rejections, decision.columns),
        window_bars=rows,
        official=official,
        behind=decision.columns,
        rejections=rejections,
        reasons=decision.reasons,
        advice=advise(columns, tested, rejections, config, rows),
        suggested_window=min(supported, default=0),
        columns=columns,
    )


def _score(tested: Sequence[ColumnDrift], rejections: Rejections, behind: Sequence[str]) -> float:
    rejected = {*rejections.noticed, *behind}
    return max((_effect_of(c, rejections) for c in tested if c.name in rejected), default=0.0)


def _effect_of(column: ColumnDrift, rejections: Rejections) -> float:
    """The effect of a column; of a jump, the Kolmogorov distance of two normals that far apart.

    Normals of variance 1 whose means differ by d are erf(d / sqrt(8)) apart.
    """
    if column.name not in rejections.jumped:
        return column.effect
    return max(column.effect, math.erf(abs(column.jump) / math.sqrt(8.0)))
