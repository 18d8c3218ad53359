"""Simulated series without drift, changes planted in them, and the usual rules beside ours.

Every simulator gives R paths of T bars (R, T). The market is a GARCH(.08, .90) with Student's
t6 shocks: its features remember from hours (RSI) to weeks (the volatility), as real ones do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import ks_2samp, wasserstein_distance

FloatArray = NDArray[np.float64]

BURN_IN = 500
GAP = 500
"""Bars between the end of a reference and the window that is checked."""

CHANGES = {
    "none": lambda x, mean, sd: x,
    "mean +1 sd": lambda x, mean, sd: x + sd,
    "scale x1.5": lambda x, mean, sd: mean + 1.5 * (x - mean),
    "scale x2": lambda x, mean, sd: mean + 2.0 * (x - mean),
}


def iid(paths: int, bars: int, rng: np.random.Generator) -> FloatArray:
    return rng.standard_normal((paths, bars))


def autoregressive(phi: float, paths: int, bars: int, rng: np.random.Generator) -> FloatArray:
    """AR(1) of unit variance."""
    shocks = rng.standard_normal((paths, BURN_IN + bars)) * np.sqrt(1.0 - phi**2)
    return lfilter([1.0], [1.0, -phi], shocks, axis=1)[:, BURN_IN:]


def garch(paths: int, bars: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Returns of unit variance, and the volatility each was drawn with."""
    total = BURN_IN + bars
    shocks = rng.standard_t(6, (total, paths)) / np.sqrt(1.5)
    variance = np.ones(paths)
    volatility = np.empty((total, paths))
    for t in range(total):
        volatility[t] = np.sqrt(variance)
        variance = 0.02 + 0.08 * variance * shocks[t] ** 2 + 0.90 * variance
    return (volatility * shocks)[BURN_IN:].T, volatility[BURN_IN:].T


def market(
    paths: int, bars: int, rng: np.random.Generator, rise: FloatArray | None = None
) -> dict[str, FloatArray]:
    """Features of a simulated market; ``rise`` (bars,) multiplies its volatility."""
    warm_up = 100
    factor = 1.0 if rise is None else np.concatenate([np.ones(warm_up), rise])
    returns = garch(paths, warm_up + bars, rng)[0] * factor
    price = np.cumsum(0.01 * returns, axis=1)
    found = {
        "ret": returns,
        "rv24": 0.5 * np.log(_mean(returns**2, 24)),
        "rsi": _rsi(returns),
        "macd": _ema(price, 12) - _ema(price, 26),
        "mom24": _mean(returns, 24),
        "abs": np.log(np.abs(returns) + 0.01),
    }
    return {name: x[:, warm_up:] for name, x in found.items()}


def nine_series(paths: int, bars: int, seed: int) -> dict[str, FloatArray]:
    """The series of the acceptance figures, from independent noise to slow features."""
    rng = np.random.default_rng(seed)
    simulated = market(paths, bars, rng)
    return {
        "iid": iid(paths, bars, rng),
        "AR.9": autoregressive(0.9, paths, bars, rng),
        "AR.98": autoregressive(0.98, paths, bars, rng),
        **{name: simulated[name] for name in ("ret", "rv24", "rsi", "macd")},
    }


def ten_columns(
    paths: int, bars: int, rng: np.random.Generator, rise: FloatArray | None = None
) -> dict[str, FloatArray]:
    """Six features of one market and four series of their own."""
    return {
        **market(paths, bars, rng, rise),
        "AR.9": autoregressive(0.9, paths, bars, rng),
        "AR.98": autoregressive(0.98, paths, bars, rng),
        "AR.7": autoregressive(0.7, paths, bars, rng),
        "iid": iid(paths, bars, rng),
    }


def plant(change: str, reference: FloatArray, window: FloatArray) -> FloatArray:
    return CHANGES[change](window, reference.mean(), reference.std())


def kolmogorov_smirnov_alarms(reference: FloatArray, window: FloatArray) -> bool:
    """The two-sample test as if bars were independent."""
    return bool(ks_2samp(reference, window, method="asymp").pvalue < 0.05)


def evidently_alarms(reference: FloatArray, window: FloatArray) -> bool:
    """Evidently's default for references above 1,000 rows: Wasserstein / sd >= 0.1."""
    return bool(wasserstein_distance(reference, window) / reference.std() >= 0.1)


def _mean(x: FloatArray, span: int) -> FloatArray:
    running = np.cumsum(x, axis=1)
    before = np.concatenate([np.zeros((len(x), span)), running[:, :-span]], axis=1)
    return (running - before) / span


def _ema(x: FloatArray, span: int) -> FloatArray:
    weight = 2.0 / (span + 1.0)
    return lfilter([weight], [1.0, weight - 1.0], x, axis=1)


def _rsi(returns: FloatArray) -> FloatArray:
    rise = lfilter([1 / 14], [1.0, 1 / 14 - 1.0], np.maximum(returns, 0.0), axis=1)
    fall = lfilter([1 / 14], [1.0, 1 / 14 - 1.0], np.maximum(-returns, 0.0), axis=1)
    return 100.0 * rise / (rise + fall + 1e-12)
