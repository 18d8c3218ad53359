"""Tests of many hypotheses at once: the best of many trials, and the false discovery rate.

`best_of_trials` runs the SPA test of the arch package as a gate needs it: trials in different
units are made comparable, trials that never act are left out, long series are averaged so that
the test stays affordable. `benjamini_yekutieli` bounds the share of false rejections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtrc

from mlops.arrays import BoolArray, FloatArray
from mlops.errors import MlopsError
from mlops.stats.dependence import (
    block_length,
    finite_block_factor,
    is_constant,
    lag_length,
    long_run_variance,
)


def benjamini_yekutieli(p_values: ArrayLike, level: float) -> BoolArray:
    """Which of P hypotheses to reject (P,), with the false discovery rate held to ``level``.

    The bound holds for any dependence between the tests; its cost is a factor of about ln P.
    Where all hypotheses are true, the probability of any rejection is at most ``level``.
    Source: Benjamini and Yekutieli (2001), theorem 1.3.

    Raises:
        MlopsError: when a p-value is not a number between 0 and 1.

    >>> benjamini_yekutieli([0.001, 0.2, 0.01, 0.7], level=0.05).tolist()
    [True, False, True, False]
    """
    p = np.asarray(p_values, dtype=np.float64).ravel()
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise MlopsError(f"p-values must lie between 0 and 1 but got {p}; drop untested columns")
    if not p.size:
        return np.zeros(0, dtype=np.bool_)
    ranks = np.arange(1, p.size + 1)
    limits = level * ranks / (p.size * np.sum(1.0 / ranks))
    passing = np.flatnonzero(np.sort(p) <= limits)
    cut = float(np.sort(p)[passing[-1]]) if passing.size else -1.0
    rejected: BoolArray = p <= cut
    return rejected


REPS = 1000
CLEAR = 1e-6
"""Chance of the resamples at which a first p-value is taken to exceed alpha for certain."""

SEED = 20241205
MAX_ROWS = 8_000


@dataclass(frozen=True, slots=True)
class SpaResult:
    """P-values of superior predictive ability, and the trials that are superior on their own.

    ``better`` are columns of the input whose own statistic exceeds the critical value of the
    maximum, so that choosing one of them needs no further correction.
    """

    lower: float
    consistent: float
    upper: float
    better: tuple[int, ...]
    n_used: int
    n_trials: int


def superior_ability(
    benchmark: FloatArray,
    models: FloatArray,
    *,
    block: int,
    alpha: float = 0.05,
    reps: int = REPS,
    seed: int = SEED,
) -> SpaResult:
    """Hansen's SPA test of losses ``models (n, k)`` against ``benchmark (n,)``, as arch has it."""
    from arch.bootstrap import SPA

    test = SPA(benchmark, models, block_size=block, reps=reps, seed=seed)
    test.compute()
    better = test.better_models(pvalue=alpha, pvalue_type="consistent")
    low, middle, high = (float(p) for p in test.pvalues)
    return SpaResult(low, middle, high, tuple(int(i) for i in better), len(models), models.shape[1])


def best_of_trials(
    gains: FloatArray,
    *,
    horizon: int = 1,
    alpha: float = 0.05,
    reps: int = REPS,
    seed: int = SEED,
) -> SpaResult:
    """SPA test of gains over the benchmark, as a gate needs it.

    Each column is first divided by its long-run deviation: arch compares raw means, so one
    volatile trial would decide how large a gain must be (Hansen 2005 studentises for this
    reason). Columns that do not vary are not tested and cannot win. Means are shrunk by the
    error of a bootstrap with few blocks: with 12-bar labels and 800 rows, tests at .05 err .056
    of the time with the shrinkage and .08 without. Above 8,000 rows runs of neighbours are
    averaged, which keeps means and long-run variances. No p-value is reported below
    1 / (reps + 1). Alpha is ten times that, or ``reps`` resamples already show that p exceeds it:
    a small alpha needs many, which noise need not wait for.

    Args:
        gains: Loss of the benchmark less that of each trial (n, k); positive is better.
        horizon: Bars that a label looks ahead, over which gains overlap.
        alpha: The level at which a trial is superior on its own.
    """
    varying = np.flatnonzero([not is_constant(column) for column in gains.T])
    if varying.size == 0 or len(gains) < 2:
        return SpaResult(1.0, 1.0, 1.0, (), len(gains), 0)
    scaled = gains[:, varying] / _long_run_deviation(gains[:, varying], horizon)
    block = block_length(len(scaled), horizon=horizon)
    excess = 1.0 - 1.0 / _bootstrap_error(len(scaled) / block, block, horizon, alpha)
    run = math.ceil(len(scaled) / MAX_ROWS)
    block = max(1, round(block / run))
    binned = _average_runs(scaled - excess * scaled.mean(axis=0), run)
    test = partial(
        superior_ability, np.zeros(len(binned)), -binned, block=block, alpha=alpha, seed=seed
    )
    spa, enough = test(reps=reps), math.ceil(10 / alpha)
    if reps < enough and not _clearly_exceeds(spa.consistent, alpha, reps):
        spa, reps = test(reps=enough), enough
    least = 1.0 / (reps + 1)
    return SpaResult(
        lower=max(spa.lower, least),
        consistent=max(spa.consistent, least),
        upper=max(spa.upper, least),
        better=tuple(int(varying[i]) for i in spa.better),
        n_used=len(binned),
        n_trials=int(varying.size),
    )


