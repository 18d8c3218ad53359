"""Judges whether a version has lost the skill it had at its promotion.

    excess loss = loss of the version - loss of the baseline on the same bars
    lost where P(a window of the reference has as large a mean excess) < alpha
         and 1 - skill / skill at promotion >= threshold

Errors grow with volatility, so a rule on errors alone alarms whenever markets move: "MSE + 15 %"
raises an alarm in nine of ten windows in which volatility rose by half and the forecasts were as
good as before. The excess loss does not grow so. It is compared with windows of the same length
from the version's evaluation (`mlops.stats.window_null`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from mlops.arrays import FloatArray
from mlops.errors import SettingsError
from mlops.json_values import number, to_json
from mlops.service import Target
from mlops.stats.dependence import is_constant
from mlops.stats.metrics import skill
from mlops.stats.trading import trailing_volatility
from mlops.stats.window_null import MeanNull
from mlops.validation.forecasts import Forecasts

PERFORMANCE_THRESHOLD = 0.15
"""Share of the skill at promotion that must be gone."""
ALPHA = 0.05

MIN_BARS = 24
MIN_REFERENCE_BARS = 1000
REFERENCE_PER_WINDOW = 10
MIN_INDEPENDENT = 6
"""Below these sizes the null is too coarse for the chance of a false alarm to be known."""


class SkillStatus(StrEnum):
    """The judgement of a version's skill; NO_SKILL where it had none at promotion to lose."""

    KEPT = "kept"
    LOST = "lost"
    NO_SKILL = "no_skill"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Losses of a version and of its baseline on the same bars (n,), in time order."""

    model: FloatArray
    baseline: FloatArray

    @classmethod
    def of(cls, rows: Forecasts, *, since: int = 0) -> Losses:
        """The losses of the rows from ``since`` on; earlier rows only tell the scale.

        Squared errors of a return or price are divided by the squared move that was usual at the
        time, or else the most volatile bars alone would decide. The first 20 rows, and as many as
        the horizon has bars, are left out, because the usual move may not be known there.
        """
        unit = _squared_unit(rows)[since:]
        known = np.isfinite(unit)
        model, baseline = (
            record.losses()[since:][known] / unit[known] for record in (rows, rows.of_baseline())
        )
        return cls(model, baseline)

    @classmethod
    def none(cls) -> Losses:
        """The losses of no bar."""
        return cls(np.empty(0), np.empty(0))

    def __len__(self) -> int:
        return len(self.model)

    @property
    def excess(self) -> FloatArray:
        """Loss less the baseline's loss (n,); negative where the version is better."""
        return self.model - self.baseline

    @property
    def skill(self) -> float:
        """1 - mean loss / mean loss of the baseline; NaN where the baseline never errs."""
        return skill(self.model, self.baseline) if len(self) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The verdict on a window.

    Attributes:
        n: Bars of the window.
        reference_n: Bars of the reference.
        skill: 1 - mean loss / mean loss of the baseline.
        share_lost: 1 - skill / skill at promotion; above 1 where the version is worse than the
            baseline.
        threshold: Least share whose loss counts.
        p_value: Chance that a window of the reference is as bad.
        alpha: Level of the test.
        independent: Independent windows of n bars that the reference is worth.
    """

    status: SkillStatus
    reason: str
    n: int
    reference_n: int
    skill: float
    skill_at_promotion: float
    share_lost: float
    threshold: float
    p_value: float
    alpha: float
    independent: float

    @property
    def degraded(self) -> bool:
        return self.status is SkillStatus.LOST

    def to_dict(self) -> dict[str, Any]:
        """JSON-legal; a number that is not finite becomes null with a flag beside it."""
        values: dict[str, Any] = to_json(asdict(self))
        return values | {"degraded": self.degraded}


def judge_degradation(
    current: Losses,
    reference: Losses,
    *,
    skill_at_promotion: float | None = None,
    threshold: float = PERFORMANCE_THRESHOLD,
    alpha: float = ALPHA,
    null: MeanNull | None = None,
) -> Degradation:
    """Judge the latest window of a version against its own record out of sample.

    Args:
        reference: Losses on rows before the window that the version was not fitted on.
        skill_at_promotion: The skill they showed, unless it is given.
        threshold: Least share of that skill whose loss counts.
        alpha: Level of the test.
        null: `MeanNull` of ``reference.excess``, where the caller has fitted it already.

    Raises:
        SettingsError: when ``alpha`` or ``threshold`` is out of range.
    """
    if not 0.0 < alpha < 1.0:
        raise SettingsError(f"alpha={alpha!r} is no level between 0 and 1")
    if not threshold >= 0.0:
        raise SettingsError(f"threshold={threshold!r} is no share of the skill; choose 0 or more")
    promoted = reference.skill if skill_at_promotion is None else skill_at_promotion
    comparison = _Comparison(current, reference, number(promoted), threshold, alpha)
    if (too_little := _find_too_little(current, reference)) is not None:
        return comparison.verdict(SkillStatus.INSUFFICIENT_DATA, too_little)
    if is_constant(reference.excess) or not promoted > 0.0:
        reason = f"it had no skill over the baseline at promotion ({promoted:.2%})"
        return comparison.verdict(SkillStatus.NO_SKILL, reason)
    null = null or MeanNull(reference.excess, max_bars=None)
    independent = null.independent_windows(len(current))
    if independent < MIN_INDEPENDENT:
        reason = (
            f"the reference is worth {independent:.1f} independent windows of {len(current)} bars; "
            f"at least {MIN_INDEPENDENT} are needed: take a shorter window"
        )
        return comparison.verdict(SkillStatus.INSUFFICIENT_DATA, reason, independent=independent)
    p = float(null.check(current.excess).p_value[0])
    lost = p < alpha and comparison.share_lost >= threshold
    status = SkillStatus.LOST if lost else SkillStatus.KEPT
    reason = (
        f"skill over the baseline is {current.skill:.2%} after {promoted:.2%} at promotion "
        f"({comparison.share_lost:.0%} of it lost); windows of the reference were as bad with "
        f"probability {p:.3g}"
    )
    return comparison.verdict(status, reason, p_value=p, independent=independent)


def _squared_unit(rows: Forecasts) -> FloatArray:
    """The square of the usual move known when each row was made (n,); 1 where losses need none."""
    if rows.target in {Target.VOLATILITY, Target.DIRECTION}:
        return np.ones(len(rows))
    price = rows.persistence if rows.target is Target.PRICE else np.ones(len(rows))
    move = rows.y / price - 1.0 if rows.target is Target.PRICE else rows.y
    # The move of a row is known a horizon of rows after the row was made, at the earliest.
    usual = np.full(len(rows), np.nan)
    usual[rows.horizon - 1 :] = trailing_volatility(move)[: len(rows) - rows.horizon + 1]
    return (usual * price) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """What every verdict on a window states, whatever its status."""

    current: Losses
    reference: Losses
    promoted: float
    threshold: float
    alpha: float

    @property
    def share_lost(self) -> float:
        return 1.0 - self.current.skill / self.promoted if self.promoted > 0.0 else math.nan

    def verdict(
        self,
        status: SkillStatus,
        reason: str,
        *,
        p_value: float = math.nan,
        independent: float = math.nan,
    ) -> Degradation:
        return Degradation(
            status=status,
            reason=reason,
            n=len(self.current),
            reference_n=len(self.reference),
            skill=number(self.current.skill),
            skill_at_promotion=self.promoted,
            share_lost=number(self.share_lost),
            threshold=self.threshold,
            p_value=p_value,
            alpha=self.alpha,
            independent=independent,
        )


def _find_too_little(current: Losses, reference: Losses) -> str | None:
    """Say which of the two is too short for a test; None where both suffice."""
    n, known = len(current), len(reference)
    if n < MIN_BARS:
        return f"{n} bars with an outcome; at least {MIN_BARS} are needed"
    if known < MIN_REFERENCE_BARS:
        return f"{known:,} bars of reference; at least {MIN_REFERENCE_BARS:,} are needed"
    if known < REFERENCE_PER_WINDOW * n:
        return (
            f"{known:,} bars of reference for a window of {n:,}; at least {REFERENCE_PER_WINDOW} "
            f"windows are needed: judge at most {known // REFERENCE_PER_WINDOW:,} bars"
        )
    return None
