"""The law of the simulated market: its returns, volatility and predictability.

Bar t has return ``sigma_t * z_t``. With ``r2 = 0`` the z are independent Student-t draws, so
log returns are a martingale difference. Otherwise ``z_t = sqrt(r2) * g(a, b) + sqrt(1 - r2) * t``
where a is the previous z and b the previous bar's volume surprise, both cut to a bounded
range and both visible in the default features:

- *linear*: g is a + b, which a linear model can learn;
- *interaction*: g is a * b. The sign of a or b alone does not predict g, so every linear
  model on the features has a population R2 of zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.signal import lfilter

from mlops.arrays import FloatArray
from mlops.errors import SourceError

START_PRICE = 10_000.0
HOURLY_VOLATILITY = 0.005
"""Root mean square log return of a bar."""

TAIL_DEGREES = 5
"""Degrees of freedom of the Student-t shocks."""

VOLATILITY_PERSISTENCE = 0.985
VOLATILITY_SPREAD = 0.3
"""Standard deviation of log volatility."""


class Form(StrEnum):
    """The function of the previous bar that makes the predictable part."""

    LINEAR = "linear"
    INTERACTION = "interaction"


# A sum stays linear over a wider range when cut late; a product is learnt from fewer bars when
# no single bar dominates it (a small network on 6,000 bars: R2 .008 cut at 1, .006 at 2).
_CUT = {Form.LINEAR: 2.0, Form.INTERACTION: 1.0}


@dataclass(frozen=True, slots=True)
class Market:
    """The law from which bars are drawn.

    Args:
        volatility: Root mean square log return of a bar.
        r2: The predictable share of the variance of the next volatility-normalised log return.
        break_at: The bar from which volatility is ``break_scale`` times as high.
        break_r2: Replaces ``r2`` from ``break_at`` on.
        price: The first open.

    Raises:
        SourceError: when a number is out of range.
    """

    volatility: float = HOURLY_VOLATILITY
    r2: float = 0.0
    form: Form = Form.LINEAR
    break_at: int | None = None
    break_scale: float = 3.0
    break_r2: float | None = None
    price: float = START_PRICE

    def __post_init__(self) -> None:
        for name in ("volatility", "break_scale", "price"):
            if not getattr(self, name) > 0:
                raise SourceError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("r2", "break_r2"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise SourceError(f"{name} is {share}; it must be at least 0 and below 1")

    def predictable(self, n: int) -> FloatArray:
        """The R2 of each bar's return (n,)."""
        shares = np.full(n, self.r2)
        if self.break_at is not None and self.break_r2 is not None:
            shares[self.break_at :] = self.break_r2
        return shares

    def scale(self, n: int) -> FloatArray:
        """The volatility level of each bar (n,)."""
        levels = np.full(n, self.volatility)
        if self.break_at is not None:
            levels[self.break_at :] *= self.break_scale
        return levels


def draw_returns(
    market: Market, shock: FloatArray, surprise: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Draw normalised returns and the expectation of each next return.

    Args:
        shock: Student-t draws of unit variance (n,).
        surprise: Normal draws of log volume given the volatility (n,).

    Returns:
        Returns divided by volatility (n,), and the mean of each bar's next return (n - 1,).
    """
    shares = market.predictable(len(shock))
    if not shares.any():
        return shock, np.zeros(len(shares) - 1)
    cut = _CUT[market.form]
    volume = np.clip(surprise, -cut, cut)
    spreads = _cut_variance(_student_density, cut), _cut_variance(_normal_density, cut)
    product = market.form is Form.INTERACTION
    unit = math.sqrt(math.prod(spreads) if product else sum(spreads))
    weight, rest = np.sqrt(shares) / unit, np.sqrt(1.0 - shares)
    z, expected = shock.copy(), np.zeros(len(shares) - 1)
    for t in range(len(expected)):
        last = min(max(z[t], -cut), cut)
        signal = last * volume[t] if product else last + volume[t]
        expected[t] = weight[t + 1] * signal
        z[t + 1] = expected[t] + rest[t + 1] * shock[t + 1]
    return z, expected


def log_volatility(noise: FloatArray) -> FloatArray:
    """Log volatility (n,): a stationary autoregression whose exponential has mean square one."""
    steps = noise * VOLATILITY_SPREAD
    steps[1:] *= math.sqrt(1.0 - VOLATILITY_PERSISTENCE**2)
    level: FloatArray = lfilter([1.0], [1.0, -VOLATILITY_PERSISTENCE], steps)
    return level - VOLATILITY_SPREAD**2


def _student_density(x: FloatArray) -> FloatArray:
    """Density of the unit-variance Student-t with `TAIL_DEGREES`."""
    nu = TAIL_DEGREES
    peak = math.gamma((nu + 1) / 2) / (math.gamma(nu / 2) * math.sqrt((nu - 2) * math.pi))
    density: FloatArray = peak * (1.0 + x**2 / (nu - 2)) ** (-(nu + 1) / 2)
    return density


def _normal_density(x: FloatArray) -> FloatArray:
    density: FloatArray = np.exp(-(x**2) / 2.0) / math.sqrt(2.0 * math.pi)
    return density


def _cut_variance(density: Callable[[FloatArray], FloatArray], cut: float) -> float:
    """Variance of a symmetric variable cut to ``[-cut, cut]``."""
    x = np.linspace(0.0, cut, 2001)
    p = density(x)
    inside = np.trapezoid(x**2 * p, x)
    beyond = 0.5 - np.trapezoid(p, x)
    return float(2.0 * (inside + cut**2 * beyond))
