"""How much the mean loss difference of a pair of versions varies in the long run.

Loss differences of volatility forecasts remember weeks, which the few lags of a HAC variance do
not reach; those of returns are nearly white. So the pair's record before the test is asked
whether it remembers. The more surely it does, the nearer the least variance comes to the upper
limit of the variance of two-week blocks, and of week blocks of the test. Without enough record,
blocks of the test count in full, and a verdict waits for ten of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from scipy.special import chdtr

from mlops.ab_testing.pairs import Pairs
from mlops.arrays import FloatArray
from mlops.stats.confidence_sequence import block_covariance, upper_variance_factor
from mlops.stats.dependence import BLOCK_PER_HORIZON, lag_length, long_run_covariance

MIN_RECORD_BLOCKS = 10
MIN_TEST_BLOCKS = 10
RECORD_BLOCK_WEEKS = 2.0

MIN_TEST_BLOCK_BARS = 336
"""Least pairs of a block of a test without a record.

Two weeks of sessions are 70 hourly bars, too few for losses that remember months.
"""

MEMORY_WEEKS = (0.5, 1.0, RECORD_BLOCK_WEEKS)
"""Lengths of the blocks that are asked for memory, in weeks."""

NO_MEMORY_UP_TO, MEMORY_FROM = 0.8, 0.95
"""Probabilities that white losses stay below a block variance: no weight, and full weight."""

UPPER_LEVELS = ((26, 0.8), (20, 0.95), (0, 0.99))
"""Least blocks of a record, or of a test without one, and the level of their upper limit.

