"""Small frames of bars and the loopback exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from tests.mlops.data.exchange_replay import Replay, klines, serving

START = datetime(2024, 1, 1, tzinfo=UTC)


def make_bars(n: int, *, start: datetime = START, freq: str = "1h", seed: int = 7) -> pd.DataFrame:
    """A quiet random walk (0.5 % a bar) with volumes around 100; fewer bars are its beginning."""
    draws = np.random.default_rng(seed).uniform(size=(n, 4))
    close = 100 * np.exp(np.cumsum(0.017 * (draws[:, 0] - 0.5)))
    opened = np.concatenate([[100.0], close[:-1]])
    wick = 1.0005 + 0.0015 * draws[:, 1:3].T
    return pd.DataFrame(
        {
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": 50 + 100 * draws[:, 3],
        },
        index=pd.date_range(start, periods=n, freq=freq, name="open_time").as_unit("ns"),
    )


@pytest.fixture
def bars() -> Callable[..., pd.DataFrame]:
    """`make_bars`, for tests that need frames of several lengths."""
    return make_bars


@pytest.fixture
def replay() -> Iterator[Replay]:
    """An exchange with 2,500 hourly bars of BTC/USDT; half of the last one has passed."""
    frame = make_bars(2_500).round(6)
    now = frame.index[-1].to_pydatetime() + pd.Timedelta(minutes=30)
    with serving(Replay(bars={"BTCUSDT": klines(frame)}, now=now)) as exchange:
        yield exchange
