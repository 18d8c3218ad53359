"""Bounds of a mean that hold at every look, and the variance and evidence that go with them.

A boundary z(n) says how many standard errors the mean of n rows must be away from zero, so that
looks at any n together reject a true zero with probability alpha at most. `DelayedStart` needs
no plan; `NormalMixture` is tightest near a planned number of rows. Both are asymptotic: they
take the long-run variance as known, so its estimate must not be too small
(`upper_variance_factor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, gammaln, ndtr

from mlops.arrays import FloatArray
from mlops.errors import GateError

SHARE_CONCENTRATION = 100.0
"""Weight of the planned shares in `share_mismatch_evidence`, in counted keys."""

_INV_ROOT_TAU = 1.0 / math.sqrt(2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class DelayedStart:
    """The boundary z(n) = sqrt(a^2 + ln(n / m)) from m rows on; no look counts before.

    Nothing depends on a planned number of rows, so more may be collected at any time. Sources:
    Robbins and Siegmund (1970); Waudby-Smith et al., Annals of Statistics (2024).

    Args:
        first: m, the rows of the first look that counts.
        alpha: The probability that any look rejects a true zero, two-sided.

    >>> round(DelayedStart(first=100, alpha=0.05).z(480), 6)
    3.063224
    """

    first: int
    alpha: float

    def z(self, n: float) -> float:
        """Standard errors that the mean of n rows must exceed; infinite before the first look."""
        if n < self.first:
            return math.inf
        return math.sqrt(delayed_start_constant(self.alpha) ** 2 + math.log(n / self.first))

    def p_value(self, n: float, z: float) -> float:
        """The always-valid p-value of a mean z standard errors away; 1 before the first look."""
        if n < self.first:
            return 1.0
        b = math.sqrt(max(z * z - math.log(n / self.first), 0.0))
        return _crossing_probability(b)


def _crossing_probability(a: float) -> float:
    """Probability that a mean's boundary of constant a is ever crossed, two-sided."""
    return 2.0 * (float(ndtr(-a)) + a * _INV_ROOT_TAU * math.exp(-a * a / 2.0))


@lru_cache(maxsize=64)
def delayed_start_constant(alpha: float) -> float:
    """The a of `DelayedStart`: 2 (1 - Phi(a) + a phi(a)) = alpha.

    Raises:
        GateError: when alpha is not between 0 and 1.
    """
    from scipy.optimize import brentq

    _check_alpha(alpha)
    high = 40.0  # the probability is below every positive float that anybody asks for
    return float(brentq(lambda a: _crossing_probability(a) - alpha, 0.0, high, xtol=1e-12))


@dataclass(frozen=True, slots=True)
class NormalMixture:
    """The boundary of a normal mixture, tightest near a planned number of rows.

    Source: Robbins (1970); the form is that of Waudby-Smith et al., Annals of Statistics (2024).

    Args:
        planned: The rows t* near which the boundary is tightest.
        alpha: The probability that any look rejects a true zero, two-sided.

    >>> round(NormalMixture(planned=1000, alpha=0.05).z(1000), 6)
    3.035209
    """

    planned: float
    alpha: float

    @property
    def scale(self) -> float:
        """rho^2, the variance of the mixed means in units of a row's variance."""
        _check_alpha(self.alpha)
        log_odds = -2.0 * math.log(self.alpha)
        return (log_odds + math.log(log_odds + 1.0)) / self.planned

    def z(self, n: float) -> float:
        """Standard errors that the mean of n rows must exceed."""
        if n <= 0:
            return math.inf
        rows = n * self.scale
        return math.sqrt(2.0 * (rows + 1.0) / rows * math.log(math.sqrt(rows + 1.0) / self.alpha))

    def p_value(self, n: float, z: float) -> float:
        """The always-valid p-value of a mean z standard errors away."""
        rows = n * self.scale
        log_p = 0.5 * math.log(rows + 1.0) - rows * z * z / (2.0 * (rows + 1.0))
        return math.exp(min(log_p, 0.0))


def _check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise GateError(f"alpha is {alpha}, allowed is a number between 0 and 1; try 0.05")


@lru_cache(maxsize=256)
def upper_variance_factor(blocks: int, *, level: float = 0.8) -> float:
    """Factor from the variance of k block means to its upper limit: (k - 1) / chi2(1 - level).

    Args:
        blocks: k, the number of blocks.
        level: The probability that the limit is above the true variance of normal block means.

    Raises:
        GateError: when there are fewer than two blocks.
    """
    if blocks < 2:
        raise GateError(f"the variance of {blocks} block means is unknown; give at least 2 blocks")
    return float((blocks - 1) / chdtri(blocks - 1, level))


def block_covariance(columns: FloatArray, block: int) -> tuple[FloatArray, int]:
    """Covariance ``(c, c)`` of the means of whole blocks, k - 1 in its denominator, and k.

    The blocks end with the newest row, and the oldest rows that fill no block are left out. With
    fewer than two blocks the covariance is NaN.

    Args:
        columns: Rows in time order ``(n, c)``.
        block: Rows of a block.
    """
    n, width = columns.shape
    k = n // block
    if k < 2:
        return np.full((width, width), np.nan), k
    means = columns[n - k * block :].reshape(k, block, width).mean(axis=1)
    centred = means - means.mean(axis=0)
    return centred.T @ centred / (k - 1), k


def share_mismatch_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """E-value against the claim that keys were dealt by these shares; large speaks against it.

    It may be looked at after every key: under the claim it exceeds 1/alpha with probability
    alpha at most. A Dirichlet mixture centred on the planned shares. Source: Lindon and Malek,
    "Anytime-valid inference for multinomial count data" (2022).

    Args:
        counts: Distinct keys that each arm got.
        shares: Planned share of each arm, together 1.

    Raises:
        GateError: when a share is not above 0, or the shares do not add up to 1.
    """
    planned = np.asarray(shares, dtype=np.float64)
    got = np.asarray(counts, dtype=np.float64)
    if planned.size != got.size or (planned <= 0.0).any() or abs(planned.sum() - 1.0) > 1e-9:
        raise GateError(
            f"shares {tuple(shares)} of {got.size} arms: give one share above 0 for each arm, "
            "together 1"
        )
    prior = SHARE_CONCENTRATION * planned
    log_e = gammaln(SHARE_CONCENTRATION) - gammaln(SHARE_CONCENTRATION + got.sum())
    log_e += float((gammaln(prior + got) - gammaln(prior) - got * np.log(planned)).sum())
    return math.exp(min(float(log_e), 700.0))
