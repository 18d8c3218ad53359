"""The indicators: causal, vectorised, free of price and volume units, finite on every bar.

An indicator reads bars up to and including its own. Its warm-up is the number of earlier bars
after which its value agrees, to `AGREEMENT`, with its value on any longer history. For spans the
warm-up is counted; for recursive indicators it follows from the decay, the largest step
(`STEP_CAP`) and the least denominator (`QUIET`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlops.arrays import FloatArray
from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays
from mlops.features.rolling import (
    bars_to_forget,
    log_of_ratio,
    recursive_mean,
    recursive_sum,
    trailing_mean,
)

AGREEMENT = 1e-6
"""How closely a value on a short history must agree with the one on a long history."""

VARIANCE_FLOOR = 1e-10
"""Variance of one bar below which volatility is not measured: one hundredth of 1 bp squared."""

STEP_CAP = math.log(10.0)
"""RSI and MACD cut a larger step within one bar than tenfold: it is a bad print."""

QUIET = 1e-5
"""Mean log change per bar (a tenth of a basis point) below which RSI tends to neutral."""

VOLUME_SPAN = 24
VOLUME_FLOOR = 0.01
"""Share of the trailing mean volume that is added to a volume before its logarithm."""

RSI_DECAY = 1.0 - 1.0 / 14.0
MACD_FAST_DECAY = 1.0 - 2.0 / 13.0
MACD_SLOW_DECAY = 1.0 - 2.0 / 27.0

VOLATILITY_SPANS = (6, 24, 168)
HAR_SPANS = (1, 6, 24, 168)

_MINUTE = np.timedelta64(1, "m")
_DAY_MINUTES = 1440
_WEEK_MINUTES = 7 * _DAY_MINUTES
_MONDAY = np.datetime64("1970-01-05T00:00", "ns")

Compute = Callable[[BarArrays], "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Indicator:
    """A feature: the function that computes it (N,) and the earlier bars that it needs.

    ``built_in``: this release fixes the formula, so that values may be stored on disk.
    """

    name: str
    compute: Compute
    warm_up: int
    built_in: bool = False


def log_range(bars: BarArrays) -> FloatArray:
    """Log volatility of each bar by its range (Parkinson 1980), the unit of that target."""
    spread = log_of_ratio(bars.high, bars.low)
    variance: FloatArray = spread * spread
    variance /= 4.0 * math.log(2.0)
    np.maximum(variance, VARIANCE_FLOOR, out=variance)
    np.log(variance, out=variance)
    variance *= 0.5
    return variance


def mean_log_range(bars: BarArrays, span: int) -> FloatArray:
    """Mean of `log_range` over ``span`` bars, a term of the HAR model (Corsi 2009)."""
    return trailing_mean(log_range(bars), span)


def log_return(bars: BarArrays) -> FloatArray:
    """Log change of the close; after a hole, since the bar's own open."""
    return bars.change


def realised_volatility(bars: BarArrays, span: int) -> FloatArray:
    """Log of the root mean square change over ``span`` bars."""
    variance = trailing_mean(bars.change * bars.change, span)
    volatility: FloatArray = 0.5 * np.log(np.maximum(variance, VARIANCE_FLOOR))
    return volatility


def open_gap(bars: BarArrays) -> FloatArray:
    """Log of the open over the previous close; zero after a hole."""
    return log_of_ratio(bars.open, bars.anchor)


def upper_reach(bars: BarArrays) -> FloatArray:
    """Log of the high over the close."""
    return log_of_ratio(bars.high, bars.close)


def lower_reach(bars: BarArrays) -> FloatArray:
    """Log of the low over the close."""
    return log_of_ratio(bars.low, bars.close)


def volume_surprise(bars: BarArrays) -> FloatArray:
    """Log of the volume over its mean of the last 24 bars, floored at one hundredth of it.

    Bounded by -4.6 and 3.2; zero where nothing was traded in all 24.
    """
    mean = trailing_mean(bars.volume, VOLUME_SPAN)
    return _log_ratio(bars.volume, mean)


def volume_ratio(bars: BarArrays) -> FloatArray:
    """Log of the day's mean volume (24 bars) over the week's (168), floored like the surprise."""
    return _log_ratio(trailing_mean(bars.volume, 24), trailing_mean(bars.volume, 168))


def rsi(bars: BarArrays) -> FloatArray:
    """Wilder's relative strength of 14 bars, on log changes and scaled to -1..1 (50 is 0).

    Flat bars give 0 instead of 0/0.
    """
    step = np.clip(bars.change, -STEP_CAP, STEP_CAP)
    net = recursive_mean(step, RSI_DECAY)
    net /= recursive_mean(np.abs(step), RSI_DECAY) + 2.0 * QUIET
    return net


def macd(bars: BarArrays) -> FloatArray:
    """The 12-bar less the 26-bar exponential mean of the log price: MACD over price.

    Built from changes (price less its mean is a decaying sum of changes), so neither the
    price level nor a hole enters.
    """
    step = np.clip(bars.change, -STEP_CAP, STEP_CAP)
    above_slow = recursive_sum(step, MACD_SLOW_DECAY)
    above_slow -= recursive_sum(step, MACD_FAST_DECAY)
    return above_slow


