"""The gates a candidate must pass to become a challenger, judged all of them, in order.

[[The platform's three thresholds, read in the terms of the target.

A volatility can meet them, so they are literal. A price meets MIN_R2_SCORE by its last value
alone, so it must also beat that. A return or direction cannot meet them without a leak, so
they are reported, and G1 to G4 judge. Strict mode is literal everywhere.]]
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

NAME = "limits"
REPORTED = "reported only"
UNREACHABLE = "unreachable without leakage for a {target}, so G1 to G4 judge instead"

_LITERAL = {
    Target.VOLATILITY: {"MIN_MODEL_ACCURACY", "MIN_R2_SCORE", "MAX_MODEL_MSE"},
    Target.PRICE: {"MIN_R2_SCORE", "MAX_MODEL_MSE"},
    Target.RETURN: set[str](),
    Target.DIRECTION: set[str](),
}


def judge_thresholds(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """MIN_MODEL_ACCURACY, MIN_R2_SCORE and MAX_MODEL_MSE on all walk-forward forecasts.

    Those of a refit are its recipe's whole record: the R2 of the few weeks that are new says
    more of how much the market moved in them than of the model. Whether it still has skill
    there is asked by G2 and G3.
    """
    whole = evidence.walk_forward if evidence.record is None else evidence.record
    rows = whole.finite_or_none()
    if rows is None:
        return []
    accuracy = direction_figures(*rows.moves()).accuracy
    r2, mse = _r2(rows), metrics.mse(rows.y, rows.forecast)
    strict = thresholds.mode is ThresholdMode.STRICT
    asked = (
        ("MIN_MODEL_ACCURACY", accuracy, thresholds.min_model_accuracy, "accuracy"),
        ("MIN_R2_SCORE", r2, thresholds.min_r2_score, "R2"),
        ("MAX_MODEL_MSE", mse, thresholds.max_model_mse, "MSE"),
    )
    results = [
        _limit(
            rows,
            title,
            value=value,
            limit=limit,
            word=word,
            hard=strict or title in _LITERAL[rows.target],
        )
        for title, value, limit, word in asked
    ]
    return [*results, _beats_baseline(rows, hard=rows.target is Target.PRICE and not strict)]


def _r2(rows: Forecasts) -> float:
    if rows.target is Target.RETURN:
        return metrics.r2_out_of_sample(rows.y, rows.forecast, 0.0 * rows.y)
    return metrics.r2_score(rows.y, rows.forecast)


def _limit(
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


def _beats_baseline(rows: Forecasts, *, hard: bool) -> GateResult:
    """MSE / MSE of the naive forecast: of a price, the last one."""
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


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> GateReport:
    """Judge a candidate by every gate; all are reported even when an early one refuses.

    Passing makes a challenger: it may enter a shadow test, not production.
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
