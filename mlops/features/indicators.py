"""The indicators: causal, vectorised, free of price and volume units, finite on every bar.

Each reads bars up to and including its own, and states its warm-up: the number of earlier
bars after which it agrees, to `AGREEMENT`, with its value on any longer history. For spans
that is counting; for the recursive ones it follows from decay, the largest step they take
in (`STEP_CAP`) and the smallest they notice (`QUIET`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays, FloatArray
from mlops.features.rolling import (
    bars_to_forget,
    recursive_mean,
    recursive_sum,
    trailing_mean,
)

AGREEMENT = 1e-6
"""How closely a value on a short history must agree with the one on a long history."""

VARIANCE_FLOOR = 1e-10
"""Variance of one bar below which volatility is not measured: one hundredth of 1 bp squared."""

STEP_CAP = math.log(10.0)
"""A tenfold step within one bar is the largest that RSI and MACD take in: more is a bad print."""

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
    """A feature: how it is computed (N,) and how many earlier bars it needs.

    ``built_in`` marks the ones whose formula is fixed by this release, so that their
    values may be kept on disk.
    """

    name: str
    compute: Compute
    warm_up: int
    built_in: bool = False


def log_range(bars: BarArrays) -> FloatArray:
    """Log volatility of each bar by its range (Parkinson 1980): the volatility target's unit."""
    spread = np.log(bars.high / bars.low)
    variance: FloatArray = spread * spread
    variance /= 4.0 * math.log(2.0)
    np.maximum(variance, VARIANCE_FLOOR, out=variance)
    np.log(variance, out=variance)
    variance *= 0.5
    return variance


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
    gap: FloatArray = np.log(bars.open / bars.anchor)
    return gap


def upper_reach(bars: BarArrays) -> FloatArray:
    """Log of the high over the close."""
    reach: FloatArray = np.log(bars.high / bars.close)
    return reach


def lower_reach(bars: BarArrays) -> FloatArray:
    """Log of the low over the close."""
    reach: FloatArray = np.log(bars.low / bars.close)
    return reach


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


def _cycle(bars: BarArrays, minutes: int, wave: np.ufunc) -> FloatArray:
    elapsed = ((bars.open_time - _MONDAY) // _MINUTE % minutes).astype(np.float64)
    elapsed *= 2.0 * math.pi / minutes
    angle: FloatArray = wave(elapsed)
    return angle


def _rsi_warm_up() -> int:
    # Numerator and denominator may each start STEP_CAP wrong; the denominator is >= 2 * QUIET.
    return bars_to_forget(RSI_DECAY, start=STEP_CAP / QUIET, tolerance=AGREEMENT) + 1


def _macd_warm_up() -> int:
    # A decaying sum of steps of at most STEP_CAP is bounded by the geometric series.
    bound = 2.0 * STEP_CAP * MACD_SLOW_DECAY / (1.0 - MACD_SLOW_DECAY)
    return bars_to_forget(MACD_SLOW_DECAY, start=bound, tolerance=AGREEMENT) + 1


def _spanned() -> dict[str, tuple[Compute, int]]:
    volatility = {
        f"volatility_{span}": ((lambda bars, span=span: realised_volatility(bars, span)), span)
        for span in VOLATILITY_SPANS
    }
    har = {
        f"har_{span}": ((lambda bars, span=span: trailing_mean(log_range(bars), span)), span - 1)
        for span in HAR_SPANS
    }
    return {**volatility, **har}


_BUILT_IN: dict[str, tuple[Compute, int]] = {
    "open": (open_gap, 1),
    "high": (upper_reach, 0),
    "low": (lower_reach, 0),
    "close": (log_return, 1),
    "volume": (volume_surprise, VOLUME_SPAN - 1),
    "rsi": (rsi, _rsi_warm_up()),
    "macd": (macd, _macd_warm_up()),
    "log_return": (log_return, 1),
    "log_range": (log_range, 0),
    **_spanned(),
    "volume_ratio": (volume_ratio, 167),
    "hour_sin": (lambda bars: _cycle(bars, _DAY_MINUTES, np.sin), 0),
    "hour_cos": (lambda bars: _cycle(bars, _DAY_MINUTES, np.cos), 0),
    "week_sin": (lambda bars: _cycle(bars, _WEEK_MINUTES, np.sin), 0),
    "week_cos": (lambda bars: _cycle(bars, _WEEK_MINUTES, np.cos), 0),
}

_CLOCK = frozenset({"hour_sin", "hour_cos", "week_sin", "week_cos"})

INDICATORS: dict[str, Indicator] = {
    name: Indicator(name, compute, warm_up, built_in=True)
    for name, (compute, warm_up) in _BUILT_IN.items()
}


def register_indicator(name: str, compute: Compute, *, warm_up: int) -> Indicator:
    """Add a feature of your own under a new name.

    ``compute`` gets the bars as `BarArrays` and returns one value a bar (N,), finite from
    row ``warm_up`` on. It is put through the leakage proof like every other feature.

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
    """Take back a feature added by `register_indicator`; the built-in ones stay."""
    if name in INDICATORS and INDICATORS[name].built_in:
        raise FeatureError(f"feature {name!r} is built in and cannot be removed")
    INDICATORS.pop(name, None)


def find_indicator(name: str) -> Indicator:
    """The indicator of that name.

    Raises:
        FeatureError: when there is none; the message lists the known names.
    """
    if name not in INDICATORS:
        raise FeatureError(
            f"feature {name!r} is unknown; known are {', '.join(sorted(INDICATORS))}; "
            "add your own with register_indicator"
        )
    return INDICATORS[name]


def warm_up(name: str) -> int:
    """Earlier bars the feature needs before its value agrees with any longer history's."""
    return find_indicator(name).warm_up


def follows_clock(name: str) -> bool:
    """Whether the feature is a function of the time of day or week alone."""
    return name in _CLOCK


def reads_clock(name: str) -> bool:
    """Whether the feature depends on when a bar opened; of one not built in, nobody knows."""
    indicator = find_indicator(name)
    return not indicator.built_in or name in _CLOCK
