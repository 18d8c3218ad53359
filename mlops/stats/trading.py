"""Trading figures of a forecast: positions by one rule, net returns, and Sharpe ratio tests.

The rule: ``position_t = clip(edge_t / (2 s_t), -1, 1)``, where ``edge_t`` is the forecast
gain of being long over the next bars and ``s_t`` the root mean square of the edges forecast
before t (EWMA, decay .98; no position during the first 20 forecasts). Position t is known at
the close of bar t and earns the return of bar t + 1.

Reasons for this rule: it has no unit, so a shrunk forecast trades like an unshrunk one. Against
``sign(edge)`` it does not pay the same fee for a weak forecast as for a strong one: with a
predictable share of 2 % of hourly variance (volatility .5 %) it keeps 83 % of its edge after
1 bp where the sign keeps 81 %, and its Sharpe ratio per bar is .115 against .092; for a
product of two inputs .109 against .069. Full size at two scales loses 1 to 2 % of the
Sharpe ratio of an unbounded position and bounds the risk. The scale reads only the past, so without
fees a worthless forecast earns zero on average whatever its shape.

The tests of a Sharpe ratio (probabilistic and deflated ratio, minimum track record) take ratios
per bar; kurtosis is the plain fourth moment (3 for a normal). Sources: Bailey and Lopez de Prado
(2012, 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mlops.arrays import FloatArray
from mlops.stats.dependence import is_constant

EDGE_DECAY = 0.98
FULL_SIZE_SCALES = 2.0
WARM_ROWS = 20
VOLATILITY_DECAY = 0.94
BPS = 1e-4
MIN_DEVIATION = 1e-12


def trailing_rms(values: ArrayLike, decay: float) -> FloatArray:
    """EWMA root mean square of the rows strictly before each row; NaN for the first 20."""
    from scipy.signal import lfilter

    squares = np.nan_to_num(np.asarray(values, dtype=np.float64)) ** 2
    weights = 1.0 - decay ** np.arange(1, squares.size + 1)
    smooth = lfilter([1.0 - decay], [1.0, -decay], squares) / weights
    result = np.full(squares.size, np.nan)
    result[WARM_ROWS:] = np.sqrt(smooth[WARM_ROWS - 1 : -1])
    return result


def positions_from_edge(edge: ArrayLike) -> FloatArray:
    """Positions in [-1, 1] by the module's rule; 0 for a NaN edge or an unknown scale."""
    wanted = np.nan_to_num(np.asarray(edge, dtype=np.float64), posinf=0.0, neginf=0.0)
    scale = FULL_SIZE_SCALES * trailing_rms(wanted, EDGE_DECAY)
    known = np.isfinite(scale) & (scale > 0.0)
    ratio = np.divide(wanted, scale, out=np.zeros_like(wanted), where=known)
    return np.clip(ratio, -1.0, 1.0)


def turnover(positions: ArrayLike) -> FloatArray:
    """|position - previous position| per bar, from 0; the last position stays open."""
    held = np.asarray(positions, dtype=np.float64)
    return np.abs(np.diff(held, prepend=0.0))


def net_returns(positions: ArrayLike, next_returns: ArrayLike, *, fee_bps: float) -> FloatArray:
    """position_t * r_{t+1} - turnover_t * fee; a missing (NaN) next bar earns nothing."""
    held = np.asarray(positions, dtype=np.float64)
    earned = held * np.nan_to_num(np.asarray(next_returns, dtype=np.float64))
    return earned - turnover(held) * fee_bps * BPS


def count_trades(positions: ArrayLike) -> int:
    """Bars at which a side is newly taken: from flat, or from the other side."""
    side = np.sign(np.asarray(positions, dtype=np.float64))
    return int(np.sum((side != 0) & (side != np.concatenate([[0.0], side[:-1]]))))


def trailing_volatility(next_returns: ArrayLike) -> FloatArray:
    """Volatility per bar known when each row is forecast: EWMA(.94) of bars up to its close.

    ``next_returns[t]`` is the return of bar t + 1, so row t may use rows before t. NaN for
    the first 20 rows; floored at sqrt(1e-3) of the median, against stretches without trade.
    """
    volatility = trailing_rms(next_returns, VOLATILITY_DECAY)
    known = volatility[np.isfinite(volatility) & (volatility > 0.0)]
    if known.size == 0:
        return np.full(volatility.size, np.nan)
    return np.maximum(volatility, math.sqrt(1e-3) * float(np.median(known)))


def sharpe_per_bar(returns: ArrayLike) -> float:
    """mean / sd (ddof 1), risk-free rate 0; NaN below two rows or without variation."""
    r = np.asarray(returns, dtype=np.float64)
    if r.size < 2 or (deviation := float(r.std(ddof=1))) < MIN_DEVIATION:
        return math.nan
    return float(r.mean()) / deviation


def max_drawdown(returns: ArrayLike) -> float:
    """Deepest fall of compounded equity below its running peak, -1 to 0; the start counts as 1."""
    equity = equity_curve(returns)
    peak = np.maximum(np.maximum.accumulate(equity), 1.0)
    return min(float(np.min(equity / peak, initial=1.0)) - 1.0, 0.0)


def equity_curve(returns: ArrayLike) -> FloatArray:
    """Compounded growth of one unit (n,); a loss of more than 100 % leaves 0."""
    return np.cumprod(growth(returns), dtype=np.float64)


def growth(returns: ArrayLike) -> FloatArray:
    """Factor of equity in each bar (n,)."""
    return np.maximum(1.0 + np.asarray(returns, dtype=np.float64), 0.0)