80 % errs too often on less than a year.
"""

UPPER_LEVEL_OF_TEST = 0.8
LEAST_BLOCKS_BESIDE_RECORD = 8
"""Week blocks of a test from which they count beside a record that remembers."""


class VarianceSource(StrEnum):
    """Where a variance comes from.

    ``hac``: a few lags of the test's pairs. ``record``: the record before the test.
    ``test_blocks``: blocks of the test's pairs.
    """

    HAC = "hac"
    RECORD = "record"
    TEST_BLOCKS = "test_blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What both versions forecast before their test, in two-week blocks.

    ``variance_difference``, ``variance_loss`` and ``covariance`` are those of the block means of
    loss difference and champion's loss, with blocks - 1 in the denominator. The fields ``lag_*``
    are the HAC variances of one pair. ``memory`` is 0 where the blocks vary as these say, 1 where
    they surely vary more.
    """

    blocks: int
    block_bars: int
    variance_difference: float
    variance_loss: float
    covariance: float
    lag_variance_difference: float = 0.0
    lag_variance_loss: float = 0.0
    lag_covariance: float = 0.0
    memory: float = 1.0

    def to_dict(self) -> dict[str, float]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back."""
        return cls(**values)


def summarise_record(pairs: Pairs, *, bars_per_week: float) -> Record | None:
    """The record of past pairs, or None below ten two-week blocks.

    A block is counted in pairs and has at least five horizons. Pairs with a loss that is not
    finite do not count.

    Args:
        bars_per_week: Bars that the market has in a week.
    """
    columns, horizon = pairs.finite().loss_columns(), pairs.horizon
    block = _block_bars(RECORD_BLOCK_WEEKS * bars_per_week, horizon)
    covariance, blocks = block_covariance(columns, block)
    if blocks < MIN_RECORD_BLOCKS:
        return None
    few_lags = long_run_covariance(columns, lag_length(len(columns), horizon=horizon))
    lengths = [_block_bars(weeks * bars_per_week, horizon) for weeks in MEMORY_WEEKS]
    return Record(
        blocks=blocks,
        block_bars=block,
        variance_difference=float(covariance[0, 0]),
        variance_loss=float(covariance[1, 1]),
        covariance=float(covariance[0, 1]),
        lag_variance_difference=float(few_lags[0, 0]),
        lag_variance_loss=float(few_lags[1, 1]),
        lag_covariance=float(few_lags[0, 1]),
        memory=max(_weigh_memory(columns, np.diag(few_lags), length) for length in lengths),
    )


def _weigh_memory(columns: FloatArray, variances: FloatArray, block: int) -> float:
    """How surely blocks of a column vary more than its HAC variance says, from 0 to 1.

    Block means of white losses have a variance of chi-squared distribution. The champion's loss
    is asked too: where losses remember, their differences do in some months and not in others.
    """
    covariance, blocks = block_covariance(columns, block)
    known = variances > 0.0
    if not known.any():
        return 0.0
    ratios = block * np.diag(covariance)[known] / variances[known]
    probability = float(chdtr(blocks - 1, (blocks - 1) * ratios).max())
    weight = (probability - NO_MEMORY_UP_TO) / (MEMORY_FROM - NO_MEMORY_UP_TO)
    return min(max(weight, 0.0), 1.0)


def _block_bars(bars: float, horizon: int) -> int:
    return max(round(bars), BLOCK_PER_HORIZON * horizon, 1)


@dataclass(frozen=True, slots=True)
class LossCovariance:
    """Long-run variances of loss difference d and champion's loss L, and their covariance.

    They are of sqrt(n) times the mean of n rows.
    """

    source: VarianceSource
    difference: float
    loss: float
    both: float

    def of(self, share: float) -> float:
        """The long-run variance of d - share * L."""
        return max(self.difference - 2.0 * share * self.both + share**2 * self.loss, 0.0)


def estimate_covariances(
    columns: FloatArray, record: Record | None, *, horizon: int, bars_per_week: float
) -> tuple[LossCovariance, ...]:
    """The estimates of which the larger counts; the first is the HAC one.

    Args:
        columns: Loss difference and champion's loss of the test's pairs ``(n, 2)``.
        bars_per_week: Bars that the market has in a week.
    """
    lags = lag_length(len(columns), horizon=horizon)
    few_lags = _scaled(VarianceSource.HAC, long_run_covariance(columns, lags), 1.0)
    if record is None:
        block = bars_of_test_block(horizon=horizon, bars_per_week=bars_per_week)
        return few_lags, *_covariance_without_record(columns, block)
    weeks = _covariance_beside_record(columns, _block_bars(bars_per_week, horizon), record)
    return few_lags, *_covariances_of_record(record), *weeks


def _covariance_without_record(columns: FloatArray, block: int) -> tuple[LossCovariance, ...]:
    """Upper limit of the blocks of a test, as of a record that surely remembers."""
    covariance, blocks = block_covariance(columns, block)
    if blocks < 2:
        return ()
    factor = block * upper_variance_factor(blocks, level=upper_level_of(blocks))
    return (_scaled(VarianceSource.TEST_BLOCKS, covariance, factor),)


def _covariance_beside_record(
    columns: FloatArray, block: int, record: Record
) -> tuple[LossCovariance, ...]:
    """Upper limit of the week blocks of a test, by the weight of its record's memory.

    Months may remember more than those before them, so a record that remembers is not enough.
    """
    covariance, blocks = block_covariance(columns, block)
    if blocks < LEAST_BLOCKS_BESIDE_RECORD:
        return ()
    factor = record.memory * block * upper_variance_factor(blocks, level=UPPER_LEVEL_OF_TEST)
    return (_scaled(VarianceSource.TEST_BLOCKS, covariance, factor),)


def _covariances_of_record(record: Record) -> tuple[LossCovariance, LossCovariance]:
    """The record's few lags, and what they become by the weight of its memory."""
    lags = LossCovariance(
        VarianceSource.RECORD,
        record.lag_variance_difference,
        record.lag_variance_loss,
        record.lag_covariance,
    )
    level = upper_level_of(record.blocks)
    factor = record.block_bars * upper_variance_factor(record.blocks, level=level)
    w = record.memory
    remembering = LossCovariance(
        VarianceSource.RECORD,
        (1.0 - w) * lags.difference + w * factor * record.variance_difference,
        (1.0 - w) * lags.loss + w * factor * record.variance_loss,
        (1.0 - w) * lags.both + w * factor * record.covariance,
    )
    return lags, remembering


def variance_of_record(record: Record, share: float = 0.0) -> float:
    """The least long-run variance of d - share * L that a record allows."""
    return max(covariance.of(share) for covariance in _covariances_of_record(record))


def upper_level_of(blocks: int) -> float:
    """The level of the upper limit of the variance of so many blocks."""
    return next(level for least, level in UPPER_LEVELS if blocks >= least)


def bars_of_test_block(*, horizon: int, bars_per_week: float) -> int:
    """Pairs of a block of a test without a record: two weeks, and at least 336."""
    return max(_block_bars(RECORD_BLOCK_WEEKS * bars_per_week, horizon), MIN_TEST_BLOCK_BARS)


def count_pairs_of_test_blocks(*, horizon: int, bars_per_week: float) -> int:
    """Pairs of the ten blocks that a test without a record needs before a verdict."""
    return MIN_TEST_BLOCKS * bars_of_test_block(horizon=horizon, bars_per_week=bars_per_week)


def _scaled(source: VarianceSource, covariance: FloatArray, factor: float) -> LossCovariance:
    return LossCovariance(
        source,
        float(covariance[0, 0]) * factor,
        float(covariance[1, 1]) * factor,
        float(covariance[0, 1]) * factor,
    )
