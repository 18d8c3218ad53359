"""Standardise features by what the middle of the data says, so one bad print moves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.errors import FeatureError
from mlops.features.spec import Matrix

CLIP_SIGMAS = 10.0
"""Standardised values are cut at this many robust standard deviations."""

_SPREADS = ((25.0, 75.0), (5.0, 95.0), (0.5, 99.5))
_NORMAL_WIDTHS = (1.3489795, 3.2897073, 5.1516586)
_CONSTANT = 1e-6


@dataclass(frozen=True, slots=True)
class Scaler:
    """Centre and scale of each column; fit it on fit rows only.

    The centre is the median, the scale the interquartile range in units of a normal's
    standard deviation. Columns that rest on one value most of the time use a wider range;
    constant ones get scale 1.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, rows: NDArray[np.floating[Any]]) -> Scaler:
        """Learn from rows (n, F); rows with a missing value are left out.

        Raises:
            FeatureError: when no complete row is left.
        """
        complete = rows[np.isfinite(rows).all(axis=1)]
        if not len(complete):
            raise FeatureError(
                f"none of {len(rows)} rows has all its features; fit on rows past the warm-up"
            )
        levels = sorted({50.0, *(level for spread in _SPREADS for level in spread)})
        quantiles = np.percentile(complete, levels, axis=0).astype(np.float64)
        table = dict(zip(levels, quantiles, strict=True))
        center = table[50.0]
        scale = np.zeros_like(center)
        for (low, high), width in zip(_SPREADS, _NORMAL_WIDTHS, strict=True):
            spread = (table[high] - table[low]) / width
            scale = np.where(scale > 0, scale, spread)
            scale[scale <= _CONSTANT * np.abs(center)] = 0.0
        scale[scale == 0.0] = 1.0
        return cls(tuple(center.tolist()), tuple(scale.tolist()))

    def transform(self, matrix: NDArray[np.floating[Any]]) -> Matrix:
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
