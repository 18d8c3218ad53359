"""A seeded simulated market: stochastic volatility, fat tails, predictability of a stated size.

It tests whether training and gates find predictability of known size and refuse noise. It
never replaces market data, and the label of its bars says so. A longer run begins with the
bars of a shorter run.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray
from mlops.data.simulated_market import (
    HOURLY_VOLATILITY,
    TAIL_DEGREES,
    Form,
    Market,
    draw_returns,
    log_volatility,
)
from mlops.data.sources.base import cut_to_period
from mlops.errors import SourceError
from mlops.service import Timeframe

__all__ = ["Form", "Market", "SimulatedBars", "SimulatorSource", "simulate", "simulate_bars"]

START = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = Timeframe("1h")

VOLUME = 1_000.0
VOLUME_SURPRISE = 0.5
"""Standard deviation of log volume given the volatility."""


@dataclass(frozen=True, slots=True)
class SimulatedBars:
    """Bars with mean and standard deviation of each row's *next* log return (n,)."""

    frame: pd.DataFrame
    expected_return: FloatArray
    volatility: FloatArray


@dataclass(frozen=True, slots=True)
class _Draws:
    """Independent streams of draws (n,); those of a longer run begin with the same values."""

    shock: FloatArray
    level: FloatArray
    surprise: FloatArray
    up: FloatArray
    down: FloatArray

    @classmethod
    def of(cls, n: int, seed: int | np.random.SeedSequence) -> _Draws:
        root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        shock, level, surprise, up, down = (np.random.default_rng(s) for s in root.spawn(5))
        unit_variance = np.sqrt((TAIL_DEGREES - 2) / TAIL_DEGREES)
        return cls(
            shock=shock.standard_t(TAIL_DEGREES, n) * unit_variance,
            level=level.standard_normal(n),
            surprise=surprise.standard_normal(n),
            up=up.random(n),
            down=down.random(n),
        )


def simulate(
    market: Market,
    n: int,
    *,
    seed: int | np.random.SeedSequence,
    timeframe: Timeframe = HOUR,
    start: datetime = START,
) -> SimulatedBars:
    """Draw ``n`` bars from the market, the first opening at ``start``."""
    if n < 1:
        raise SourceError(f"{n} simulated bars asked for; ask for at least one")
    draws = _Draws.of(n + 1, seed)
    level = log_volatility(draws.level)
    sigma = market.scale(n + 1) * np.exp(level)
    z, expected = draw_returns(market, draws.shock, draws.surprise)
    frame = _build_frame(market, sigma[:n] * z[:n], sigma[:n], level[:n], draws)
    frame.index = pd.date_range(start, periods=n, freq=timeframe.step, name="open_time")
    return SimulatedBars(frame, sigma[1:] * expected, sigma[1:])


def simulate_bars(
    n: int,
    *,
    seed: int,
    timeframe: str = "1h",
    start: datetime = START,
    volatility: float = HOURLY_VOLATILITY,
    r2: float = 0.0,
    form: str = Form.LINEAR,
    break_at: int | None = None,
    break_scale: float = 3.0,
    break_r2: float | None = None,
) -> pd.DataFrame:
    """Simulated bars as a frame; `Market` explains the arguments.

    `simulate` returns the law of each next return as well.
    """
    market = Market(
        volatility=volatility,
        r2=r2,
        form=_parse_form(form),
        break_at=break_at,
        break_scale=break_scale,
        break_r2=break_r2,
    )
    return simulate(market, n, seed=seed, timeframe=Timeframe(timeframe), start=start).frame


@dataclass(frozen=True, slots=True)
class SimulatorSource:
    """A source of simulated bars; each symbol and timeframe has its own history."""

    market: Market = field(default_factory=Market)
    seed: int = 0
    bars: int = 10_000
    start: datetime = START

    @property
    def venue(self) -> str:
        return "simulator"

    def label(self, symbol: str) -> str:
        """The text shown beside results that were made from these bars."""
        return (
            f"{symbol} simulated, not market data "
            f"(seed {self.seed}, {self.market.form} R2 {self.market.r2:.1%})"
        )

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        """Those of the source's ``bars`` that opened in ``[start, end)``.

        Raises:
            SourceError: when the source has no bar in that time.
        """
        seed = np.random.SeedSequence([self.seed, zlib.crc32(f"{symbol}|{timeframe}".encode())])
        history = simulate(
            self.market, self.bars, seed=seed, timeframe=timeframe, start=self.start
        ).frame
        chosen = cut_to_period(history, start, end)
        if chosen.empty:
            raise SourceError(
                f"the simulator has no bars from {start} to {end}; it holds "
                f"{history.index[0]} to {history.index[-1]}"
            )
        return chosen


def _parse_form(name: str) -> Form:
    try:
        return Form(name)
    except ValueError as error:
        raise SourceError(f"form {name!r} is not one of {', '.join(Form)}") from error


def _build_frame(
    market: Market, returns: FloatArray, sigma: FloatArray, level: FloatArray, draws: _Draws
) -> pd.DataFrame:
    """Bars whose high and low are the extremes of a Brownian bridge from open to close."""
    n = len(returns)
    path = np.log(market.price) + np.concatenate([[0.0], np.cumsum(returns)])
    begun, ended = np.exp(path[:-1]), np.exp(path[1:])
    reach_up, reach_down = (
        np.exp(np.sqrt(returns**2 - 2.0 * sigma**2 * np.log1p(-u[:n])) / 2.0)
        for u in (draws.up, draws.down)
    )
    middle = np.sqrt(begun * ended)
    # Rounding may put an extreme just inside open and close where the bar hardly moved beyond.
    return pd.DataFrame(
        {
            "open": begun,
            "high": np.maximum(middle * reach_up, np.maximum(begun, ended)),
            "low": np.minimum(middle / reach_down, np.minimum(begun, ended)),
            "close": ended,
            "volume": VOLUME * np.exp(level + VOLUME_SURPRISE * draws.surprise[:n]),
        }
    )
