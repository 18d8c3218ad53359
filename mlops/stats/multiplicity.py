"""Many hypotheses at once: which to reject so that few rejections are false."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops.errors import MlopsError


def benjamini_yekutieli(p_values: ArrayLike, level: float) -> NDArray[np.bool_]:
    """Which of P hypotheses to reject (P,), the share of false ones held to ``level``.

    It holds whatever the dependence between the tests, at the price of a factor of about
    ln P; with all hypotheses true, any rejection has at most that chance.
    Source: Benjamini and Yekutieli (2001), theorem 1.3.

    Raises:
        MlopsError: when a p-value is not a number between 0 and 1.
    """
    p = np.asarray(p_values, dtype=np.float64).ravel()
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise MlopsError(f"p-values must lie between 0 and 1 but got {p}; drop untested columns")
    if not p.size:
        return np.zeros(0, dtype=np.bool_)
    ranks = np.arange(1, p.size + 1)
    limits = level * ranks / (p.size * np.sum(1.0 / ranks))
    passing = np.flatnonzero(np.sort(p) <= limits)
    cut = float(np.sort(p)[passing[-1]]) if passing.size else -1.0
    rejected: NDArray[np.bool_] = p <= cut
    return rejected
