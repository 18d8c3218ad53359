"""How much the mean loss difference of a pair of versions varies in the long run.

Loss differences of volatility forecasts remember weeks, which the few lags of a HAC variance do
not reach. So the variance is never below that of blocks of weeks: of the pair's record before
the test, or, without enough record, of the test itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from mlops.ab_testing.pairs import Pairs
from mlops.arrays import FloatArray
from mlops.stats.confidence_sequence import block_covariance, upper_variance_factor
from mlops.stats.dependence import BLOCK_PER_HORIZON, lag_length, long_run_covariance

MIN_RECORD_BLOCKS = 10
MIN_TEST_BLOCKS = 20
RECORD_BLOCK_WEEKS = 2


class VarianceSource(StrEnum):
    """Where a variance comes from.

    ``hac``: a few lags of the test's pairs. ``record``: two-week blocks of the record before the
    test. ``test_blocks``: week blocks of the test's pairs.
    """

    HAC = "hac"
    RECORD = "record"
    TEST_BLOCKS = "test_blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Two-week blocks of what both versions forecast before their test.

    ``variance_difference``, ``variance_loss`` and ``covariance`` are those of the block means of
    loss difference and champion's loss, with blocks - 1 in the denominator.
    """

    blocks: int
    block_bars: int
    variance_difference: float
    variance_loss: float
    covariance: float

    def to_dict(self) -> dict[str, float]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back."""
        return cls(**values)


def summarise_record(pairs: Pairs, *, bars_per_week: float) -> Record | None:
    """The record of past pairs, or None below ten two-week blocks.

    A block is counted in pairs and has at least five horizons.
    """
    block = _block_bars(RECORD_BLOCK_WEEKS * bars_per_week, pairs.horizon)
    covariance, blocks = block_covariance(pairs.finite().loss_columns(), block)
    if blocks < MIN_RECORD_BLOCKS:
        return None
    return Record(
        blocks=blocks,
        block_bars=block,
        variance_difference=float(covariance[0, 0]),
        variance_loss=float(covariance[1, 1]),
        covariance=float(covariance[0, 1]),
    )


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
    if record is not None:
        factor = upper_variance_factor(record.blocks) * record.block_bars
        floor = LossCovariance(
            VarianceSource.RECORD,
            factor * record.variance_difference,
            factor * record.variance_loss,
            factor * record.covariance,
        )
        return few_lags, floor
    block = _block_bars(bars_per_week, horizon)
    covariance, blocks = block_covariance(columns, block)
    if blocks < 2:
        return (few_lags,)
    factor = upper_variance_factor(blocks) * block
    return few_lags, _scaled(VarianceSource.TEST_BLOCKS, covariance, factor)


def count_pairs_of_test_blocks(*, horizon: int, bars_per_week: float) -> int:
    """Pairs of the least number of week blocks that a test without a record needs."""
    return MIN_TEST_BLOCKS * _block_bars(bars_per_week, horizon)


def _scaled(source: VarianceSource, covariance: FloatArray, factor: float) -> LossCovariance:
    return LossCovariance(
        source,
        float(covariance[0, 0]) * factor,
        float(covariance[1, 1]) * factor,
        float(covariance[0, 1]) * factor,
    )
