"""Proof on the bars of a training that its features do not look ahead.

At sampled bars t the feature function must pass two tests. *Prefix invariance*: its values up to
t stay the same when the bars after t are removed. *Perturbed future*: they stay the same when
the bars after t are replaced. A centred mean or a statistic of the whole sample fails the first
test, a shifted column fails both. Neither test detects future data that a feature takes from
outside its bars, such as a table of prices in a closure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, Float32Array
from mlops.data.bars import content_hash
from mlops.data.calendar import Calendar, hole_before
from mlops.errors import InsufficientData, LookaheadError
from mlops.features.bar_arrays import BarArrays
from mlops.features.spec import FeatureSpec, compute_features
from mlops.service import Timeframe

TOLERANCE = 1e-6
"""Largest change of a feature, relative to one plus its size, that counts as none."""

SAMPLED_BARS = 32
SEGMENT_BARS = 10_000
"""Longest run of bars that is examined, so that the proof takes a second at any length."""

_PRICES = ["open", "high", "low", "close"]


@dataclass(frozen=True, slots=True)
class CausalityProof:
    """Evidence that no feature of a specification changed with its future.

    ``bars`` are the sampled bars' opens (UTC), ``examined`` the first and last bar of the
    examined run, ``largest_change`` the largest deviation, on the scale of ``tolerance``.
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
    """Run both tests at ``n_bars`` sampled bars for every feature.

    Args:
        frame: A validated bar frame.
        seed: Decides which bars are sampled and how the future is replaced.

    Raises:
        LookaheadError: naming the feature and the first bar whose value the future changed.
        InsufficientData: when no bar lies between the warm-up and the end.
    """
    rng = np.random.default_rng(seed)
    data_digest = content_hash(frame)
    frame = _draw_segment(frame, rng)
    needed = spec.warm_up + 3
    if len(frame) < needed:
        raise InsufficientData(got=len(frame), needed=needed, what="the leakage proof")
    holes = hole_before(frame, timeframe, calendar)
    sampled = _draw_bars(spec.warm_up, len(frame), n_bars, rng)
    largest = _test_causality(frame, holes, spec, sampled, rng=rng)
    return CausalityProof(
        features=spec.names,
        spec_digest=spec.digest,
        data_digest=data_digest,
        examined=(_to_text(frame.index[0]), _to_text(frame.index[-1])),
        bars=tuple(_to_text(frame.index[bar]) for bar in sampled),
        tests=2 * len(sampled),
        largest_change=largest,
        tolerance=TOLERANCE,
        seed=seed,
    )


def _test_causality(
    frame: pd.DataFrame,
    holes: BoolArray,
    spec: FeatureSpec,
    sampled: list[int],
    *,
    rng: np.random.Generator,
) -> float:
    """Run both tests at each sampled bar; returns the largest change."""
    whole = compute_features(BarArrays.of(frame, holes), spec)
    largest = 0.0
    for bar in sampled:
        kept = bar + 1
        prefix = BarArrays.of(frame.iloc[:kept], holes[:kept])
        replaced = BarArrays.of(_replace_future(frame, kept, rng), holes)
        for bars, how in ((prefix, "later bars are removed"), (replaced, "later bars differ")):
            change = _measure_change(whole[:kept], compute_features(bars, spec)[:kept])
            if change.max() > TOLERANCE:
                row, column = np.argwhere(change > TOLERANCE)[0]
                bar_text = _to_text(frame.index[row])
                raise LookaheadError(feature=spec.names[column], bar=bar_text, how=how)
            largest = max(largest, float(change.max()))
    return largest


def _draw_segment(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    spare = len(frame) - SEGMENT_BARS
    if spare <= 0:
        return frame
    start = int(rng.integers(0, spare + 1))
    return frame.iloc[start : start + SEGMENT_BARS]


def _draw_bars(warm_up: int, n_rows: int, n_bars: int, rng: np.random.Generator) -> list[int]:
    """Draw bars past the warm-up with a bar after them; the last of these is always drawn."""
    candidates = np.arange(warm_up + 1, n_rows - 1)
    chosen = rng.choice(candidates, size=min(n_bars, len(candidates)), replace=False)
    chosen[0] = candidates[-1]
    return sorted({int(bar) for bar in chosen})


def _replace_future(frame: pd.DataFrame, kept: int, rng: np.random.Generator) -> pd.DataFrame:
    """A copy whose bars from ``kept`` on are valid bars at other prices and volumes."""
    changed = frame.copy()
    after = len(frame) - kept
    moves = np.exp(rng.normal(scale=0.5, size=(after, 1)))
    changed.iloc[kept:, :4] = changed[_PRICES].to_numpy()[kept:] * moves
    traded = changed["volume"].to_numpy()[kept:] + changed["volume"].mean() + 1.0
    changed.iloc[kept:, 4] = traded * np.exp(rng.normal(size=after))
    return changed


def _measure_change(before: Float32Array, after: Float32Array) -> Float32Array:
    """Deviation by bar and feature; infinite where only one of the two has a value."""
    missing = np.isnan(before), np.isnan(after)
    with np.errstate(invalid="ignore"):
        change = np.abs(after - before) / (1.0 + np.abs(before))
    same = (before == after) | (missing[0] & missing[1])
    return np.where(same, np.float32(0), np.where(np.isnan(change), np.float32(np.inf), change))


def _to_text(stamp: Any) -> str:
    return pd.Timestamp(stamp).strftime("%Y-%m-%d %H:%M UTC")
