"""Many A/B tests at once: the rule of `judge_pairs` at every look of each, by running sums.

`judge_pairs` itself would be called once a look and run, hundreds of times a figure. The running
sums give the same numbers; `benchmarks.ab_tests` lets a few runs go through `judge_pairs` too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from mlops.ab_testing.decision import (
    EQUIVALENCE_SHARE,
    Missing,
    Moment,
    Pairs,
    Record,
    Verdict,
    count_first_pairs,
    judge_pairs,
    variance_of_record,
)
from mlops.ab_testing.loss_variance import (
    LEAST_BLOCKS_BESIDE_RECORD,
    UPPER_LEVEL_OF_TEST,
    bars_of_test_block,
    count_pairs_of_test_blocks,
    upper_level_of,
)
from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.stats.confidence_sequence import DelayedStart, NormalMixture, upper_variance_factor
from mlops.stats.dependence import BLOCK_PER_HORIZON, lag_length

PAIRS_A_LOOK = 60

Boundary = DelayedStart | NormalMixture


@dataclass(frozen=True, slots=True)
class Runs:
    """Loss difference d and champion's loss of many tests, each ``(runs, n)``."""

    difference: FloatArray
    champion_loss: FloatArray
    horizon: int

    def shifted(self, share: float) -> FloatArray:
        """d - share * L."""
        return self.difference - share * self.champion_loss

    @property
    def looks(self) -> IntArray:
        """Pairs at each look."""
        return np.arange(PAIRS_A_LOOK, self.difference.shape[1] + 1, PAIRS_A_LOOK)


@dataclass(frozen=True, slots=True)
class Ends:
    """The verdict of each run, None where it stayed open, and its pairs."""

    words: Sequence[Verdict | None]
    pairs: IntArray

    def share(self, *words: Verdict) -> float:
        """Share of runs that ended with one of these verdicts."""
        return float(np.mean([word in words for word in self.words]))

    def median_pairs(self, word: Verdict) -> float:
        """Pairs until a verdict, a run without it taken as endless."""
        pairs = np.where([found is word for found in self.words], self.pairs, np.inf)
        return float(np.median(pairs))


def means_at(values: FloatArray, looks: IntArray) -> FloatArray:
    """Mean of the first n values of each run, ``(runs, looks)``."""
    means: FloatArray = np.cumsum(values, axis=1)[:, looks - 1] / looks
    return means


def hac_at(values: FloatArray, looks: IntArray, horizon: int) -> FloatArray:
    """Long-run variance of the first n values of each run ``(runs, looks)``, by running sums.

    The products of centred values are those of raw ones less what the mean adds, so each lag
    needs one running sum for all looks.
    """
    values = values - values.mean(axis=1, keepdims=True)  # keeps the digits of the sums
    total = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=total[:, 1:])
    mean = total[:, looks] / looks
    lags = np.array([lag_length(int(n), horizon=horizon) for n in looks])
    found = np.zeros_like(mean)
    lag_zero = np.zeros_like(mean)
    for lag in range(int(lags.max()) + 1):
        products = np.cumsum(values[:, lag:] * values[:, : values.shape[1] - lag], axis=1)
        inner = products[:, looks - lag - 1]
        inner = inner - mean * (total[:, looks] - total[:, [lag]]) - mean * total[:, looks - lag]
        gamma = (inner + (looks - lag) * mean**2) / looks
        if lag == 0:
            lag_zero = gamma
        weight = np.where(lag <= lags, 1.0 - lag / (lags + 1.0), 0.0)
        found += (1.0 if lag == 0 else 2.0) * weight * gamma
    return np.where(found > 0.0, found, lag_zero)


def blocks_at(
    values: FloatArray,
    looks: IntArray,
    block: int,
    *,
    least: int = LEAST_BLOCKS_BESIDE_RECORD,
    level_of: Callable[[int], float] = lambda blocks: UPPER_LEVEL_OF_TEST,
) -> FloatArray:
    """Upper limit of the variance of the newest whole blocks of the first n values.

    ``(runs, looks)``; 0 where there are fewer than the least number of blocks.
    """
    found = np.zeros((len(values), len(looks)))
    for look, n in enumerate(looks):
        count = int(n) // block
        if count >= least:
            kept = values[:, n - count * block : n].reshape(len(values), count, block)
            factor = block * upper_variance_factor(count, level=level_of(count))
            found[:, look] = factor * kept.mean(axis=2).var(axis=1, ddof=1)
    return found


VarianceOfRecord = Callable[[Record, float], float]
"""The least long-run variance of d - share * L that a record allows."""


def variance_of_blocks(record: Record, share: float, *, level: float = 0.8) -> float:
    """The upper limit of the variance of two-week blocks, whether the record remembers or not."""
    variance = (
        record.variance_difference
        - 2.0 * share * record.covariance
        + share**2 * record.variance_loss
    )
    return record.block_bars * upper_variance_factor(record.blocks, level=level) * variance


def no_floor(record: Record, share: float) -> float:
    """The HAC variance of the test stands alone."""
    del record, share
    return 0.0


