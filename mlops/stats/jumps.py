"""Test for a jump of a series: the mean of the last day against the month before.

A slow series varies so much over a reference of months that sixfold volatility may stay inside
its range for a week; its jumps vary far less. Every bar is tested, so the null is that of the
largest jump in a span of bars, and the p-value needs no correction for repeated tests.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mlops.arrays import FloatArray
from mlops.stats.statistic_null import StatisticNull

RECENT = 24
"""Bars of the recent mean."""

BEFORE = 720
"""Bars of the mean before the recent bars."""

BARS = RECENT + BEFORE
SPANS_PER_LENGTH = 8
MIN_SPANS = 4.0
"""The least number of spans in a reference."""

WORTH = 0.8
"""Independent spans for each span, because neighbours share the month before them.

With this value p-values are uniform on noise, autoregressions and a market's features.
"""


def measure_jumps(scores: FloatArray) -> FloatArray:
    """Mean of the last 24 scores less that of the 720 before, for each bar from the 744th on."""
    running = np.concatenate([[0.0], np.cumsum(scores)])
    ends = np.arange(BARS, scores.size + 1)
    recent = (running[ends] - running[ends - RECENT]) / RECENT
    before = (running[ends - RECENT] - running[ends - BARS]) / BEFORE
    jumps: FloatArray = recent - before
    return jumps


def fit_jumps(scores: FloatArray, *, span: int) -> StatisticNull | None:
    """The null of the largest jump, up or down, in ``span`` bars; None where N is too short.

    Logarithms make the maxima nearly normal. Overlapping spans are worth `WORTH` of the spans
    that fit without overlap.

    Args:
        scores: Normal scores (N,), which bound the effect of a single bar.
        span: The bars that are tested together.
    """
    sizes = np.abs(measure_jumps(scores)) if scores.size >= BARS else np.zeros(0)
    if sizes.size < MIN_SPANS * span:
        return None
    largest = sliding_window_view(sizes, span)[:: max(1, span // SPANS_PER_LENGTH)].max(axis=1)
    return StatisticNull.of(_log_sizes(largest), WORTH * sizes.size / span, resolution=1.0 / RECENT)


def jump_p_values(null: StatisticNull, jumps: FloatArray) -> FloatArray:
    """The probability that a span without a change has a jump as large anywhere (E,)."""
    return null.upper(_log_sizes(np.abs(jumps)))


def _log_sizes(sizes: FloatArray) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(sizes, 1e-9))
    return logs
