"""Sentences that say what a judgement found and what it rests on."""

from __future__ import annotations

ON_THESE_BARS = ", on the bars of this test"
"""Said where no record reaches back far enough to speak of the long run."""


def count_pairs(n: int) -> str:
    return f"{n:,} {'pair' if n == 1 else 'pairs'}"


def describe_lead(low: float | None, high: float | None) -> str:
    """How much smaller or larger the challenger's loss is, after `its loss is`."""
    if low is None or high is None:
        return "of a size that these pairs do not bound"
    side, near, far = ("smaller", low, high) if low > 0 else ("larger", -high, -low)
    return f"{_percent(near)} to {_percent(far)} {side} than the champion's"


def describe_range(low: float | None, high: float | None) -> str:
    """The interval of a test that is still open."""
    if low is None or high is None:
        return "the size of the difference is not bounded yet"
    return f"the challenger's loss is {_signed(high)} to {_signed(low)} that of the champion"


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


def _signed(gain: float) -> str:
    side = "below" if gain > 0 else "above"
    return f"{_percent(abs(gain))} {side}"


def describe_open_end(pairs_needed: int | None) -> str:
    """What an undecided test would need."""
    if pairs_needed is None:
        return "no number of pairs is in sight that would decide it"
    return (
        f"about {count_pairs(pairs_needed)} would decide it if mean and variance stay as they are"
    )
