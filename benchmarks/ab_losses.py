"""Real losses of pairs of volatility forecasters, recentred so that the true difference is known.

One half of a series is the record, the other is resampled in blocks into tests, and the other
way round. The resampled half has the mean difference taken off, so both forecasters are equally
good there, while the losses keep their memory up to the length of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.ab_harness import Runs
from benchmarks.ab_paths import TEST_PAIRS, record_of
from benchmarks.extra_series import list_extra_series
from benchmarks.series import horizons_of, read_series
from mlops.ab_testing.decision import Record
from mlops.arrays import FloatArray, IntArray
from mlops.data.bars import Bars
from mlops.data.load import load_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.baselines import Ewma, Seasonal
from mlops.models.recipe import Recipe
from mlops.service import Target

SAMPLES = ("BTC/USD", "ETH/USD")
HOURS = "1h"
BLOCKS = (480, 960)
"""Bars of a resampled block."""

SHORT_SPANS = {1: (4, 8), 6: (12, 6), 7: (12, 6), 24: (2, 24)}
LONG_SPANS = {1: (36, 16), 6: (48, 72), 7: (48, 72), 24: (4, 168)}
"""Spans of two exponential means by horizon, on either side of the best or of about equal loss."""

SEASONAL = "seasonal"
BEST_SPAN = {1: 12, 6: 24, 7: 24, 24: 2}
SEASONS_OF_A_DAY = 24


@dataclass(frozen=True, slots=True, eq=False)
class PairOfLosses:
    """Losses of two forecasters on the bars of a series that both forecast, ``(n,)``."""

    series: str
    horizon: int
    names: tuple[str, str]
    champion: FloatArray
    challenger: FloatArray
    bars_a_week: float

    @property
    def cell(self) -> tuple[str, int]:
        return self.series, self.horizon


def read_all_series() -> dict[str, Bars]:
    """The embedded crypto samples and the extra series."""
    bars = {
        symbol: load_bars(venue="sample", symbol=symbol, timeframe=HOURS, cache_root="unused")
        for symbol in SAMPLES
    }
    return bars | {one.name: read_series(one) for one in list_extra_series()}


def list_pairs_of_losses(bars: Bars, name: str, horizon: int) -> list[PairOfLosses]:
    """Two pairs of exponential means, and the seasonal forecast against the best of them."""
    target = TargetSpec(Target.VOLATILITY, horizon)
    dataset = Dataset(bars.frame, timeframe=bars.timeframe, target=target, calendar=bars.calendar)
    spans = {*SHORT_SPANS[horizon], *LONG_SPANS[horizon], BEST_SPAN[horizon]}
    forecasts = {str(span): _ewma(span, target).forecast(dataset) for span in spans}
    season = Recipe("seasonal", params={"season_bars": SEASONS_OF_A_DAY})
    forecasts[SEASONAL] = Seasonal(season, target).forecast(dataset)
    y = dataset.labels.y
    known = np.isfinite(y) & np.isfinite(list(forecasts.values())).all(axis=0)
    losses = {of: (y[known] - forecast[known]) ** 2 for of, forecast in forecasts.items()}
    rivals = list(zip(SHORT_SPANS[horizon], LONG_SPANS[horizon], strict=True))
    names = [*((str(a), str(b)) for a, b in rivals), (str(BEST_SPAN[horizon]), SEASONAL)]
    week = bars.calendar.bars_per_year(bars.timeframe) * 7.0 / 365.25
    return [
        PairOfLosses(name, horizon, (a, b), losses[a], losses[b], bars_a_week=week)
        for a, b in names
    ]


def _ewma(span: int, target: TargetSpec) -> Ewma:
    return Ewma(Recipe("ewma", params={"span": span}), target)


def list_real_pairs() -> list[PairOfLosses]:
    """All pairs of all series and horizons."""
    return [
        pair
        for name, bars in read_all_series().items()
        for horizon in horizons_of(bars)
        for pair in list_pairs_of_losses(bars, name, horizon)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Tests drawn from one half of a pair's losses, with the record of the other half."""

    pair: PairOfLosses
    runs: Runs
    record: Record


def resample_tests(
    pair: PairOfLosses,
    *,
    runs: int,
    true_share: float = 0.0,
    record_blocks: int | None = None,
    test_pairs: int = TEST_PAIRS,
) -> Iterator[Resampled]:
    """Tests for each half and block length.

    Args:
        true_share: The true mean of d, as a share of the champion's mean loss in the half.
        record_blocks: Two-week blocks of the record nearest to the tests; by default all.
    """
    half = pair.champion.size // 2
    for number, test in enumerate((slice(None, half), slice(half, None))):
        champion, challenger = pair.champion[test], pair.challenger[test]
        d = champion - challenger
        d = d - d.mean() + true_share * champion.mean()
        record = _record_beside(pair, half, first_is_test=number == 0, blocks=record_blocks)
        for block in BLOCKS:
            rng = np.random.default_rng([pair.horizon, number, block])
            rows = _draw_rows(rng, d.size, runs=runs, block=block, test_pairs=test_pairs)
            yield Resampled(pair, Runs(d[rows], champion[rows], pair.horizon), record)


def _record_beside(
    pair: PairOfLosses, half: int, *, first_is_test: bool, blocks: int | None
) -> Record:
    other = slice(half, None) if first_is_test else slice(None, half)
    champion, challenger = pair.champion[other], pair.challenger[other]
    if blocks is not None:
        rows = blocks * max(round(2.0 * pair.bars_a_week), 5 * pair.horizon)
        kept = slice(None, rows) if first_is_test else slice(-rows, None)
        champion, challenger = champion[kept], challenger[kept]
    return record_of(champion, challenger, pair.horizon, bars_a_week=pair.bars_a_week)


def _draw_rows(
    rng: np.random.Generator, n: int, *, runs: int, block: int, test_pairs: int
) -> IntArray:
    count = -(-test_pairs // block)
    starts = rng.integers(0, n - block + 1, size=(runs, count, 1))
    rows: IntArray = (starts + np.arange(block)).reshape(runs, -1)[:, :test_pairs]
    return rows
