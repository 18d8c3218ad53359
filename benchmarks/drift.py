"""CPU of a drift check against a cached reference, beside Evidently's preset and SciPy."""

from __future__ import annotations

import time
import warnings
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from benchmarks.figure import Figure, best_seconds
from mlops.monitoring.drift.report import DriftConfig, Role, check_drift, fit_reference
from mlops.stats.window_null import NumericNull

BARS = 1_000_000
FEATURES = 50
WINDOW = 168
LENGTHS = (24, 168, 500)
ASKED_RATIO = 1000
SAME = 1e-9


def make_frames(bars: int, features: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A reference of unrelated heavy-tailed columns, and a window of the same."""
    rng = np.random.default_rng(0)
    names = [f"feature_{number}" for number in range(features)]
    reference = pd.DataFrame(rng.standard_t(5, (bars, features)), columns=names)
    return reference, pd.DataFrame(rng.standard_t(5, (WINDOW, features)), columns=names)


def evidently_seconds(reference: pd.DataFrame, current: pd.DataFrame) -> float:
    """CPU of one run of Evidently's default drift preset, which sorts the reference each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import Report
        from evidently.presets import DataDriftPreset

        began = time.process_time()
        Report([DataDriftPreset()]).run(current, reference)
        return time.process_time() - began


def against_evidently(bars: int, features: int) -> list[Figure]:
    """A whole check, every column's p-value, effect and distance, on the preset's own frames."""
    reference, current = make_frames(bars, features)
    config = DriftConfig(window_bars=WINDOW)
    roles = dict.fromkeys(reference.columns, Role.FEATURE)
    began = time.process_time()
    fitted = fit_reference(reference, roles, window_bars=WINDOW, max_bars=None)
    fit = time.process_time() - began
    report = check_drift(fitted, current, config)
    ours = best_seconds(lambda: check_drift(fitted, current, config), runs=5)
    theirs = evidently_seconds(reference, current)
    ratio = theirs / ours
    what = f"check of {features} features against {bars:,} cached rows"
    cost = Figure(
        what,
        f"{ours * 1e3:.1f} ms of CPU, {ratio:,.0f} times less",
        f">= {ASKED_RATIO:,} times less than Evidently",
        ratio >= ASKED_RATIO,
        f"DataDriftPreset {theirs:.1f} s; our fit, once, {fit:.1f} s",
    )
    worst = 0.0
    for column in report.columns:
        plain = wasserstein_distance(reference[column.name], current[column.name])
        mine = column.distance * reference[column.name].std(ddof=0)
        worst = max(worst, abs(mine / plain - 1.0))
    same = Figure(
        "its Wasserstein distances",
        f"within {worst:.0e} of SciPy's",
        f"within {SAME:.0e}",
        worst <= SAME,
        "scipy.stats.wasserstein_distance",
    )
    return [cost, same]


def _check_often(null: NumericNull, window: NDArray[np.float64], times: int) -> None:
    for _ in range(times):
        null.check(window)


def cost_of_a_check(bars: int = 5000, repeats: int = 200) -> Figure:
    """Check one feature of a window: p-value, effect size and explanation."""
    rng = np.random.default_rng(1)
    null = NumericNull(rng.standard_normal(bars))
    spent = []
    for n in LENGTHS:
        if n > bars // 10:
            continue
        window = rng.standard_normal(n)
        null.calibrate(n)
        seconds = best_seconds(partial(_check_often, null, window, repeats))
        spent.append((n, seconds / repeats * 1e3))
    return Figure(
        f"check of one feature, reference of {bars:,} bars",
        ", ".join(f"{milliseconds:.2f} ms at n={n}" for n, milliseconds in spent),
        "< 1 ms",
        max(milliseconds for _, milliseconds in spent) < 1.0,
    )


def figures(*, quick: bool = False) -> list[Figure]:
    features = 4 if quick else FEATURES
    return [*against_evidently(BARS, features), cost_of_a_check()]
