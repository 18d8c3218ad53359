"""Means whose value does not depend on where the history starts, and ratios that never overflow.

A running sum would carry the rounding of every earlier bar. `trailing_sum` adds each window
separately, as a fixed tree of pairs: log2(span) passes over the array, and values that are
bit-equal for every start of the history.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter

from mlops.arrays import FloatArray

_LARGEST = np.finfo(np.float64).max


def trailing_sum(values: FloatArray, span: int) -> FloatArray:
    """Sum of the last ``span`` values at each position (N,); NaN before there are that many."""
    result = np.full(len(values), np.nan)
    if len(values) < span:
        return result
    total: FloatArray | None = None
    covered, width, left = 0, 1, span
    block = values
    while True:
        if left & 1:
            total = block if total is None else _add_aligned(total, block[covered:])
            covered += width
        left >>= 1
        if not left:
            break
        block = _add_aligned(block, block[width:])
        width *= 2
    result[span - 1 :] = total
    return result


def trailing_mean(values: FloatArray, span: int) -> FloatArray:
    """Mean of the last ``span`` values at each position (N,); NaN before there are that many.

    Finite values have a finite mean, also where their sum is none.
    """
    with np.errstate(over="ignore"):
        mean = trailing_sum(values, span)
    mean /= span
    too_large = np.isinf(mean)
    if too_large.any():
        # Shares of a value are summed instead; rounding may lift their sum above the largest float.
        shares = trailing_sum(np.ldexp(values, -span.bit_length()), span) / span
        bound = np.ldexp(_LARGEST, -span.bit_length())
        mean[too_large] = np.ldexp(np.clip(shares[too_large], -bound, bound), span.bit_length())
    return mean


def log_of_ratio(value: FloatArray, base: FloatArray) -> FloatArray:
    """Logarithm of ``value / base`` (N,) of positive numbers, finite for all that are finite."""
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        logarithm: FloatArray = np.log(value / base)
    lost = np.isinf(logarithm)
    if lost.any():
        logarithm[lost] = np.log(value[lost]) - np.log(base[lost])
    return logarithm


def recursive_mean(values: FloatArray, decay: float) -> FloatArray:
    """Exponential mean ``m = decay * m + (1 - decay) * value`` from zero (N,)."""
    mean: FloatArray = lfilter([1.0 - decay], [1.0, -decay], values)
    return mean


def recursive_sum(values: FloatArray, decay: float) -> FloatArray:
    """Decaying sum ``s = decay * (s + value)`` from zero (N,)."""
    total: FloatArray = lfilter([decay], [1.0, -decay], values)
    return total


def bars_to_forget(decay: float, *, start: float, tolerance: float) -> int:
    """Bars until a recursive state with an initial error of ``start`` is within ``tolerance``."""
    return max(0, math.ceil(math.log(tolerance / start) / math.log(decay)))


def _add_aligned(left: FloatArray, right: FloatArray) -> FloatArray:
    return left[: len(right)] + right
