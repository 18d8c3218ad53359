"""Paths of returns and of two forecasters, whose true difference is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from mlops.ab_testing.decision import Pairs, Record, summarise_record
from mlops.arrays import FloatArray, TimeArray

BARS_A_WEEK = 168
RECORD_BLOCKS = 26
TEST_PAIRS = 2_880
RECORD_PAIRS = RECORD_BLOCKS * 2 * BARS_A_WEEK

MEMORY = 0.9
"""First autocorrelation of a forecast."""

FORECAST_SIZE = 0.1
"""Standard deviation of a worthless forecast, in those of the outcome."""

WARM_UP = 100


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Returns and the two forecasts of their sum over the next h bars, of many runs.

    ``returns`` are ``(runs, bars + horizon)``, of unit variance; outcome and forecasts ``(runs,
    bars)`` are made at the close of a bar and are about the ``horizon`` returns after it.
    """

    returns: FloatArray
    champion: FloatArray
    challenger: FloatArray
    horizon: int

    @property
    def outcome(self) -> FloatArray:
        """Sum of the next h returns."""
        total = np.cumsum(self.returns, axis=1)
        bars = self.champion.shape[1]
        sums: FloatArray = total[:, self.horizon :][:, :bars] - total[:, :bars]
        return sums

    def losses(self) -> tuple[FloatArray, FloatArray]:
        """Squared errors of champion and challenger, in variances of the outcome."""
        y = self.outcome
        scale = float(self.horizon)
        return (y - self.champion) ** 2 / scale, (y - self.challenger) ** 2 / scale

    def mirrored(self) -> Paths:
        """The same runs with the arms exchanged."""
        return Paths(self.returns, self.challenger, self.champion, self.horizon)


def draw_equal_pair(rng: np.random.Generator, *, runs: int, bars: int, horizon: int) -> Paths:
    """Two independent AR(.9) forecasts that know nothing of the returns: equally good."""
    returns = rng.standard_normal((runs, bars + horizon))
    size = FORECAST_SIZE * math.sqrt(horizon)
    champion, challenger = (size * _draw_memory(rng, runs, bars) for _ in range(2))
    return Paths(returns, champion, challenger, horizon)


def draw_better_challenger(rng: np.random.Generator, *, runs: int, bars: int, r2: float) -> Paths:
    """A champion that forecasts zero and a challenger that knows the share r2 of the variance."""
    known = math.sqrt(r2) * _draw_memory(rng, runs, bars)
    returns = rng.standard_normal((runs, bars + 1))
    returns[:, 1:] = known + math.sqrt(1.0 - r2) * returns[:, 1:]
    return Paths(returns, np.zeros((runs, bars)), known, 1)


def _draw_memory(rng: np.random.Generator, runs: int, bars: int) -> FloatArray:
    noise = rng.standard_normal((runs, bars + WARM_UP)) * math.sqrt(1.0 - MEMORY**2)
    noise[:, 0] /= math.sqrt(1.0 - MEMORY**2)
    path: FloatArray = lfilter([1.0], [1.0, -MEMORY], noise, axis=1)[:, WARM_UP:]
    return path


def close_times(bars: int) -> TimeArray:
    """Closes of hourly bars."""
    hours = np.arange(1, bars + 1).astype("timedelta64[h]")
    closes: TimeArray = (np.datetime64("2020-01-01T00", "h") + hours).astype("datetime64[ns]")
    return closes


def as_pairs(champion_loss: FloatArray, challenger_loss: FloatArray, horizon: int) -> Pairs:
    """Losses of one run as the pairs of hourly bars."""
    return Pairs(
        horizon=horizon,
        closed_at=close_times(champion_loss.size),
        champion_loss=champion_loss,
        challenger_loss=challenger_loss,
    )


def record_of(
    champion_loss: FloatArray, challenger_loss: FloatArray, horizon: int, *, bars_a_week: float
) -> Record:
    """The record of one run's past.

    Raises:
        ValueError: when the past is shorter than ten two-week blocks.
    """
    pairs = as_pairs(champion_loss, challenger_loss, horizon)
    record = summarise_record(pairs, bars_per_week=bars_a_week)
    if record is None:
        raise ValueError(f"{champion_loss.size:,} bars hold fewer than ten two-week blocks")
    return record
