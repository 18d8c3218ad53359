"""Bad prints and splits that are looked for around wide moves are those of all bars."""

import numpy as np
import pandas as pd
import pytest

from mlops.data.parts import PART_ROWS
from mlops.data.price_oddities import (
    PERSIST_BARS,
    PRINT_FLOOR,
    PRINT_RANGES,
    RANGE_BARS,
    SPLIT_STEP,
    SPLIT_TURNOVER,
    TURNOVER_BARS,
    Prices,
)
from tests.mlops.data.conftest import make_bars


def reference_bad_prints(frame: pd.DataFrame) -> np.ndarray:
    """The definition, over all bars."""
    high, low, close = (np.log(frame[name].to_numpy()) for name in ("high", "low", "close"))
    flagged = np.zeros(len(frame), bool)
    if len(frame) < 3:
        return flagged
    opened = np.log(frame["open"].to_numpy())
    above = high[1:-1] - np.maximum(close[:-2], np.maximum(opened[2:], close[2:]))
    below = np.minimum(close[:-2], np.minimum(opened[2:], close[2:])) - low[1:-1]
    ranges = pd.Series(high - low).rolling(RANGE_BARS, center=True, min_periods=1)
    limit = np.maximum(PRINT_RANGES * ranges.median().to_numpy()[1:-1], PRINT_FLOOR)
    flagged[1:-1] = np.maximum(above, below) > limit
    return flagged


def reference_splits(frame: pd.DataFrame, prints: np.ndarray) -> np.ndarray:
    """The definition, over all bars."""
    close, opened = np.log(frame["close"].to_numpy()), np.log(frame["open"].to_numpy())
    previous = np.concatenate([close[:1], close[:-1]])
    step = np.maximum(np.abs(opened - previous), np.abs(close - previous))
    past = pd.Series(close).rolling(PERSIST_BARS, min_periods=1).median().to_numpy()
    coming = pd.Series(close[::-1]).rolling(PERSIST_BARS, min_periods=1).median().to_numpy()[::-1]
    lasting = np.abs(coming - np.append(close[:1], past[:-1]))
    with np.errstate(over="ignore"):
        turnover = frame["close"].to_numpy() * frame["volume"].to_numpy()
    usual = pd.Series(turnover).shift().rolling(TURNOVER_BARS, min_periods=1).median()
    ordinary = turnover <= SPLIT_TURNOVER * usual.fillna(np.inf).to_numpy()
    suspected = (step >= SPLIT_STEP) & (lasting >= SPLIT_STEP) & ordinary & ~prints
    suspected[:1] = False
    return suspected


@pytest.mark.parametrize("seed", range(10))
def test_flags_are_those_of_the_definition_over_all_bars(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 3, 30, 700, PART_ROWS + 2]))
    moves = rng.normal(0, rng.choice([0.002, 0.02, 0.2]), n)
    moves += (rng.random(n) < 0.01) * rng.choice([-1, 1], n) * rng.uniform(0.2, 2, n)
    close = 100 * np.exp(np.cumsum(moves) - moves.mean() * np.arange(n))
    opened = close * np.exp(rng.normal(0, 0.01, n))
    reach = np.exp((rng.random((2, n)) < 0.03) * rng.uniform(0, 1, (2, n)))
    frame = make_bars(n).assign(
        open=opened,
        high=np.maximum(opened, close) * reach[0],
        low=np.minimum(opened, close) / reach[1],
        close=close,
        volume=np.where(rng.random(n) < 0.01, 1e305, rng.lognormal(4, 1, n)),
    )

    prints = reference_bad_prints(frame)
    splits = reference_splits(frame, prints)
    prices = Prices.of(frame)
    found = prices.find_bad_prints_and_splits()
    assert [rows.tolist() for rows in found] == [
        np.flatnonzero(prints).tolist(),
        np.flatnonzero(splits).tolist(),
    ]
    assert prices.count_flat_bars() == int((frame["high"] == frame["low"]).sum())
    if n >= 700:
        assert prints.any()
        assert splits.any()
