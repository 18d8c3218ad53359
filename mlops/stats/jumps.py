"""Has a series jumped? The last day beside the month before, judged by the jumps of quiet months.

A slow series wanders so far in a reference of months that a sixfold volatility may lie inside
its range for a week. Its jumps wander far less. Every bar is looked at, so the null is that of
the largest jump of a whole span of looks: a p-value that needs no correction for looking often.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlops.stats.statistic_null import StatisticNull

FloatArray = NDArray[np.float64]

RECENT = 24
"""Bars whose mean is compared ..."""

BEFORE = 720
"""... with the mean of so many bars before them."""

BARS = RECENT + BEFORE
SPANS_PER_LENGTH = 8
MIN_SPANS = 4.0
"""The least number of spans of looks a reference must hold."""

WORTH = 0.8
"""What a span is worth of an independent one: neighbours share the month that bars look back on.

With it p-values are as rare as they say on noise, autoregressions and a market's features.
"""


def measure_jumps(scores: FloatArray) -> FloatArray:
    """Mean of the last 24 scores less that of the 720 before, for every bar from the 744th on."""
    running = np.concatenate([[0.0], np.cumsum(scores)])
    ends = np.arange(BARS, scores.size + 1)
    recent = (running[ends] - running[ends - RECENT]) / RECENT
    before = (running[ends - RECENT] - running[ends - BARS]) / BEFORE
    found: FloatArray = recent - before
    return found


def fit_jumps(scores: FloatArray, *, span: int) -> StatisticNull | None:
    """The null of the largest jump, either way, in ``span`` looks; None where N is too short.

    ``scores`` (N,) are normal scores, so that no single bar is a jump. Logarithms make the
    maxima nearly normal; overlapping spans are worth `WORTH` of those that fit side by side.
    """
    sizes = np.abs(measure_jumps(scores)) if scores.size >= BARS else np.zeros(0)
    if sizes.size < MIN_SPANS * span:
        return None
    largest = sliding_window_view(sizes, span)[:: max(1, span // SPANS_PER_LENGTH)].max(axis=1)
    return StatisticNull.of(_log(largest), WORTH * sizes.size / span, resolution=1.0 / RECENT)


def jump_p_values(null: StatisticNull, found: FloatArray) -> FloatArray:
    """How likely a span without a change holds a jump as large anywhere (E,)."""
    return null.upper(_log(np.abs(found)))


def _log(sizes: FloatArray) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(sizes, 1e-9))
    return logs
