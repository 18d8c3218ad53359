"""G3, G4 and G5: the untouched rows, the champion on the same rows, and the risk taken."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from mlops.stats import metrics, trading
from mlops.stats.comparison import TestResult, clark_west, diebold_mariano, pesaran_timmermann
from mlops.stats.dependence import FloatArray
from mlops.stats.trading import SharpeMoments, net_returns, sharpe_per_bar, trading_figures
from mlops.validation.evidence import Evidence, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.report import GateResult, Severity

_g3 = partial(GateResult, name="G3")
_g4 = partial(GateResult, name="G4", title="champion")
_g5 = partial(GateResult, name="G5")

MIN_COMPARED_BARS = 100
COMPARED_HORIZONS = 20
"""Fewer bars, or fewer horizons, than these decide nothing between two models: the
Diebold-Mariano test of 24-bar labels errs .08 of the time at 20 horizons, .15 at two."""


def judge_holdout(evidence: Evidence) -> list[GateResult]:
    """G3: a profit after costs, or a loss below the baseline's, on rows no choice has seen."""
    rows = evidence.holdout.finite_or_none()
    if rows is None:
        reason = "no forecast is finite"
        return [_g3(title="holdout", value=math.nan, threshold=0.0, passed=False, reason=reason)]
    if rows.takes_sides:
        return [_profit(rows, evidence), *_p_values(rows, evidence)]
    return [_loss(rows), *_p_values(rows, evidence)]


def _profit(rows: Forecasts, evidence: Evidence) -> GateResult:
    net = net_returns(rows.positions(), rows.next_return, fee_bps=evidence.fee_bps)
    ratio = sharpe_per_bar(net) * math.sqrt(evidence.bars_per_year)
    reason = (
        f"the Sharpe ratio on the holdout is {ratio:.2f} a year after {evidence.fee_bps:g} bps; "
        "above 0 is asked"
    )
    return _g3(
        title="holdout", value=ratio, threshold=0.0, n=len(rows), passed=ratio > 0.0, reason=reason
    )


def _loss(rows: Forecasts) -> GateResult:
    skill = metrics.skill(rows.losses(), rows.of_baseline().losses())
    side = "below" if skill > 0.0 else "not below"
    reason = f"the loss on the holdout is {side} the baseline's: skill {skill:.2%}"
    return _g3(
        title="holdout", value=skill, threshold=0.0, n=len(rows), passed=skill > 0.0, reason=reason
    )


def _p_values(rows: Forecasts, evidence: Evidence) -> list[GateResult]:
    """Advisory: how surely the holdout alone shows skill."""
    move, called = rows.moves()
    naive = rows.of_baseline().moves()[1]
    gain = rows.of_baseline().losses() - rows.losses()
    tests = [
        ("signs (PT)", pesaran_timmermann(move, called, horizon=rows.horizon)),
        ("nested (CW)", clark_west(move, called, naive, horizon=rows.horizon)),
        ("loss (DM)", diebold_mariano(gain, horizon=rows.horizon)),
    ]
    if rows.takes_sides:
        net = net_returns(rows.positions(), rows.next_return, fee_bps=evidence.fee_bps)
        tests.append(("profit (PSR)", _psr(SharpeMoments.of(net), len(net))))
    return [
        _g3(
            title=f"holdout {name}",
            value=test.p_value,
            threshold=evidence.alpha,
            n=test.n,
            passed=test.p_value < evidence.alpha,
            reason="one-sided p-value of the holdout alone",
            severity=Severity.ADVISORY,
        )
        for name, test in tests
    ]


def _psr(moments: SharpeMoments | None, n: int) -> TestResult:
    if moments is None:
        return TestResult(math.nan, 1.0, n)
    return TestResult(moments.sharpe, 1.0 - trading.probabilistic_sharpe(moments), n)


def judge_against_champion(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """G4: refused if worse than the champion on the same rows, or not better where asked."""
    limit, horizon = thresholds.champion_alpha, evidence.holdout.horizon
    if evidence.champion is None:
        reason = "no champion but the baseline serves; G2 and G3 judge against it"
        return [_g4(value=math.nan, threshold=limit, passed=True, reason=reason)]
    difference = _champion_difference(evidence, evidence.champion)
    must_be_better = evidence.require_better and evidence.champion_healthy
    n, needed = difference.size, max(MIN_COMPARED_BARS, COMPARED_HORIZONS * horizon)
    if n < needed:
        reason = (
            f"{n:,} bars are new to the champion and forecast by both, {needed:,} are needed to "
            "compare; an A/B test on coming bars will tell"
        )
        passed = not must_be_better
        return [_g4(value=math.nan, threshold=limit, n=n, passed=passed, reason=reason)]
    if must_be_better:
        p = diebold_mariano(difference, horizon=horizon).p_value
        reason = f"live without an A/B test asks to be better than the champion: p {p:.3f}"
        return [_g4(value=p, threshold=limit, n=n, passed=p < limit, reason=reason)]
    p = diebold_mariano(-difference, horizon=horizon).p_value
    reason = f"p {p:.3f} of being worse than the champion on the same bars; low p refuses"
    return [_g4(value=p, threshold=limit, n=n, passed=p >= limit, reason=reason)]


def _champion_difference(evidence: Evidence, champion: FloatArray) -> FloatArray:
    """Champion's loss less the candidate's on rows both forecast."""
    rows = evidence.holdout
    found = rows.of(champion).comparable_losses() - rows.comparable_losses()
    return found[np.isfinite(found)]


def judge_risk(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """G5: drawdown and costs on the holdout; a volatility's are reported only."""
    rows = evidence.holdout
    figures = trading_figures(
        rows.positions(),
        rows.next_return,
        fee_bps=evidence.fee_bps,
        bars_per_year=evidence.bars_per_year,
    )
    severity = Severity.HARD if rows.takes_sides else Severity.ADVISORY
    fall, share = figures.max_drawdown, figures.cost_share
    allowed, most = thresholds.max_drawdown, thresholds.max_cost_share
    spent = f"costs are {share:.0%} of gross gains; {most:.0%} is allowed"
    return [
        _g5(
            title="drawdown",
            value=fall,
            threshold=-allowed,
            n=len(rows),
            passed=fall > -allowed,
            reason=f"equity fell at most {-fall:.1%} after costs; {allowed:.0%} is allowed",
            severity=severity,
        ),
        _g5(
            title="costs",
            value=share,
            threshold=most,
            n=len(rows),
            passed=share <= most,
            reason=spent if math.isfinite(share) else "costs were paid and nothing was gained",
            severity=severity,
        ),
    ]
