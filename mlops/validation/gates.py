"""Judges a candidate by every gate, in order: G0, G1, the platform's limits, G2, G3, G4, G5.

The limits are MIN_MODEL_ACCURACY, MIN_R2_SCORE and MAX_MODEL_MSE. A volatility forecast can meet
them, so there they are taken literally. A price forecast meets MIN_R2_SCORE by repeating the last
price, so it must also beat the last price. A forecast of a return or direction cannot meet them
without a leak, so there they are only reported, and G1 to G4 judge. In strict mode they are
literal for every target.
"""

from __future__ import annotations

from mlops.service import Target
from mlops.settings import ThresholdMode
from mlops.stats import metrics
from mlops.stats.metrics import direction_figures
from mlops.validation.evidence import Evidence, Integrity, Override, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.holdout import judge_against_champion, judge_holdout, judge_risk
from mlops.validation.integrity import judge_integrity, judge_leakage
from mlops.validation.report import GateReport, GateResult, Severity
from mlops.validation.skill import judge_skill, rank_trials

__all__ = [
    "Evidence",
    "GateReport",
    "GateResult",
    "Integrity",
    "Override",
    "Severity",
    "ThresholdMode",
    "Thresholds",
    "judge",
    "rank_trials",
]

NAME = "limits"
REPORTED = "reported only"
UNREACHABLE = "unreachable without leakage for a {target}, so G1 to G4 judge instead"

_LITERAL = {
    Target.VOLATILITY: {"MIN_MODEL_ACCURACY", "MIN_R2_SCORE", "MAX_MODEL_MSE"},
    Target.PRICE: {"MIN_R2_SCORE", "MAX_MODEL_MSE"},
    Target.RETURN: set[str](),
    Target.DIRECTION: set[str](),
}


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> GateReport:
    """Judge a candidate by every gate; all are reported even where an early one refuses.

    A candidate that passes becomes a challenger: it may enter a shadow test, not production.
    """
    limits = thresholds or Thresholds()
    results = (
        *judge_integrity(evidence, limits),
        *judge_leakage(evidence, limits),
        *judge_thresholds(evidence, limits),
        *judge_skill(evidence),
        *judge_holdout(evidence),
        *judge_against_champion(evidence, limits),
        *judge_risk(evidence, limits),
    )
    return GateReport(
        candidate=evidence.candidate,
        target=str(evidence.walk_forward.target),
        mode=str(limits.mode),
        alpha=evidence.alpha,
        results=results,
    )


def judge_thresholds(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """MIN_MODEL_ACCURACY, MIN_R2_SCORE and MAX_MODEL_MSE on all walk-forward forecasts.

    Of a refit they are judged on its recipe's whole record: the R2 of the few new weeks depends
    more on how much the market moved in them than on the model. G2 and G3 ask whether the model
    still has skill in the new weeks.
    """
    whole = evidence.walk_forward if evidence.record is None else evidence.record
    rows = whole.finite_or_none()
    if rows is None:
        return []
    accuracy = direction_figures(*rows.moves()).accuracy
    mse = metrics.mse(rows.y, rows.forecast)
    # The naive forecast of a return is 0.
    r2 = (
        metrics.r2_out_of_sample(rows.y, rows.forecast, 0.0 * rows.y)
        if rows.target is Target.RETURN
        else metrics.r2_score(rows.y, rows.forecast)
    )
    strict = thresholds.mode is ThresholdMode.STRICT
    asked = (
        ("MIN_MODEL_ACCURACY", accuracy, thresholds.min_model_accuracy, "accuracy"),
        ("MIN_R2_SCORE", r2, thresholds.min_r2_score, "R2"),
        ("MAX_MODEL_MSE", mse, thresholds.max_model_mse, "MSE"),
    )
    results = [
        _judge_limit(
            rows,
            title,
            value=value,
            limit=limit,
            word=word,
            hard=strict or title in _LITERAL[rows.target],
        )
        for title, value, limit, word in asked
    ]
    return [*results, _judge_against_naive(rows, hard=rows.target is Target.PRICE and not strict)]


def _judge_limit(
    rows: Forecasts, title: str, *, value: float, limit: float, word: str, hard: bool
) -> GateResult:
    least = title.startswith("MIN")
    passed = value >= limit if least else value <= limit
    reason = f"{word} {value:.4g}, {'at least' if least else 'at most'} {limit:g} is asked"
    if not hard:
        reason += f"; {REPORTED if passed else UNREACHABLE.format(target=rows.target)}"
    return GateResult(
        name=NAME,
        title=title,
        value=value,
        threshold=limit,
        n=len(rows),
        passed=passed,
        severity=Severity.HARD if hard else Severity.ADVISORY,
        reason=reason,
    )


def _judge_against_naive(rows: Forecasts, *, hard: bool) -> GateResult:
    """MSE / MSE of the naive forecast; the naive forecast of a price is the last price."""
    naive = rows.persistence if rows.target is Target.PRICE else rows.baseline
    ratio = 1.0 - metrics.r2_out_of_sample(rows.y, rows.forecast, naive)
    what = "the last price's" if rows.target is Target.PRICE else "the baseline's"
    return GateResult(
        name=NAME,
        title="MSE against naive",
        value=ratio,
        threshold=1.0,
        n=len(rows),
        passed=ratio < 1.0,
        severity=Severity.HARD if hard else Severity.ADVISORY,
        reason=f"the MSE is {ratio:.4f} times {what}; below 1 is asked",
    )