def _clearly_exceeds(p_value: float, alpha: float, reps: int) -> bool:
    """Whether resamples at a true p-value of alpha would hardly ever show one as large."""
    return bool(bdtrc(round(p_value * reps) - 1, reps, alpha) < CLEAR)


def _bootstrap_error(n_blocks: float, block: int, horizon: int, alpha: float) -> float:
    """Factor by which resampled means vary too little: few blocks, and overlap cut at block ends.

    A block of b rows keeps 1 - (h^2 - 1) / (3 h b) of the variance that h-bar overlap adds.
    """
    kept = 1.0 - (horizon**2 - 1) / (3.0 * horizon * max(block, horizon))
    return finite_block_factor(n_blocks, tail=alpha) / math.sqrt(kept)


def gain_statistics(gains: FloatArray, *, horizon: int = 1) -> FloatArray:
    """t-statistic of each column's mean, by which `best_of_trials` ranks; -inf if constant."""
    statistics = np.full(gains.shape[1], -np.inf)
    varying = np.flatnonzero([not is_constant(column) for column in gains.T])
    chosen = gains[:, varying]
    deviation = _long_run_deviation(chosen, horizon)
    statistics[varying] = chosen.mean(axis=0) / deviation * math.sqrt(len(gains))
    return statistics


def _long_run_deviation(gains: FloatArray, horizon: int) -> FloatArray:
    lags = lag_length(len(gains), horizon=horizon)
    return np.sqrt([long_run_variance(column, lags) for column in gains.T])


def _average_runs(rows: FloatArray, run: int) -> FloatArray:
    """Means of runs of rows; the oldest rows that fill no run are dropped."""
    if run <= 1:
        return rows
    kept = rows[len(rows) % run :]
    return np.asarray(kept.reshape(-1, run, rows.shape[1]).mean(axis=1))


def step_m(
    benchmark: FloatArray,
    models: FloatArray,
    *,
    block: int,
    alpha: float = 0.05,
    reps: int = REPS,
    seed: int = SEED,
) -> tuple[int, ...]:
    """Columns better than the benchmark with the family-wise error held (Romano, Wolf 2005)."""
    from arch.bootstrap import StepM

    test = StepM(benchmark, models, size=alpha, block_size=block, reps=reps, seed=seed)
    test.compute()
    return tuple(np.asarray(test.superior_models, dtype=np.int64).tolist())


def model_confidence_set(
    losses: FloatArray, *, block: int, alpha: float = 0.05, reps: int = REPS, seed: int = SEED
) -> tuple[int, ...]:
    """Columns among which the best lies with confidence 1 - alpha (Hansen, Lunde, Nason 2011)."""
    from arch.bootstrap import MCS

    test = MCS(losses, size=alpha, block_size=block, reps=reps, seed=seed)
    test.compute()
    return tuple(np.asarray(test.included, dtype=np.int64).tolist())


def overfitting_probability(returns: FloatArray, *, n_blocks: int = 16) -> float:
    """Share of half-and-half splits in which the in-sample best is below the median outside.

    Combinatorially symmetric cross-validation of ``returns (n, k)`` by Sharpe ratio; about .5
    for noise. Source: Bailey, Borwein, Lopez de Prado and Zhu (2017). NaN below two trials.
    """
    rows = len(returns) // n_blocks
    if returns.shape[1] < 2 or rows < 2:
        return math.nan
    pieces = returns[: rows * n_blocks].reshape(n_blocks, rows, -1)
    inside = np.zeros((math.comb(n_blocks, n_blocks // 2), n_blocks))
    chosen = np.array(list(combinations(range(n_blocks), n_blocks // 2)))
    np.put_along_axis(inside, chosen, 1.0, axis=1)
    sums, squares = pieces.sum(axis=1), (pieces**2).sum(axis=1)
    size = rows * n_blocks // 2
    best = _sharpe_of_sums(inside @ sums, inside @ squares, size).argmax(axis=1)
    outside = _sharpe_of_sums((1 - inside) @ sums, (1 - inside) @ squares, size)
    won = outside[np.arange(len(best)), best]
    rank = (outside < won[:, None]).sum(axis=1) + 0.5 * (outside == won[:, None]).sum(axis=1)
    return float(np.mean(rank / returns.shape[1] <= 0.5))


def _sharpe_of_sums(sums: FloatArray, squares: FloatArray, n: int) -> FloatArray:
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0.0)
    return np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 0.0)
