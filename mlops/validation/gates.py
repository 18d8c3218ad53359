"""The gates a candidate must pass to become a challenger, judged all of them, in order."""

from __future__ import annotations

from mlops.settings import ThresholdMode
from mlops.validation.evidence import Evidence, Integrity, Override, Thresholds
from mlops.validation.holdout import judge_against_champion, judge_holdout, judge_risk
from mlops.validation.integrity import judge_integrity, judge_leakage
from mlops.validation.report import GateReport, GateResult, Severity
from mlops.validation.skill import judge_skill, rank_trials
from mlops.validation.thresholds import judge_thresholds

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
