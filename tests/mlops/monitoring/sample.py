"""The embedded samples as columns to watch: quiet months, and the break of November 2018."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.data.sources.samples import SampleSource
from mlops.features.bar_arrays import BarArrays
from mlops.features.indicators import find_indicator
from mlops.monitoring.drift.recommendation import FAST_EFFECT
from mlops.monitoring.drift.report import (
    DriftConfig,
    DriftReference,
    Role,
    first_state,
    fit_reference,
    judge_hourly,
)
from mlops.service import Timeframe
from mlops.stats.jumps import jump_p_values, measure_jumps
from mlops.stats.window_null import NumericNull

BREAK = pd.Timestamp("2018-11-14 08:00", tz="UTC")
REFERENCE = 5000
WINDOW = 168
MONTH = 720
CONFIG = DriftConfig(window_bars=WINDOW)
FEATURES = ("log_return", "volatility_24", "volume_ratio", "rsi", "macd")
ROLES = dict.fromkeys(FEATURES, Role.FEATURE) | {
    "har_24": Role.TARGET,
    "log_range": Role.REALISED,
}


@cache
def columns(symbol: str) -> pd.DataFrame:
    """Five features, the volatility target as it becomes known, and each bar's part of it."""
    bars = BarArrays.of(SampleSource().fetch(symbol, Timeframe("1h")))
    found = {name: find_indicator(name).compute(bars) for name in ROLES}
    index = pd.DatetimeIndex(bars.open_time).tz_localize("UTC")
    return pd.DataFrame(found, index=index)[200:]


@cache
def quiet_starts(symbol: str) -> tuple[int, ...]:
    """Rows, a day apart, whose month is as volatile as the 5,000 bars before it.

    The standard deviation of returns and the geometric mean range are both within 0.67 to 1.5
    of theirs.
    """
    frame = columns(symbol)
    change, spread = frame["log_return"].to_numpy(), frame["log_range"].to_numpy()
    found = []
    for start in range(REFERENCE, len(frame) - MONTH + 1, 24):
        before, month = slice(start - REFERENCE, start), slice(start, start + MONTH)
        rise = change[month].std() / change[before].std()
        wider = np.exp(spread[month].mean() - spread[before].mean())
        if 0.67 <= rise <= 1.5 and 0.67 <= wider <= 1.5:
            found.append(start)
    return tuple(found)


def disjoint(starts: tuple[int, ...]) -> int:
    """How many of the months do not overlap, taken from the first on."""
    count, free = 0, 0
    for start in starts:
        if start >= free:
            count, free = count + 1, start + MONTH
    return count


def first_alarm(symbol: str, start: int, bars: int) -> dict[str, float]:
    """After how many bars each rule of a watch that begins at a row first asks to retrain.

    Windows are judged by `watch` itself. What looks at every bar is computed for all bars at
    once, at the levels and by the functions that `watch` uses.
    """
    return alarms(columns(symbol).iloc[start - REFERENCE : start + bars], ROLES)


def alarms(frame: pd.DataFrame, roles: Mapping[str, Role]) -> dict[str, float]:
    """The same for a frame whose watch begins after its first 5,000 rows."""
    reference = fit_reference(frame[:REFERENCE], roles, window_bars=WINDOW)
    return {
        "windows": _by_windows(reference, frame),
        "fast": _by_fast_path(reference, frame),
        "measure_jumps": _by_jumps(reference, frame),
    }


def _by_windows(reference: DriftReference, frame: pd.DataFrame) -> float:
    state = first_state(reference)
    for end in range(WINDOW, len(frame) - REFERENCE + 1, WINDOW):
        report, state = judge_hourly(reference, frame[REFERENCE : REFERENCE + end], state, CONFIG)
        assert report.official
        if report.recommendation.asks_for_retraining:
            return end
    return np.inf


def _by_fast_path(reference: DriftReference, frame: pd.DataFrame) -> float:
    level = CONFIG.fast_level(reference.testable)
    ends = np.arange(REFERENCE, len(frame)) + 1
    beyond = []
    for column in reference.columns:
        if column.role is Role.REALISED:
            continue
        assert column.null is not None
        found = column.null.check(frame[column.name].to_numpy(), WINDOW, ends)
        beyond.append((found.p_value < level) & (found.effect >= FAST_EFFECT))
    far = np.array(beyond)
    return _first((far[:, 1:] & far[:, :-1]).any(axis=0)) + 1


def _by_jumps(reference: DriftReference, frame: pd.DataFrame) -> float:
    (name,) = reference.watched_for_jumps
    (column,) = (column for column in reference.columns if column.name == name)
    assert isinstance(column.null, NumericNull)
    assert column.jumps is not None
    looks = measure_jumps(column.null.ordered.normal_scores(frame[column.name].to_numpy()))
    p_values = jump_p_values(column.jumps, looks)[-(len(frame) - REFERENCE) :]
    return _first(p_values < CONFIG.jump_level(1))


def _first(alarms: NDArray[np.bool_]) -> float:
    met = np.flatnonzero(alarms)
    return float(met[0]) + 1 if met.size else np.inf
