"""The features of a model, in column order, and the one function that computes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from mlops.arrays import Float32Array
from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays
from mlops.features.indicators import find_indicator

DEFAULT_FEATURES = ("open", "high", "low", "close", "volume", "rsi", "macd")

FORMULA_VERSION = 1
"""Increased when a built-in formula changes, so that features on disk are computed anew."""


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Feature names in column order.

    Raises:
        FeatureError: when there are none, one is named twice, or one is unknown.
    """

    names: tuple[str, ...] = DEFAULT_FEATURES

    def __post_init__(self) -> None:
        if not self.names:
            raise FeatureError("a feature specification names no feature; name at least one")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise FeatureError(f"features {', '.join(repeated)} are named twice; name each once")
        for name in self.names:
            find_indicator(name)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def warm_up(self) -> int:
        """Earlier bars needed before every feature of a row is defined."""
        return max(find_indicator(name).warm_up for name in self.names)

    @property
    def digest(self) -> str:
        """Hex digest of names, order and formula version."""
        text = f"{FORMULA_VERSION}:{','.join(self.names)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def built_in(self) -> bool:
        """Whether every formula is fixed by this release."""
        return all(find_indicator(name).built_in for name in self.names)


def compute_features(bars: BarArrays, spec: FeatureSpec) -> Float32Array:
    """The features of every bar as (N, F) float32; NaN where a feature is still warming up.

    This is the only way features are made: for training, batch, live and the leakage proof.
    """
    matrix = np.empty((len(bars), len(spec)), dtype=np.float32)
    for column, name in enumerate(spec.names):
        values = np.asarray(find_indicator(name).compute(bars))
        if values.shape != (len(bars),):
            raise FeatureError(
                f"feature {name!r} returned shape {values.shape} for {len(bars)} bars; "
                "return one value a bar"
            )
        matrix[:, column] = values
    return matrix
