"""Robust scaling of features by median and quantiles, which one bad print does not move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.arrays import Float32Array
from mlops.errors import FeatureError

CLIP_SIGMAS = 10.0
"""Standardised values are cut at this many robust standard deviations."""

_SPREADS = ((25.0, 75.0), (5.0, 95.0), (0.5, 99.5))
_NORMAL_WIDTHS = (1.3489795, 3.2897073, 5.1516586)
_CONSTANT = 1e-6


@dataclass(frozen=True, slots=True)
class Scaler:
    """Centre and scale of each column; fit it on fit rows only.

    The centre is the median, the scale the interquartile range divided by that of a standard
    normal. A column with one value most of the time uses a wider range of quantiles; a constant
    column gets scale 1.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, rows: NDArray[np.floating[Any]]) -> Scaler:
        """Fit to rows (n, F) without a missing value.

        Raises:
            FeatureError: when no complete row is left.
        """
        complete = np.isfinite(rows).all(axis=1)
        if not complete.any():
            raise FeatureError(
                f"none of {len(rows)} rows has all its features; fit on rows past the warm-up"
            )
        # A column at a time: a copy of all rows would double the memory of a large training.
        pairs = [_center_and_scale(column[complete]) for column in rows.T]
        return cls(tuple(center for center, _ in pairs), tuple(scale for _, scale in pairs))

    def transform(self, matrix: NDArray[np.floating[Any]]) -> Float32Array:
        """Standardise (..., F) to float32, cut at `CLIP_SIGMAS`; missing values stay missing."""
        if matrix.shape[-1] != len(self.center):
            raise FeatureError(
                f"the scaler knows {len(self.center)} features but got {matrix.shape[-1]}; "
                "transform with the features it was fitted on"
            )
        scaled = matrix.astype(np.float32)
        scaled -= np.asarray(self.center, dtype=np.float32)
        scaled /= np.asarray(self.scale, dtype=np.float32)
        np.clip(scaled, -CLIP_SIGMAS, CLIP_SIGMAS, out=scaled)
        return scaled

    def to_dict(self) -> dict[str, list[float]]:
        """Plain numbers that survive JSON exactly."""
        return {"center": list(self.center), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scaler:
        """Read `to_dict` back; equal to the bit."""
        return cls(
            tuple(float(value) for value in data["center"]),
            tuple(float(value) for value in data["scale"]),
        )


def _center_and_scale(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    levels = [50.0, *(level for spread in _SPREADS for level in spread)]
    quantiles = np.percentile(values, levels, overwrite_input=True).astype(np.float64)
    center, *edges = quantiles.tolist()
    for low, high, width in zip(edges[::2], edges[1::2], _NORMAL_WIDTHS, strict=True):
        scale = (high - low) / width
        if scale > _CONSTANT * abs(center):
            return center, scale
    return center, 1.0
