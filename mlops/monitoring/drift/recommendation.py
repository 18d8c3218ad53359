"""Turns the p-values of a window into a recommendation, within a budget of false alarms.

    p-values -> Rejections at each level -> Decision;  DriftState -> DriftState

Decision windows do not overlap. There are K of them in 30 days, each tested at 1/K of its share
of the budget: RETRAIN_SOON needs one window that rejects a column at that level, or two in a row
that reject the same column at its square root. Looks between decision windows spend the other
share on jumps of the target. They also have a fast path for changes too large to wait for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

import pandas as pd

from mlops.monitoring.drift.column_test import ColumnDrift, ColumnStatus
from mlops.monitoring.drift.columns import Family, Role
from mlops.monitoring.drift.config import DriftConfig
from mlops.stats.jumps import RECENT
from mlops.stats.selection import benjamini_yekutieli

FAST_EFFECT = 0.3
"""Least Kolmogorov distance beyond the usual one for a rejection on the fast path."""


class Recommendation(StrEnum):
    """What to do, from least to most urgent."""

    NO_ACTION_NEEDED = "NO_ACTION_NEEDED"
    MONITOR_CLOSELY = "MONITOR_CLOSELY"
    RETRAIN_SOON = "RETRAIN_SOON"
    RETRAIN_IMMEDIATELY = "RETRAIN_IMMEDIATELY"

    @property
    def asks_for_retraining(self) -> bool:
        return self in {Recommendation.RETRAIN_SOON, Recommendation.RETRAIN_IMMEDIATELY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejections:
    """The columns that one window rejects, by level.

    Attributes:
        noticed: Rejected at the level that is worth watching.
        repeated: Rejected at the level that decides if the window before rejected them as well.
        decided: Rejected at the decision level, with an effect beyond the threshold.
        severe: Losses rejected far below the decision level.
        lost: Losses rejected at ``alpha``.
        fast: Rejected at the level of a single look, with an effect beyond `FAST_EFFECT`.
        jumped: Targets that jumped within a day.
    """

    noticed: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    severe: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    fast: tuple[str, ...] = ()
    jumped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """What the looks at a version remember from one to the next.

    Attributes:
        windows: Decision windows so far.
        recent: The rejections of the last two of them, the newest last.
        seen_until: Time of the last bar of the last decision window (ISO 8601).
        budget_start: When the current budget began (ISO 8601).
        spent: Share of that budget that is used, 0 to 1.
        fast: Columns beyond the fast level at the last look.
        looked_at: Time of the last bar of the last look (ISO 8601).
    """

    windows: int = 0
    recent: tuple[Rejections, ...] = ()
    seen_until: str | None = None
    budget_start: str | None = None
    spent: float = 0.0
    fast: tuple[str, ...] = ()
    looked_at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back, also from JSON."""
        recent = tuple(
            Rejections(**{level: tuple(names) for level, names in window.items()})
            for window in values["recent"]
        )
        return cls(**{**values, "recent": recent, "fast": tuple(values["fast"])})


@dataclass(frozen=True, slots=True)
class Decision:
    """A recommendation, the columns that led to it, and the reasons in sentences."""

    recommendation: Recommendation
    columns: tuple[str, ...]
    reasons: tuple[str, ...]


