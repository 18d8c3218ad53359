"""The interval beside a forecast: where nine in ten of the version's errors have lain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from mlops.models import manifest
from mlops.models.bundle import Bundle, read_tensors
from mlops.service import Target

COVERED = 0.9
MIN_ERRORS = 100
"""Errors below which no interval is given."""


def error_quantiles(bundle: Bundle, notes: Mapping[str, object]) -> tuple[float, float] | None:
    """The 5 % and 95 % quantiles of outcome less forecast on the bundle's reference bars.

    Only bars the version was not fitted on count, where enough are there: errors of fitted bars
    are too small. None for a direction, whose forecast is a probability already.
    """
    if bundle.service.target is Target.DIRECTION:
        return None
    table = read_tensors(bundle.path / manifest.REFERENCE)
    errors = table["y"] - table["forecast"]
    fitted = notes.get("fitted_until")
    if isinstance(fitted, str):
        new = table["open_time"] > int(datetime.fromisoformat(fitted).timestamp() * 1e9)
        if new.sum() >= MIN_ERRORS:
            errors = errors[new]
    errors = errors[np.isfinite(errors)]
    if len(errors) < MIN_ERRORS:
        return None
    low, high = np.quantile(errors, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
