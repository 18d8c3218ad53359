"""What a checked window asks for, and the state that keeps a service's false alarms in budget.

Decisions are made on windows that do not overlap, K of them in 30 days, each at 1/K of its
share of the budget: by one window, or more sensitively by two in a row that reject the same
column. Looks in between watch for jumps of what is forecast with the other share, and on a fast
path for windows too far off to wait for.
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
"""Kolmogorov distance beyond the usual one that the fast path asks for."""


class Recommendation(StrEnum):
    """What to do, in the platform's words, from least to most urgent."""

    NO_ACTION_NEEDED = "NO_ACTION_NEEDED"
    MONITOR_CLOSELY = "MONITOR_CLOSELY"
    RETRAIN_SOON = "RETRAIN_SOON"
    RETRAIN_IMMEDIATELY = "RETRAIN_IMMEDIATELY"

    @property
    def asks_for_retraining(self) -> bool:
        return self in {Recommendation.RETRAIN_SOON, Recommendation.RETRAIN_IMMEDIATELY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejections:
    """The columns that one window rejects, by how surely.

    ``noticed`` are worth watching; ``repeated`` decide if the window before rejected them as
    well, ``decided`` by themselves, ``severe`` losses at once; ``lost`` are losses at the plain
    level; ``fast`` are those beyond the level of a single hourly look, ``jumped`` targets that
    changed within a day. ``decided`` and ``fast`` have an effect beyond the threshold as well.
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
    """What a version's checks remember between runs; JSON-able, never changed in place.

    ``windows`` counts the official windows so far, ``recent`` holds what the last two rejected
    (the newest last) and ``seen_until`` the label of the last bar they have used (ISO).
    ``spent`` is the part of the budget used since ``budget_start``. ``fast`` are the columns
    beyond the fast level at the look of ``looked_at``.
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
            Rejections(**{key: tuple(names) for key, names in one.items()})
            for one in values["recent"]
        )
        return cls(**{**values, "recent": recent, "fast": tuple(values["fast"])})


