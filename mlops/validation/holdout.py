"""Gates G3, G4 and G5: the holdout, the champion on the same rows, and the risk taken."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from mlops.stats import metrics, trading
from mlops.stats.comparison import TestResult, clark_west, diebold_mariano, pesaran_timmermann
from mlops.stats.trading import SharpeMoments, net_returns, sharpe_per_bar, trading_figures
from mlops.validation.evidence import Evidence, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.report import GateResult, Severity

_g3 = partial(GateResult, name="G3")
_g4 = partial(GateResult, name="G4", title="champion")
_g5 = partial(GateResult, name="G5")

MIN_COMPARED_BARS = 100
COMPARED_HORIZONS = 20
"""Two models are not compared on fewer bars, or fewer horizons, than these: at a level of 0.05 the
Diebold-Mariano test of 24-bar labels errs .08 of the time at 20 horizons, .15 at two."""


def judge_holdout(evidence: Evidence) -> list[GateResult]:
    """G3: a profit after costs, or a loss below the baseline's, on rows no choice has seen."""
    rows = evidence.holdout.finite_or_none()
    if rows is None:
        reason = "no forecast is finite"
        return [_g3(title="holdout", value=math.nan, threshold=0.0, passed=False, reason=reason)]
    if rows.takes_sides:
        net = net_returns(rows.positions(), rows.next_return, fee_bps=evidence.fee_bps)
        value = sharpe_per_bar(net) * math.sqrt(evidence.bars_per_year)
        reason = (
            f"the Sharpe ratio on the holdout is {value:.2f} a year after {evidence.fee_bps:g} "
            "bps; above 0 is asked"
        )
    else:
        value = metrics.skill(rows.losses(), rows.of_baseline().losses())
        side = "below" if value > 0.0 else "not below"
        reason = f"the loss on the holdout is {side} the baseline's: skill {value:.2%}"
    hard = _g3(
        title="holdout", value=value, threshold=0.0, n=len(rows), passed=value > 0.0, reason=reason
    )
    return [hard, *_p_values(rows, evidence)]


def _p_values(rows: Forecasts, evidence: Evidence) -> list[GateResult]:
    """Advisory p-values of skill on the holdout alone."""
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
        moments = SharpeMoments.of(net)
        # Without moments the returns never vary, which shows nothing.
        p = 1.0 if moments is None else 1.0 - trading.probabilistic_sharpe(moments)
        tests.append(("profit (PSR)", TestResult(sharpe_per_bar(net), p, len(net))))
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


def judge_against_champion(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """G4: refused if worse than the champion on the same rows, or not better where required."""
    limit, horizon = thresholds.champion_alpha, evidence.holdout.horizon
    if evidence.champion is None:
        reason = "no champion but the baseline serves; G2 and G3 judge against it"
        return [_g4(value=math.nan, threshold=limit, passed=True, reason=reason)]
    rows = evidence.holdout
    difference = rows.of(evidence.champion).comparable_losses() - rows.comparable_losses()
    difference = difference[np.isfinite(difference)]
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


def judge_risk(evidence: Evidence, thresholds: Thresholds) -> list[GateResult]:
    """G5: drawdown and costs on the holdout; only reported for a volatility."""
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
