"""One live figure, in the form that all of them have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveMeasure:
    """One metric on the window: its value and interval, the baseline's value on the same bars,
    or in the same hours, and what it was at promotion; None where nobody knows."""

    name: str
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    at_promotion: float | None