@dataclass(frozen=True, slots=True)
class Decision:
    """A recommendation, the columns behind it and why, in sentences."""

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
    """Which columns a window rejects at each level, Benjamini-Yekutieli within each family.

    What is counted is the reference's, so that what comes in moves no level.
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

    def names(level: float, among: Iterable[ColumnDrift] = tested) -> tuple[str, ...]:
        return tuple(name for name in _by_family(among, level) if name in large)

    watched = len(watched_for_jumps)
    fast, jump = config.fast_level(testable), config.jump_level(watched)
    return Rejections(
        noticed=_by_family(tested, config.notice_level(families)),
        repeated=_by_family(tested, config.repeated_level(families, watched=watched)),
        decided=names(config.decision_level(families, watched=watched)),
        severe=names(config.severe_level(families, watched=watched), losses),
        lost=_by_family(losses, config.alpha),
        fast=tuple(c.name for c in tested if c.p_value < fast and c.effect >= FAST_EFFECT),
        jumped=tuple(
            c.name for c in columns if c.name in watched_for_jumps and c.jump_p_value < jump
        ),
    )


def drop_known_changes(
    found: Rejections, ends_at: str | None, times: pd.DatetimeIndex, config: DriftConfig
) -> Rejections:
    """Without the jumps and fast changes that a reference which ends then knows of itself.

    ``times`` are those of the bars looked at: all that a change rests on must be younger.
    """
    if ends_at is None:
        return found

    def new(bars: int) -> bool:
        return len(times) >= bars and _utc(times[-bars]) > _utc(ends_at)

    return replace(
        found,
        jumped=found.jumped if new(RECENT) else (),
        fast=found.fast if new(config.window_bars) else (),
    )


def recommend(
    found: Rejections,
    columns: Sequence[ColumnDrift],
    *,
    before: Rejections | None = None,
    fast_before: Sequence[str] = (),
) -> Decision:
    """What an official window asks for, given what the one before it rejected."""
    again = _common(found.repeated, before.repeated if before else ())
    retrain = tuple(dict.fromkeys((*found.decided, *again, *found.jumped)))
    losses = {column.name for column in columns if column.family is Family.LOSSES}
    drifted = tuple(name for name in retrain if name not in losses)
    lost = found.lost or (before.lost if before else ())
    confirmed = _common(found.fast, fast_before)
    reasons: list[str] = []
    if found.severe:
        reasons.append(f"skill is lost beyond doubt ({_list(found.severe)})")
    if drifted and lost:
        reasons.append(f"data drifted ({_list(drifted)}) and skill is falling ({_list(lost)})")
    if confirmed:
        reasons.append(f"a change too large to wait for is confirmed ({_list(confirmed)})")
    if reasons:
        sure = tuple(dict.fromkeys((*found.severe, *retrain, *confirmed)))
        return Decision(Recommendation.RETRAIN_IMMEDIATELY, sure, tuple(reasons))
    if retrain:
        if found.decided:
            reasons.append(f"drift beyond the budgeted level ({_list(found.decided)})")
        if again:
            reasons.append(f"the same columns in two windows in a row ({_list(again)})")
        if found.jumped:
            reasons.append(_jumped(found))
        return Decision(Recommendation.RETRAIN_SOON, retrain, tuple(reasons))
    return _watch(found, columns)


def recommend_between_windows(
    found: Rejections,
    columns: Sequence[ColumnDrift],
    *,
    latest: Rejections | None = None,
    fast_before: Sequence[str] = (),
) -> Decision:
    """What a look between official windows asks for: the fast path, or what is in force."""
    confirmed = _common(found.fast, fast_before)
    if confirmed:
        reason = f"a change too large to wait for is confirmed ({_list(confirmed)})"
        return Decision(Recommendation.RETRAIN_IMMEDIATELY, confirmed, (reason,))
    if found.jumped:
        return Decision(Recommendation.RETRAIN_SOON, found.jumped, (_jumped(found),))
    in_force = latest.noticed if latest else ()
    return _watch(replace(found, noticed=tuple(dict.fromkeys((*found.fast, *in_force)))), columns)


def is_window_due(state: DriftState, window: pd.DatetimeIndex, config: DriftConfig) -> bool:
    """Whether a window (the times of its bars) may decide: whole, apart, and within the budget."""
    if len(window) < config.window_bars:
        return False
    begins = _utc(window[-config.window_bars])
    if state.seen_until is not None and begins <= _utc(state.seen_until):
        return False
    spent = 0.0 if _renews(state, window, config) else state.spent
    return spent + 1.0 / config.windows_per_budget <= 1.0 + 1e-9


def advance_state(
    state: DriftState,
    found: Rejections,
    window: pd.DatetimeIndex,
    config: DriftConfig,
    *,
    due: bool,
) -> DriftState:
    """The state after a look at that window, which was an official one where ``due``."""
    now = _utc(window[-1]).isoformat()
    looked = replace(state, fast=found.fast, looked_at=now)
    if not due:
        return looked
    renews = _renews(state, window, config)
    return replace(
        looked,
        windows=state.windows + 1,
        recent=(*state.recent, found)[-2:],
        seen_until=now,
        budget_start=now if renews else state.budget_start,
        spent=(0.0 if renews else state.spent) + 1.0 / config.windows_per_budget,
    )


def fast_before(
    state: DriftState, window: pd.DatetimeIndex, config: DriftConfig
) -> tuple[str, ...]:
    """What the look of the bar before found; nothing where this bar was looked at already."""
    if state.looked_at is None:
        return ()
    waited = _utc(window[-1]) - _utc(state.looked_at)
    return state.fast if pd.Timedelta(0) < waited <= 2 * config.step else ()


def _renews(state: DriftState, window: pd.DatetimeIndex, config: DriftConfig) -> bool:
    if state.budget_start is None:
        return True
    return _utc(window[-1]) - _utc(state.budget_start) >= config.budget_span


def _utc(label: pd.Timestamp | str) -> pd.Timestamp:
    stamp = pd.Timestamp(label)
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp


def _watch(found: Rejections, columns: Sequence[ColumnDrift]) -> Decision:
    broken = [column for column in columns if column.is_quality_problem]
    reasons = [f"data quality: {column.name}: {_trouble(column)}" for column in broken]
    if found.noticed:
        reasons.append(f"changed, but not beyond the budgeted level ({_list(found.noticed)})")
    names = tuple(dict.fromkeys((*found.noticed, *(column.name for column in broken))))
    word = Recommendation.MONITOR_CLOSELY if reasons else Recommendation.NO_ACTION_NEEDED
    return Decision(word, names, tuple(reasons))


def _jumped(found: Rejections) -> str:
    return f"what is forecast changed within days ({_list(found.jumped)})"


def _trouble(column: ColumnDrift) -> str:
    if column.status.is_quality_problem:
        return column.reason
    return f"{column.missing_share:.1%} of the rows are missing, more than ever in the reference"


def _by_family(columns: Iterable[ColumnDrift], level: float) -> tuple[str, ...]:
    families: dict[Family, list[ColumnDrift]] = {}
    for column in columns:
        families.setdefault(column.family, []).append(column)
    return tuple(
        column.name
        for own in families.values()
        for column, rejected in zip(
            own, benjamini_yekutieli([c.p_value for c in own], level), strict=True
        )
        if rejected
    )


def _common(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in others)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