def reject_columns(
    columns: Sequence[ColumnDrift],
    config: DriftConfig,
    *,
    families: int,
    testable: int,
    watched_for_jumps: Sequence[str] = (),
) -> Rejections:
    """Find the columns that a window rejects at each level.

    Within a family the procedure is Benjamini and Yekutieli's (2001), which holds under any
    dependence. The counts are those of the reference, so that no level depends on the window.

    Args:
        families: Families of columns in the reference.
        testable: Columns of the reference whose windows can be tested.
        watched_for_jumps: Names of the columns whose jumps are judged.
    """
    tested = [
        column
        for column in columns
        if column.status is ColumnStatus.TESTED and column.role is not Role.REALISED
    ]
    losses = [column for column in tested if column.family is Family.LOSSES]
    large = {
        column.name
        for column in tested
        if column.family is Family.LOSSES or column.effect >= config.effect_threshold
    }

    def large_at(level: float, among: Iterable[ColumnDrift] = tested) -> tuple[str, ...]:
        return tuple(name for name in _reject_by_family(among, level) if name in large)

    watched = len(watched_for_jumps)
    fast, jump = config.fast_level(testable), config.jump_level(watched)
    return Rejections(
        noticed=_reject_by_family(tested, config.notice_level(families)),
        repeated=_reject_by_family(tested, config.repeated_level(families, watched=watched)),
        decided=large_at(config.decision_level(families, watched=watched)),
        severe=large_at(config.severe_level(families, watched=watched), losses),
        lost=_reject_by_family(losses, config.alpha),
        fast=tuple(c.name for c in tested if c.p_value < fast and c.effect >= FAST_EFFECT),
        jumped=tuple(
            c.name for c in columns if c.name in watched_for_jumps and c.jump_p_value < jump
        ),
    )


def drop_known_changes(
    rejections: Rejections, ends_at: str | None, times: pd.DatetimeIndex, config: DriftConfig
) -> Rejections:
    """Drop the jumps and fast changes that happened within the bars of the reference.

    A version was trained on those bars, so it need not be retrained because of them. A change is
    kept only where all bars that it was measured on are younger than the reference.

    Args:
        ends_at: Time of the last bar of the reference (ISO 8601); None where it has no times.
        times: Open times of the bars looked at.
    """
    if ends_at is None:
        return rejections

    def are_new(bars: int) -> bool:
        return len(times) >= bars and _utc(times[-bars]) > _utc(ends_at)

    return replace(
        rejections,
        jumped=rejections.jumped if are_new(RECENT) else (),
        fast=rejections.fast if are_new(config.window_bars) else (),
    )


def recommend(
    rejections: Rejections,
    columns: Sequence[ColumnDrift],
    *,
    before: Rejections | None = None,
    fast_before: Sequence[str] = (),
) -> Decision:
    """Make the recommendation of a decision window.

    Args:
        columns: The checked columns, whose quality problems are reported too.
        before: What the decision window before it rejected.
        fast_before: The columns beyond the fast level at the look before.
    """
    repeated = _common(rejections.repeated, before.repeated if before else ())
    retrain = tuple(dict.fromkeys((*rejections.decided, *repeated, *rejections.jumped)))
    losses = {column.name for column in columns if column.family is Family.LOSSES}
    drifted = tuple(name for name in retrain if name not in losses)
    lost = rejections.lost or (before.lost if before else ())
    confirmed = _common(rejections.fast, fast_before)
    reasons: list[str] = []
    if rejections.severe:
        reasons.append(f"skill is lost beyond doubt ({_list_names(rejections.severe)})")
    if drifted and lost:
        reasons.append(
            f"data drifted ({_list_names(drifted)}) and skill is falling ({_list_names(lost)})"
        )
    if confirmed:
        reasons.append(f"a change too large to wait for is confirmed ({_list_names(confirmed)})")
    if reasons:
        urgent = tuple(dict.fromkeys((*rejections.severe, *retrain, *confirmed)))
        return Decision(Recommendation.RETRAIN_IMMEDIATELY, urgent, tuple(reasons))
    if retrain:
        if rejections.decided:
            reasons.append(f"drift beyond the budgeted level ({_list_names(rejections.decided)})")
        if repeated:
            reasons.append(f"the same columns in two windows in a row ({_list_names(repeated)})")
        if rejections.jumped:
            reasons.append(_jump_reason(rejections))
        return Decision(Recommendation.RETRAIN_SOON, retrain, tuple(reasons))
    return _recommend_watching(rejections, columns)


