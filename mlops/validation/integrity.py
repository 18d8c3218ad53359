"""Gates G0 and G1: whether the record was made soundly, and whether it is too good to be true."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from mlops.data.finding_texts import describe_doubt
from mlops.data.findings import Findings
from mlops.service import Target
from mlops.stats import metrics
from mlops.stats.dependence import is_constant
from mlops.stats.metrics import direction_figures
from mlops.stats.trading import count_trades, net_returns, sharpe_per_bar
from mlops.validation.evidence import Evidence, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.report import GateReport, GateResult, Severity

TEST_BARS = "test bars"
DATA_QUALITY = "data quality"
CALLERS_WORD = "caller's word"

_g0 = partial(GateResult, name="G0")


def judge_integrity(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """G0: bars, order, gap, enough rows and trades, real forecasts, schema, causality; all hard."""
    gap, horizon = evidence.integrity.gap_bars, evidence.holdout.horizon
    # The shorter record decides: a judgement is no better than its smaller part.
    n, needed = min(len(evidence.walk_forward), len(evidence.holdout)), thresholds.min_test_bars
    return [
        *_judge_findings(evidence.findings, thresholds),
        _judge_order(evidence),
        *_note_word(evidence),
        _g0(
            title="gap",
            value=gap,
            threshold=horizon,
            passed=gap >= horizon,
            reason=f"{gap} bars lie between a fit and its first forecast; "
            f"labels look {horizon} ahead",
        ),
        _g0(
            title=TEST_BARS,
            value=n,
            threshold=needed,
            passed=n >= needed,
            n=n,
            reason=f"the shorter record holds {n:,} test bars; at least {needed:,} are needed",
        ),
        _judge_trades(evidence, thresholds),
        _judge_forecasts(evidence),
        _fact(
            "feature schema",
            evidence.integrity.feature_schema_matches,
            good="the features are those the model was fitted on",
            bad="the features differ in name or order from those the model was fitted on",
        ),
        _fact(
            "causality",
            evidence.integrity.causality_proven,
            good="the feature function was shown to read no future",
            bad="no proof that the features read no future came with the model",
        ),
    ]


def _judge_findings(findings: Findings | None, thresholds: Thresholds) -> list[GateResult]:
    if findings is None:
        return []
    share, most = findings.doubtful_share, thresholds.max_doubtful_share
    return [
        _g0(
            title=DATA_QUALITY,
            value=share,
            threshold=most,
            passed=share <= most,
            n=findings.rows_judged,
            reason=describe_doubt(findings),
        )
    ]


def _note_word(evidence: Evidence) -> list[GateResult]:
    word = evidence.integrity.word
    if word is None:
        return []
    return [
        _g0(
            title=CALLERS_WORD,
            value=math.nan,
            threshold=math.nan,
            passed=False,
            severity=Severity.ADVISORY,
            reason=word,
        )
    ]


def _judge_order(evidence: Evidence) -> GateResult:
    before, after = evidence.walk_forward, evidence.holdout
    ordered = evidence.integrity.ordered
    apart = evidence.refit or bool(after.made_at[0] > before.made_at[-1])
    return _fact(
        "order in time",
        ordered and apart,
        good="every fit precedes what it forecasts, and the holdout comes last",
        bad="rows were shuffled or fitted after they were forecast"
        if not ordered
        else f"the holdout begins {after.made_at[0]}, before the last walk-forward row",
    )


def lacking_bars(report: GateReport) -> int:
    """How many test bars a judgement lacked; 0 where there were enough."""
    bars = report[TEST_BARS]
    return 0 if bars.passed else math.ceil(bars.threshold - bars.value)


def _judge_trades(evidence: Evidence, thresholds: Thresholds) -> GateResult:
    trades = count_trades(evidence.walk_forward.positions())
    needed = thresholds.min_trades
    hard = evidence.walk_forward.takes_sides
    if hard:
        asked = f"at least {needed} are needed"
    else:
        asked = f"a {evidence.walk_forward.target} names no side, so none are needed"
    return _g0(
        title="trades",
        value=trades,
        threshold=needed,
        passed=trades >= needed,
        n=len(evidence.walk_forward),
        severity=Severity.HARD if hard else Severity.ADVISORY,
        reason=f"following the forecasts makes {trades:,} trades; {asked}",
    )


def _judge_forecasts(evidence: Evidence) -> GateResult:
    made = np.concatenate([evidence.walk_forward.forecast, evidence.holdout.forecast])
    missing = int(np.sum(~np.isfinite(made)))
    constant = not missing and is_constant(evidence.holdout.edge())
    reason = f"all {made.size:,} forecasts are finite and they vary"
    if missing:
        reason = f"{missing:,} of {made.size:,} forecasts are not finite"
    elif constant:
        reason = "the forecast never departs from a constant, so there is nothing to judge"
    return _g0(
        title="forecasts",
        value=missing,
        threshold=0,
        passed=not missing and not constant,
        n=made.size,
        reason=reason,
    )


def _fact(title: str, holds: bool, *, good: str, bad: str) -> GateResult:
    reason = good if holds else bad
    return _g0(title=title, value=float(holds), threshold=1, passed=holds, reason=reason)


def judge_leakage(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """G1: an alarm where a forecast of price moves is better than markets allow.

    Only a person's override lets it pass. A volatility is predictable and raises no alarm.
    """
    records = {"walk-forward": evidence.walk_forward, "holdout": evidence.holdout}
    if not evidence.holdout.takes_sides:
        reason = "volatility is predictable in earnest; no limit applies"
        return [_alarm_result(evidence, math.nan, True, reason)]
    signs = [
        (value / limit, f"{what} {value:.3f} on the {part} is above {limit:g}")
        for part, record in records.items()
        for what, value, limit in _leak_signs(record.finite_or_none(), evidence.fee_bps, thresholds)
        if value > limit
    ]
    if not signs:
        reason = "accuracy, R2 and Sharpe ratio per bar are within what is honest"
        return [_alarm_result(evidence, math.nan, True, reason)]
    override = evidence.leak_override
    reason = "suspected_leakage: " + "; ".join(text for _, text in signs)
    if override:
        reason += f"; let pass by {override.actor}: {override.reason}"
    return [
        _alarm_result(evidence, max(excess for excess, _ in signs), override is not None, reason)
    ]


def _leak_signs(
    record: Forecasts | None, fee_bps: float, thresholds: Thresholds
) -> list[tuple[str, float, float]]:
    if record is None:
        return []
    accuracy = direction_figures(*record.moves()).accuracy
    net = net_returns(record.positions(), record.next_return, fee_bps=fee_bps)
    signs = [
        ("accuracy", accuracy, thresholds.leak_accuracy),
        ("Sharpe ratio per bar", sharpe_per_bar(net), thresholds.leak_sharpe_per_bar),
    ]
    if record.target is not Target.DIRECTION:
        move, called = record.moves()
        r2 = metrics.r2_out_of_sample(move, called, np.zeros(len(record)))
        signs.append(("R2 out of sample", r2, thresholds.leak_r2))
    return signs


def _alarm_result(evidence: Evidence, excess: float, passed: bool, reason: str) -> GateResult:
    """The result of G1; ``excess`` is the worst figure as a multiple of its limit."""
    return GateResult(
        name="G1",
        title="leak alarm",
        value=excess,
        threshold=1.0,
        n=len(evidence.walk_forward) + len(evidence.holdout),
        passed=passed,
        reason=reason,
    )
