"""The interval beside a forecast: the middle 90 % of the version's errors on its reference bars."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from mlops.models import manifest
from mlops.models.bundle import Bundle
from mlops.service import Target

COVERED = 0.9
"""Share of the errors that lie within the interval."""

MIN_ERRORS = 100
"""With fewer errors than these no interval is given."""


def error_quantiles(bundle: Bundle, fitted_until: str | None) -> tuple[float, float] | None:
    """The 5 % and 95 % quantiles of outcome minus forecast on the bundle's reference bars.

    Bars that the version was fitted on are left out where at least `MIN_ERRORS` others remain,
    because the errors of fitted bars are too small.

    Args:
        fitted_until: When the last label that it was fitted on became known, ISO 8601; None where
            nobody knows.

    Returns:
        None for fewer than `MIN_ERRORS` errors, and for a direction, whose forecast is a
        probability already.
    """
    if bundle.service.target is Target.DIRECTION:
        return None
    table = bundle.tensors(manifest.REFERENCE)
    errors = table["y"] - table["forecast"]
    if fitted_until is not None:
        new = table["open_time"] > int(datetime.fromisoformat(fitted_until).timestamp() * 1e9)
        if new.sum() >= MIN_ERRORS:
            errors = errors[new]
    errors = errors[np.isfinite(errors)]
    if len(errors) < MIN_ERRORS:
        return None
    low, high = np.quantile(errors, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