def win_rate(returns: ArrayLike) -> float:
    """Share of bars with a gain among bars with a gain or a loss; NaN if none."""
    r = np.asarray(returns, dtype=np.float64)
    traded = int(np.count_nonzero(r))
    return float(np.count_nonzero(r > 0)) / traded if traded else math.nan


def profit_factor(returns: ArrayLike) -> float:
    """Sum of gains / |sum of losses|; +inf for gains without a loss, NaN for neither."""
    r = np.asarray(returns, dtype=np.float64)
    gains, losses = float(r[r > 0].sum()), float(-r[r < 0].sum())
    if losses > 0:
        return gains / losses
    return math.inf if gains > 0 else math.nan


@dataclass(frozen=True, slots=True)
class TradingFigures:
    """Figures of the returns, after costs, of positions that follow a forecast."""

    sharpe_per_bar: float
    sharpe_ratio: float
    max_drawdown: float
    win_rate: float
    profit_factor: float
    total_return: float
    n_trades: int
    turnover_per_bar: float
    cost_share: float


def trading_figures(
    positions: ArrayLike, next_returns: ArrayLike, *, fee_bps: float, bars_per_year: float
) -> TradingFigures:
    """All trading figures; ``sharpe_ratio`` is annualised by ``bars_per_year``.

    ``cost_share`` = costs / gross gain of the whole series: +inf for costs without a gain.

    Args:
        positions: Positions in [-1, 1], each known at the close of its bar (n,).
        next_returns: The return of the bar after each position (n,).
        fee_bps: The fee on turnover, in basis points.
    """
    held = np.asarray(positions, dtype=np.float64)
    net = net_returns(held, next_returns, fee_bps=fee_bps)
    traded = turnover(held)
    costs = float(traded.sum()) * fee_bps * BPS
    gross = float(net.sum()) + costs
    share_of_gain = costs / gross if gross > 0.0 else math.inf
    per_bar = sharpe_per_bar(net)
    return TradingFigures(
        sharpe_per_bar=per_bar,
        sharpe_ratio=per_bar * math.sqrt(bars_per_year),
        max_drawdown=max_drawdown(net),
        win_rate=win_rate(net),
        profit_factor=profit_factor(net),
        total_return=float(np.prod(growth(net))) - 1.0,
        n_trades=count_trades(held),
        turnover_per_bar=float(traded.mean()) if held.size else math.nan,
        cost_share=share_of_gain if costs != 0.0 else 0.0,
    )


EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True, slots=True)
class SharpeMoments:
    """The moments that determine the distribution of an estimated Sharpe ratio."""

    sharpe: float
    n: int
    skew: float
    kurtosis: float

    @classmethod
    def of(cls, returns: ArrayLike) -> SharpeMoments | None:
        """Moments of a series of returns; None where it does not vary."""
        r = np.asarray(returns, dtype=np.float64)
        if is_constant(r):
            return None
        z = (r - r.mean()) / r.std()
        sharpe = float(r.mean() / r.std(ddof=1))
        return cls(sharpe, r.size, float((z**3).mean()), float((z**4).mean()))

    @property
    def spread(self) -> float:
        """Standard deviation of sqrt(n - 1) times the estimate."""
        variance = 1.0 - self.skew * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2
        return math.sqrt(max(variance, np.finfo(np.float64).tiny))


def probabilistic_sharpe(moments: SharpeMoments, *, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe ratio exceeds the benchmark's."""
    from scipy.stats import norm

    distance = (moments.sharpe - benchmark) * math.sqrt(moments.n - 1)
    return float(norm.cdf(distance / moments.spread))


def expected_maximum(n_trials: float) -> float:
    """Expected largest of n independent standard normals; 0 for one trial, and never below."""
    from scipy.stats import norm

    if n_trials <= 1:
        return 0.0
    first = float(norm.ppf(1.0 - 1.0 / n_trials))
    second = float(norm.ppf(1.0 - 1.0 / (n_trials * math.e)))
    # The approximation is for many trials: for 1.05 effective trials it gives -0.48.
    return max(0.0, (1.0 - EULER_GAMMA) * first + EULER_GAMMA * second)


def deflated_sharpe(
    moments: SharpeMoments, *, n_trials: float, variance: float | None = None
) -> float:
    """Probability that the ratio exceeds the expected best of n worthless trials.

    Args:
        n_trials: Effective number of independent trials.
        variance: The variance of the trials' ratios; by default 1 / n. Do not measure it across
            the trials: good trials make it larger, so that fewer of them pass.
    """
    spread = math.sqrt(1.0 / moments.n if variance is None else variance)
    return probabilistic_sharpe(moments, benchmark=spread * expected_maximum(n_trials))


def minimum_track_record(
    moments: SharpeMoments, *, benchmark: float = 0.0, confidence_level: float = 0.95
) -> float:
    """Bars needed before the probabilistic ratio reaches the level; +inf at or below benchmark."""
    from scipy.stats import norm

    gain = moments.sharpe - benchmark
    if gain <= 0.0:
        return math.inf
    return 1.0 + (moments.spread * float(norm.ppf(confidence_level)) / gain) ** 2


def effective_trials(series: FloatArray) -> float:
    """Effective number of independent series in (n, k): k^2 / sum of squared correlations."""
    varying = series[:, ~np.array([is_constant(column) for column in series.T])]
    if varying.shape[1] <= 1:
        return float(varying.shape[1])
    correlation = np.corrcoef(varying, rowvar=False)
    return float(varying.shape[1] ** 2 / np.sum(correlation**2))
