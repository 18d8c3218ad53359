"""The level at which gate G2 judges the n-th study of a service, so that trying again costs.

Each study is judged at a level of its own, and those of all studies together stay within a share
of the yearly budget A (`YEARLY_ALPHA_BUDGET`). The j-th study may spend

    s(j) = 0.35 A / (j (1 + ln j)^2),

0.59 A over all j. A study of k trials that is compared with K - k earlier ones on the same bars is
judged at s(j) K / k, at most 0.35 A: each of its own trials then errs with a chance of about
s(j) / k. Where no earlier trial is known on its bars, K = k and it is judged at s(j).

The rule spends as online tests of the familywise error rate do (Tian and Ramdas 2021, "Online
control of the familywise error rate"); it is used for judged versions from elsewhere.
"""

from __future__ import annotations

import math

LARGEST_SHARE = 0.35


def spend_level(place: int, *, yearly: float) -> float:
    """What the study at a place, counted from 1, may spend.

    Args:
        yearly: The service's budget of false promotions.

    >>> [round(spend_level(place, yearly=0.05), 5) for place in (1, 2, 10)]
    [0.0175, 0.00305, 0.00016]
    """
    return LARGEST_SHARE * yearly / (place * (1.0 + math.log(place)) ** 2)


def judging_level(spent: float, *, compared: int, own: int, yearly: float) -> float:
    """The level at which gate G2 judges a study.

    Args:
        spent: What the study spends, from `spend_level`.
        compared: Trials that the gate compares, its own included.
        own: Trials of the study.
        yearly: The service's budget of false promotions.

    >>> judging_level(0.001, compared=30, own=3, yearly=0.05)
    0.01
    >>> judging_level(0.001, compared=1, own=1, yearly=0.05)
    0.001
    """
    return min(LARGEST_SHARE * yearly, spent * compared / own)