def _log_ratio(value: FloatArray, mean: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(mean > 0, value / mean, 1.0)
    ratio += VOLUME_FLOOR
    ratio /= 1.0 + VOLUME_FLOOR
    np.log(ratio, out=ratio)
    ratio[np.isnan(mean)] = np.nan
    return ratio


def _wave_of_time(bars: BarArrays, minutes: int, wave: np.ufunc) -> FloatArray:
    elapsed = ((bars.open_time - _MONDAY) // _MINUTE % minutes).astype(np.float64)
    elapsed *= 2.0 * math.pi / minutes
    angle: FloatArray = wave(elapsed)
    return angle


# Numerator and denominator may each start STEP_CAP wrong; the denominator is >= 2 * QUIET.
_RSI_WARM_UP = bars_to_forget(RSI_DECAY, start=STEP_CAP / QUIET, tolerance=AGREEMENT) + 1

# A decaying sum of steps of at most STEP_CAP is bounded by the geometric series.
_MACD_BOUND = 2.0 * STEP_CAP * MACD_SLOW_DECAY / (1.0 - MACD_SLOW_DECAY)
_MACD_WARM_UP = bars_to_forget(MACD_SLOW_DECAY, start=_MACD_BOUND, tolerance=AGREEMENT) + 1

_BUILT_IN: dict[str, tuple[Compute, int]] = {
    "open": (open_gap, 1),
    "high": (upper_reach, 0),
    "low": (lower_reach, 0),
    "close": (log_return, 1),
    "volume": (volume_surprise, VOLUME_SPAN - 1),
    "rsi": (rsi, _RSI_WARM_UP),
    "macd": (macd, _MACD_WARM_UP),
    "log_return": (log_return, 1),
    "log_range": (log_range, 0),
    **{
        f"volatility_{span}": (partial(realised_volatility, span=span), span)
        for span in VOLATILITY_SPANS
    },
    **{f"har_{span}": (partial(mean_log_range, span=span), span - 1) for span in HAR_SPANS},
    "volume_ratio": (volume_ratio, 167),
    "hour_sin": (lambda bars: _wave_of_time(bars, _DAY_MINUTES, np.sin), 0),
    "hour_cos": (lambda bars: _wave_of_time(bars, _DAY_MINUTES, np.cos), 0),
    "week_sin": (lambda bars: _wave_of_time(bars, _WEEK_MINUTES, np.sin), 0),
    "week_cos": (lambda bars: _wave_of_time(bars, _WEEK_MINUTES, np.cos), 0),
}

_CLOCK = frozenset({"hour_sin", "hour_cos", "week_sin", "week_cos"})

INDICATORS: dict[str, Indicator] = {
    name: Indicator(name, compute, warm_up, built_in=True)
    for name, (compute, warm_up) in _BUILT_IN.items()
}


def register_indicator(name: str, compute: Compute, *, warm_up: int) -> Indicator:
    """Add a user's feature under a new name.

    The feature must pass the leakage proof like every other feature.

    Args:
        compute: Gets the bars as `BarArrays` and returns one value a bar (N,).
        warm_up: The earlier bars that the feature needs; its values are finite from that row on.

    Raises:
        FeatureError: when the name is taken or the warm-up negative.
    """
    if name in INDICATORS:
        raise FeatureError(f"feature {name!r} exists already; unregister it or choose a new name")
    if warm_up < 0:
        raise FeatureError(f"feature {name!r} has warm-up {warm_up}; it counts bars from 0 up")
    indicator = INDICATORS[name] = Indicator(name, compute, warm_up)
    return indicator


def unregister_indicator(name: str) -> None:
    """Remove a feature that `register_indicator` added.

    Raises:
        FeatureError: when the feature is built in.
    """
    if name in INDICATORS and INDICATORS[name].built_in:
        raise FeatureError(f"feature {name!r} is built in and cannot be removed")
    INDICATORS.pop(name, None)


def find_indicator(name: str) -> Indicator:
    """Look up an indicator by name.

    Raises:
        FeatureError: when no indicator has that name; the message lists the known names.
    """
    if name not in INDICATORS:
        raise FeatureError(
            f"feature {name!r} is unknown; known are {', '.join(sorted(INDICATORS))}; "
            "add your own with register_indicator"
        )
    return INDICATORS[name]


def warm_up(name: str) -> int:
    """Earlier bars after which the feature's value is that of any longer history."""
    return find_indicator(name).warm_up


def follows_clock(name: str) -> bool:
    """Whether the feature is a function of the time of day or week alone."""
    return name in _CLOCK


def reads_clock(name: str) -> bool:
    """Whether the feature may depend on the time of a bar; True for every user's feature."""
    indicator = find_indicator(name)
    return not indicator.built_in or name in _CLOCK
