"""Has a version lost the skill it went live with? Lost skill is the alarm, not wilder markets.

Errors grow with volatility, so a rule on errors alarms whenever markets move: MSE + 15 % fires in
nine of ten windows in which volatility rose by half and the forecasts were as good as ever. The
loss beyond the baseline's on the same bars does not: it is judged by what it was over windows of
the same length when the version was evaluated (`mlops.stats.window_null`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.errors import SettingsError
from mlops.json_values import number, to_json
from mlops.service import Target
from mlops.stats.dependence import is_constant
from mlops.stats.metrics import skill
from mlops.stats.trading import trailing_volatility
from mlops.stats.window_null import MeanNull
from mlops.validation.forecasts import Forecasts

FloatArray = NDArray[np.float64]

PERFORMANCE_THRESHOLD = 0.15
"""Share of the skill at promotion whose loss counts."""
ALPHA = 0.05

MIN_BARS = 24
MIN_REFERENCE_BARS = 1000
REFERENCE_PER_WINDOW = 10
MIN_INDEPENDENT = 6
"""Below these sizes the null is too coarse: the chance of a false alarm is no longer known."""


class SkillStatus(StrEnum):
    """What became of a version's skill.

    ``no_skill``: it had none over the baseline at promotion, so there is none to lose.
    """

    KEPT = "kept"
    LOST = "lost"
    NO_SKILL = "no_skill"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Losses of a version and of the baseline on the same bars (n,), in time order."""

    model: FloatArray
    baseline: FloatArray

    @classmethod
    def of(cls, rows: Forecasts, *, since: int = 0) -> Losses:
        """The target's losses from row ``since`` on; earlier rows only tell the scale.

        Squared errors of a return or price are counted in squared moves usual at the time, for
        otherwise the wildest bars decide alone; the first 20 rows, and as many as the horizon
        has, may not know what is usual and are left out.
        """
        unit = _usual_square(rows)[since:]
        known = np.isfinite(unit)
        model, baseline = (
            r.losses()[since:][known] / unit[known] for r in (rows, rows.of_baseline())
        )
        return cls(model, baseline)

    @classmethod
    def none(cls) -> Losses:
        """Of no bar."""
        return cls(np.empty(0), np.empty(0))

    def __len__(self) -> int:
        return len(self.model)

    @property
    def excess(self) -> FloatArray:
        """Loss beyond the baseline's (n,); below zero where the version is better."""
        return self.model - self.baseline

    @property
    def skill(self) -> float:
        """1 - mean loss / mean loss of the baseline; NaN where the baseline never errs."""
        return skill(self.model, self.baseline) if len(self) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The verdict on n bars, against ``reference_n`` bars of the version's evaluation.

    ``share_lost`` is 1 - skill / skill at promotion: above 1 the version is worse than the
    baseline. Skill is lost where ``p_value`` is below ``alpha`` and at least ``threshold`` of it
    is gone; ``independent`` is how many independent windows the reference is worth.
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

    ``reference`` are rows that the version was not fitted on, before the window;
    ``skill_at_promotion`` is the skill they showed unless it is given. ``null`` spares fitting
    `MeanNull` on ``reference.excess`` again.

    Raises:
        SettingsError: when a level or a share is out of range.
    """
    _check(threshold, alpha)
    promoted = reference.skill if skill_at_promotion is None else skill_at_promotion
    found = _Found(current, reference, number(promoted), threshold, alpha)
    if (lacking := _lacking(current, reference)) is not None:
        return found.verdict(SkillStatus.INSUFFICIENT_DATA, lacking)
    if is_constant(reference.excess) or not promoted > 0.0:
        reason = f"it had no skill over the baseline at promotion ({promoted:.2%})"
        return found.verdict(SkillStatus.NO_SKILL, reason)
    null = null or MeanNull(reference.excess, max_bars=None)
    m = null.independent_windows(len(current))
    if m < MIN_INDEPENDENT:
        reason = (
            f"the reference is worth {m:.1f} independent windows of {len(current)} bars; "
            f"at least {MIN_INDEPENDENT} are needed: take a shorter window"
        )
        return found.verdict(SkillStatus.INSUFFICIENT_DATA, reason, independent=m)
    p = float(null.check(current.excess).p_value[0])
    lost = p < alpha and found.share_lost >= threshold
    status = SkillStatus.LOST if lost else SkillStatus.KEPT
    reason = (
        f"skill over the baseline is {current.skill:.2%} after {promoted:.2%} at promotion "
        f"({found.share_lost:.0%} of it lost); windows of the reference were as bad with "
        f"probability {p:.3g}"
    )
    return found.verdict(status, reason, p_value=p, independent=m)


def _usual_square(rows: Forecasts) -> FloatArray:
    """Squared unit of each row's loss (n,): that of a usual move known by then, or 1."""
    if rows.target in {Target.VOLATILITY, Target.DIRECTION}:
        return np.ones(len(rows))
    price = rows.persistence if rows.target is Target.PRICE else np.ones(len(rows))
    move = rows.y / price - 1.0 if rows.target is Target.PRICE else rows.y
    # The move of a row is known a horizon of rows later, at the earliest.
    usual = np.full(len(rows), np.nan)
    usual[rows.horizon - 1 :] = trailing_volatility(move)[: len(rows) - rows.horizon + 1]
    return (usual * price) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
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


def _lacking(current: Losses, reference: Losses) -> str | None:
    """What is too little, in a sentence; None where nothing is."""
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


def _check(threshold: float, alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise SettingsError(f"alpha={alpha!r} is no level between 0 and 1")
    if not threshold >= 0.0:
        raise SettingsError(f"threshold={threshold!r} is no share of the skill; choose 0 or more")
