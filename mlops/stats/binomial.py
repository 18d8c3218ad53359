"""What a count of failures says about the share behind it: exact bounds (Clopper, Pearson 1934)."""

from __future__ import annotations

from scipy.special import betainc, betaincinv


def is_surely_above(share: float, *, count: int, trials: int, alpha: float) -> bool:
    """Whether ``count`` of ``trials`` refute that the true share is at most ``share``.

    One-sided: trials with a share of at most ``share`` are taken for more with probability at
    most ``alpha``.
    """
    if count == 0:
        return False
    # P(X >= count) for a binomial X is a regularised incomplete beta function.
    return float(betainc(count, trials - count + 1, share)) <= alpha


def share_interval(
    count: int, trials: int, *, confidence_level: float = 0.95
) -> tuple[float, float]:
    """The two-sided interval of a share; all of 0 to 1 where nothing was tried."""
    tail = (1.0 - confidence_level) / 2.0
    low = 0.0 if count == 0 else float(betaincinv(count, trials - count + 1, tail))
    high = 1.0 if count == trials else float(betaincinv(count + 1, trials - count, 1.0 - tail))
    return low, high