def recommend_between_windows(
    rejections: Rejections,
    columns: Sequence[ColumnDrift],
    *,
    latest: Rejections | None = None,
    fast_before: Sequence[str] = (),
) -> Decision:
    """Make the recommendation of a look between decision windows.

    Only jumps and the fast path can ask for a retraining. Otherwise what the latest decision
    window noticed stays in force.

    Args:
        latest: What the latest decision window rejected.
        fast_before: The columns beyond the fast level at the look before.
    """
    confirmed = _common(rejections.fast, fast_before)
    if confirmed:
        reason = f"a change too large to wait for is confirmed ({_list_names(confirmed)})"
        return Decision(Recommendation.RETRAIN_IMMEDIATELY, confirmed, (reason,))
    if rejections.jumped:
        return Decision(Recommendation.RETRAIN_SOON, rejections.jumped, (_jump_reason(rejections),))
    noticed = tuple(dict.fromkeys((*rejections.fast, *(latest.noticed if latest else ()))))
    return _recommend_watching(replace(rejections, noticed=noticed), columns)


def is_window_due(state: DriftState, window: pd.DatetimeIndex, config: DriftConfig) -> bool:
    """Whether a window may decide: it is whole, overlaps no earlier one, and the budget lasts.

    Args:
        window: Open times of its bars.
    """
    if len(window) < config.window_bars:
        return False
    begins = _utc(window[-config.window_bars])
    if state.seen_until is not None and begins <= _utc(state.seen_until):
        return False
    spent = 0.0 if _is_budget_renewed(state, window, config) else state.spent
    return spent + 1.0 / config.windows_per_budget <= 1.0 + 1e-9


def advance_state(
    state: DriftState,
    rejections: Rejections,
    window: pd.DatetimeIndex,
    config: DriftConfig,
    *,
    due: bool,
) -> DriftState:
    """The state after a look.

    Args:
        window: Open times of the bars of the window.
        due: Whether it was a decision window.
    """
    now = _utc(window[-1]).isoformat()
    after = replace(state, fast=rejections.fast, looked_at=now)
    if not due:
        return after
    renewed = _is_budget_renewed(state, window, config)
    return replace(
        after,
        windows=state.windows + 1,
        recent=(*state.recent, rejections)[-2:],
        seen_until=now,
        budget_start=now if renewed else state.budget_start,
        spent=(0.0 if renewed else state.spent) + 1.0 / config.windows_per_budget,
    )


def fast_at_look_before(
    state: DriftState, window: pd.DatetimeIndex, config: DriftConfig
) -> tuple[str, ...]:
    """The columns beyond the fast level at the look before.

    None where that look saw this very bar, which confirms nothing, or where it is too long ago.
    """
    if state.looked_at is None:
        return ()
    passed = _utc(window[-1]) - _utc(state.looked_at)
    return state.fast if pd.Timedelta(0) < passed <= 2 * config.step else ()


def _is_budget_renewed(state: DriftState, window: pd.DatetimeIndex, config: DriftConfig) -> bool:
    if state.budget_start is None:
        return True
    return _utc(window[-1]) - _utc(state.budget_start) >= config.budget_span


def _utc(label: pd.Timestamp | str) -> pd.Timestamp:
    stamp = pd.Timestamp(label)
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp


def _recommend_watching(rejections: Rejections, columns: Sequence[ColumnDrift]) -> Decision:
    """Recommend to monitor closely where a column was noticed or has a quality problem."""
    broken = [column for column in columns if column.is_quality_problem]
    reasons = [f"data quality: {column.name}: {column.quality_reason}" for column in broken]
    if rejections.noticed:
        reasons.append(
            f"changed, but not beyond the budgeted level ({_list_names(rejections.noticed)})"
        )
    names = tuple(dict.fromkeys((*rejections.noticed, *(column.name for column in broken))))
    closely, nothing = Recommendation.MONITOR_CLOSELY, Recommendation.NO_ACTION_NEEDED
    return Decision(closely if reasons else nothing, names, tuple(reasons))


def _jump_reason(rejections: Rejections) -> str:
    return f"what is forecast changed within days ({_list_names(rejections.jumped)})"


def _reject_by_family(columns: Iterable[ColumnDrift], level: float) -> tuple[str, ...]:
    families: dict[Family, list[ColumnDrift]] = {}
    for column in columns:
        families.setdefault(column.family, []).append(column)
    return tuple(
        column.name
        for family in families.values()
        for column, rejected in zip(
            family, benjamini_yekutieli([c.p_value for c in family], level), strict=True
        )
        if rejected
    )


def _common(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in others)


def _list_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
