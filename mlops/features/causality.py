"""Prove on the bars of a training that its features do not look ahead.

At sampled bars t two questions are put to the real feature function. *Prefix invariance*:
do the values up to t stay the same when the bars after t do not exist? *Perturbed future*:
do they stay the same when the bars after t are different? A centred mean or a statistic of
the whole sample fails the first, a shifted column both. What a feature knows from outside
its bars (a table of future prices in a closure) no test of this kind can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlops.data.bars import content_hash
from mlops.data.calendar import Calendar, hole_before
from mlops.errors import InsufficientData, LookaheadError
from mlops.features.bar_arrays import BarArrays, BoolArray
from mlops.features.spec import FeatureSpec, Matrix, compute_features
from mlops.service import Timeframe

TOLERANCE = 1e-6
"""Largest change of a feature, relative to one plus its size, that counts as none."""

SAMPLED_BARS = 32
SEGMENT_BARS = 10_000
"""Longest stretch of bars that is examined, so that the proof takes a second at any length."""

_PRICES = ["open", "high", "low", "close"]


@dataclass(frozen=True, slots=True)
class CausalityProof:
    """Evidence that no feature of a specification changed with its future.

    ``bars`` are the sampled bars' opens (UTC), ``examined`` the first and last bar of the
    stretch, ``largest_change`` the largest deviation met, in the terms of ``tolerance``.
    """

    features: tuple[str, ...]
    spec_digest: str
    data_digest: str
    examined: tuple[str, str]
    bars: tuple[str, ...]
    tests: int
    largest_change: float
    tolerance: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CausalityProof:
        """Read `to_dict` back from JSON."""
        lists = {key: tuple(data[key]) for key in ("features", "examined", "bars")}
        return cls(**{**data, **lists})


def prove_causality(
    frame: pd.DataFrame,
    spec: FeatureSpec,
    *,
    timeframe: Timeframe,
    calendar: Calendar,
    seed: int,
    n_bars: int = SAMPLED_BARS,
) -> CausalityProof:
    """Put both questions at ``n_bars`` sampled bars, to every feature by its own values.

    Raises:
        LookaheadError: naming the feature and the first bar whose value the future changed.
        InsufficientData: when no bar lies between the warm-up and the end.
    """
    rng = np.random.default_rng(seed)
    data_digest = content_hash(frame)
    frame = _segment(frame, rng)
    needed = spec.warm_up + 3
    if len(frame) < needed:
        raise InsufficientData(got=len(frame), needed=needed, what="the leakage proof")
    holes = hole_before(frame, timeframe, calendar)
    sampled = _sample(spec.warm_up, len(frame), n_bars, rng)
    largest = _question(frame, holes, spec, sampled, rng=rng)
    return CausalityProof(
        features=spec.names,
        spec_digest=spec.digest,
        data_digest=data_digest,
        examined=(_text(frame.index[0]), _text(frame.index[-1])),
        bars=tuple(_text(frame.index[bar]) for bar in sampled),
        tests=2 * len(sampled),
        largest_change=largest,
        tolerance=TOLERANCE,
        seed=seed,
    )


def _question(
    frame: pd.DataFrame,
    holes: BoolArray,
    spec: FeatureSpec,
    sampled: list[int],
    *,
    rng: np.random.Generator,
) -> float:
    """Put both questions at each sampled bar; the largest change met."""
    whole = compute_features(BarArrays.of(frame, holes), spec)
    largest = 0.0
    for bar in sampled:
        kept = bar + 1
        prefix = BarArrays.of(frame.iloc[:kept], holes[:kept])
        other = BarArrays.of(_other_future(frame, kept, rng), holes)
        for bars, how in ((prefix, "later bars are removed"), (other, "later bars differ")):
            change = _change(whole[:kept], compute_features(bars, spec)[:kept])
            _refuse_change(change, spec, frame.index, how)
            largest = max(largest, float(change.max()))
    return largest


def _segment(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    spare = len(frame) - SEGMENT_BARS
    if spare <= 0:
        return frame
    start = int(rng.integers(0, spare + 1))
    return frame.iloc[start : start + SEGMENT_BARS]


def _sample(warm_up: int, n_rows: int, n_bars: int, rng: np.random.Generator) -> list[int]:
    """Bars past the warm-up with at least one bar after them; the last such is always in."""
    candidates = np.arange(warm_up + 1, n_rows - 1)
    chosen = rng.choice(candidates, size=min(n_bars, len(candidates)), replace=False)
    chosen[0] = candidates[-1]
    return sorted({int(bar) for bar in chosen})


def _other_future(frame: pd.DataFrame, kept: int, rng: np.random.Generator) -> pd.DataFrame:
    """The same bars up to ``kept`` and, from there, lawful bars at other prices and volumes."""
    changed = frame.copy()
    after = len(frame) - kept
    moves = np.exp(rng.normal(scale=0.5, size=(after, 1)))
    changed.iloc[kept:, :4] = changed[_PRICES].to_numpy()[kept:] * moves
    traded = changed["volume"].to_numpy()[kept:] + changed["volume"].mean() + 1.0
    changed.iloc[kept:, 4] = traded * np.exp(rng.normal(size=after))
    return changed


def _change(before: Matrix, after: Matrix) -> Matrix:
    """Deviation by bar and feature; infinite where only one of the two has a value."""
    missing = np.isnan(before), np.isnan(after)
    with np.errstate(invalid="ignore"):
        change = np.abs(after - before) / (1.0 + np.abs(before))
    same = (before == after) | (missing[0] & missing[1])
    return np.where(same, np.float32(0), np.where(np.isnan(change), np.float32(np.inf), change))


def _refuse_change(change: Matrix, spec: FeatureSpec, index: pd.Index, how: str) -> None:
    if change.max() <= TOLERANCE:
        return
    row, column = np.argwhere(change > TOLERANCE)[0]
    raise LookaheadError(feature=spec.names[column], bar=_text(index[row]), how=how)


def _text(stamp: Any) -> str:
    return pd.Timestamp(stamp).strftime("%Y-%m-%d %H:%M UTC")
