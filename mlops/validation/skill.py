"""Gate G2: whether the winner shows more skill than the best of as many worthless trials would.

A forecast that takes a side is judged by its profit after costs against no position, a volatility
forecast by its losses against the declared baseline's. Every trial of the search enters the test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from mlops.arrays import FloatArray
from mlops.stats import selection, trading
from mlops.stats.comparison import diebold_mariano
from mlops.stats.trading import SharpeMoments, net_returns, trailing_volatility
from mlops.validation.evidence import Evidence
from mlops.validation.forecasts import Forecasts
from mlops.validation.report import GateResult, Severity

_g2 = partial(GateResult, name="G2")

NO_GAIN = "the winner's gain over the benchmark never varies, so no skill can be shown"


def trial_gains(rows: Forecasts, trials: Mapping[str, FloatArray], *, fee_bps: float) -> FloatArray:
    """Gain of each trial over its benchmark per row, ``(m, k)`` in the order of ``trials``.

    For a forecast that takes a side the gain is the net profit in units of the volatility known
    at the time, for a volatility forecast the baseline's loss less the trial's. A missing forecast
    gains nothing. The first rows, whose volatility is not known yet, are left out.

    Args:
        trials: Forecasts (n,) by name.
        fee_bps: Costs of one turnover of the whole position, in basis points.
    """
    if rows.takes_sides:
        known = trailing_volatility(rows.next_return)
        columns = [
            net_returns(rows.of(f).positions(), rows.next_return, fee_bps=fee_bps) / known
            for f in trials.values()
        ]
    else:
        naive = rows.of_baseline().comparable_losses()
        known = naive
        columns = [
            np.where(np.isfinite(f), naive - rows.of(f).comparable_losses(), 0.0 * naive)
            for f in trials.values()
        ]
    return np.stack(columns, axis=1)[np.isfinite(known)]


def rank_trials(
    rows: Forecasts, trials: Mapping[str, FloatArray], *, fee_bps: float
) -> dict[str, float]:
    """t-statistic of each trial's gain, best first: the measure by which G2 judges the winner.

    A winner by the mean gain may be one whose skill cannot be shown although another trial's can.
    """
    gains = trial_gains(rows, trials, fee_bps=fee_bps)
    statistics = selection.gain_statistics(gains, horizon=rows.horizon)
    order = np.argsort(-statistics, kind="stable")
    names = list(trials)
    return {names[i]: float(statistics[i]) for i in order}


def judge_skill(evidence: Evidence) -> list[GateResult]:
    """G2: the hard test; for a forecast that takes a side also advice on its Sharpe ratio."""
    rows = evidence.walk_forward
    kept = evidence.trials or {evidence.winner: rows.forecast}
    gains = trial_gains(rows, kept, fee_bps=evidence.fee_bps)
    winner = list(kept).index(evidence.winner)
    own = gains[:, winner]
    moments = SharpeMoments.of(own) if own.size else None
    if moments is None:
        return [_result(evidence, math.nan, n=own.size, passed=False, reason=NO_GAIN)]
    if evidence.n_trials > len(kept):
        hard = _judge_by_count(evidence, own, moments)
    elif evidence.n_trials == 1:
        hard = _judge_single(evidence, own, moments)
    else:
        hard = _judge_search(evidence, gains, winner)
    advice = _advise(evidence, gains, moments) if rows.takes_sides else []
    return [hard, *advice]


def _judge_search(evidence: Evidence, gains: FloatArray, winner: int) -> GateResult:
    test = selection.best_of_trials(
        gains, horizon=evidence.walk_forward.horizon, alpha=evidence.alpha
    )
    chance = test.consistent
    passed = chance < evidence.alpha and winner in test.better
    reason = (
        f"the best of {evidence.n_trials} worthless trials would do as well with probability "
        f"{chance:.3f}; below {evidence.alpha:.3g} is asked (SPA, {_describe_benchmark(evidence)})"
    )
    if chance < evidence.alpha and not passed:
        reason = f"some trial has skill (p {chance:.3f}), but not the chosen winner"
    return _result(evidence, chance, n=len(gains), passed=passed, reason=reason)


def _judge_single(evidence: Evidence, own: FloatArray, moments: SharpeMoments) -> GateResult:
    if evidence.walk_forward.takes_sides:
        chance = 1.0 - trading.probabilistic_sharpe(moments)
        test = "probabilistic Sharpe ratio"
    else:
        chance = diebold_mariano(own, horizon=evidence.walk_forward.horizon).p_value
        test = "Diebold-Mariano"
    reason = (
        f"a worthless forecast would do as well with probability {chance:.3f}; "
        f"below {evidence.alpha:.3g} is asked ({test}, {_describe_benchmark(evidence)})"
    )
    return _result(evidence, chance, n=own.size, passed=chance < evidence.alpha, reason=reason)


def _judge_by_count(evidence: Evidence, own: FloatArray, moments: SharpeMoments) -> GateResult:
    """Allow for trials without a record by their number: valid, with less power."""
    n_trials = evidence.n_trials
    if evidence.walk_forward.takes_sides:
        chance = 1.0 - trading.deflated_sharpe(moments, n_trials=n_trials)
        test = "deflated Sharpe ratio"
    else:
        single = diebold_mariano(own, horizon=evidence.walk_forward.horizon).p_value
        chance, test = min(1.0, n_trials * single), "Diebold-Mariano times the trials"
    reason = (
        f"records of some of the {n_trials} trials were not kept; allowing for all of them chance "
        f"does as well with probability {chance:.3f}, below {evidence.alpha:.3g} is asked "
        f"({test}, {_describe_benchmark(evidence)})"
    )
    return _result(evidence, chance, n=own.size, passed=chance < evidence.alpha, reason=reason)


def _result(evidence: Evidence, chance: float, *, n: int, passed: bool, reason: str) -> GateResult:
    return _g2(
        title="skill", value=chance, threshold=evidence.alpha, n=n, passed=passed, reason=reason
    )


def _describe_benchmark(evidence: Evidence) -> str:
    if evidence.walk_forward.takes_sides:
        return f"profit after {evidence.fee_bps:g} bps against no position"
    return "losses against the baseline's"


def _advise(evidence: Evidence, gains: FloatArray, moments: SharpeMoments) -> list[GateResult]:
    n, n_trials = len(gains), evidence.n_trials
    level = 1.0 - evidence.alpha
    independent = max(1.0, trading.effective_trials(gains))
    psr = trading.probabilistic_sharpe(moments)
    dsr = trading.deflated_sharpe(moments, n_trials=n_trials)
    dsr_effective = trading.deflated_sharpe(moments, n_trials=independent)
    needed = trading.minimum_track_record(moments, confidence_level=level)
    overfit = selection.overfitting_probability(gains)
    notes = (
        ("PSR", psr, level, psr > level, "probability that the Sharpe ratio is above 0"),
        ("DSR", dsr, level, dsr > level, f"the same, deflated for {n_trials} trials"),
        (
            "DSR, independent trials",
            dsr_effective,
            level,
            dsr_effective > level,
            f"the same, deflated for the {independent:.1f} independent trials they amount to",
        ),
        ("track record", needed, n, needed <= n, f"bars needed to show skill; there are {n:,}"),
        ("PBO", overfit, 0.5, not overfit >= 0.5, "probability that the search overfitted"),
    )
    return [
        _g2(
            title=title,
            value=value,
            threshold=asked,
            n=n,
            passed=passed,
            reason=reason,
            severity=Severity.ADVISORY,
        )
        for title, value, asked, passed, reason in notes
    ]