@dataclass(frozen=True, slots=True)
class Floors:
    """The least long-run variance of d, d - 0.005 L and d + 0.005 L in each run, ``(runs, 1)``.

    ``memory`` is the weight of the test's own week blocks.
    """

    difference: FloatArray
    less: FloatArray
    more: FloatArray
    memory: FloatArray

    @classmethod
    def of(cls, records: Sequence[Record], rule: VarianceOfRecord = variance_of_record) -> Self:
        """Those of each run's record."""

        def column(share: float) -> FloatArray:
            return np.array([[rule(record, share)] for record in records])

        weighs = rule is variance_of_record
        memory = np.array([[record.memory if weighs else 0.0] for record in records])
        return cls(column(0.0), column(EQUIVALENCE_SHARE), column(-EQUIVALENCE_SHARE), memory)


class Looks:
    """Means and few-lag variances of all runs at all looks, which each rule is tried on."""

    def __init__(self, runs: Runs, *, bars_a_week: float) -> None:
        self.runs = runs
        self.at = runs.looks
        self.first = count_first_pairs(runs.horizon)
        self._bars_a_week = bars_a_week
        self._shifted = [runs.shifted(s) for s in (0.0, EQUIVALENCE_SHARE, -EQUIVALENCE_SHARE)]
        self._means = [means_at(values, self.at) for values in self._shifted]
        self._hac = [hac_at(values, self.at, runs.horizon) for values in self._shifted]

    @cached_property
    def _weeks(self) -> list[FloatArray]:
        block = max(round(self._bars_a_week), BLOCK_PER_HORIZON * self.runs.horizon)
        return [blocks_at(values, self.at, block) for values in self._shifted]

    def judge(self, floors: Floors, boundary: Boundary) -> Ends:
        """The first verdict of each run beside its record."""
        least = (floors.difference, floors.less, floors.more)
        floored = [
            np.maximum(one, floors.memory * week)
            for one, week in zip(least, self._weeks, strict=True)
        ]
        return self._judge_above(floored, boundary, first=self.first)

    def judge_without_record(self, boundary: Boundary) -> Ends:
        """The first verdict of each run by the blocks of the test alone."""
        horizon, week = self.runs.horizon, self._bars_a_week
        block = bars_of_test_block(horizon=horizon, bars_per_week=week)
        first = count_pairs_of_test_blocks(horizon=horizon, bars_per_week=week)
        limits = [
            blocks_at(values, self.at, block, least=2, level_of=upper_level_of)
            for values in self._shifted
        ]
        return self._judge_above(limits, boundary, first=max(self.first, first))

    def _judge_above(self, least: Sequence[FloatArray], boundary: Boundary, *, first: int) -> Ends:
        """The verdicts, where each few-lag variance is at least this."""
        z = np.array([boundary.z(int(n)) if n >= first else np.inf for n in self.at])
        halves = [
            z * np.sqrt(np.maximum(hac, floor) / self.at)
            for hac, floor in zip(self._hac, least, strict=True)
        ]
        low, high = self._means[0] - halves[0], self._means[0] + halves[0]
        zone_high, zone_low = self._means[1] + halves[1], self._means[2] - halves[2]
        return _first_words(self.at, high < 0.0, low > 0.0, (zone_high < 0.0) & (zone_low > 0.0))

    def naive_share(self) -> float:
        """Share of runs that a t-test at 5 % decides at some look, as if it were the only look."""
        d = self.runs.difference
        squares = np.cumsum(d**2, axis=1)[:, self.at - 1] / self.at
        variance = squares - self._means[0] ** 2
        z = self._means[0] / np.sqrt(variance / self.at)
        return float((np.abs(z) > 1.96).any(axis=1).mean())


def judge_by_looks(
    pairs: Pairs, record: Record | None, *, alpha: float, bars_a_week: float
) -> Ends:
    """The first verdict of one run, by `judge_pairs` at each look."""
    looks = np.arange(PAIRS_A_LOOK, pairs.closed_at.size + 1, PAIRS_A_LOOK)
    for n in looks:
        judgement = judge_pairs(
            first_pairs(pairs, int(n)),
            record,
            Missing(bars=int(n), holes=0, champion={}, challenger={}),
            Moment(may_win=True, is_over=False),
            alpha=alpha,
            bars_per_week=bars_a_week,
        )
        if judgement.word is not None:
            return Ends([judgement.word], np.array([n]))
    return Ends([None], looks[-1:])


def first_pairs(pairs: Pairs, n: int) -> Pairs:
    """The first n pairs."""
    return Pairs(
        horizon=pairs.horizon,
        closed_at=pairs.closed_at[:n],
        champion_loss=pairs.champion_loss[:n],
        challenger_loss=pairs.challenger_loss[:n],
    )


def _first_words(
    looks: IntArray, worse: BoolArray, better: BoolArray, equivalent: BoolArray
) -> Ends:
    decided = worse | better | equivalent
    at = np.where(decided.any(axis=1), decided.argmax(axis=1), len(looks) - 1)
    words: list[Verdict | None] = []
    for run, look in enumerate(at):
        if worse[run, look]:
            words.append(Verdict.WORSE)
        elif better[run, look]:
            words.append(Verdict.BETTER)
        else:
            words.append(Verdict.EQUIVALENT if equivalent[run, look] else None)
    return Ends(words, looks[at])
