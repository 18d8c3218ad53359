"""How large a model's batches should be, by what they were measured to cost. Pure.

An LSTM forecasts sixteen windows for little more than one costs, a transformer gains nothing:
which of the two a version is, only its own batches tell.
"""

from __future__ import annotations

SIZES = (1, 2, 4, 8, 16, 32)
"""Rows of a batch that are measured apart; a batch counts for the largest it reaches."""

WORTH = 0.9
"""A larger batch must cost less than this share for each row to be worth its wait."""

PROBE_EVERY = 64
"""Every so many batches the next of `SIZES` is tried, so that each is measured again."""

NEWEST = 0.2
"""Weight of the newest measurement."""


class Pace:
    """Seconds a row for each size of batch, and the size that follows from them.

    What is not measured yet is tried, largest first: only a waiting crowd fills a large batch,
    so trying costs nobody.
    """

    def __init__(self, limit: int = SIZES[-1]) -> None:
        self.sizes = tuple(size for size in SIZES if size <= limit)
        self.seconds: dict[int, float] = {}
        self._batches = 0

    def cap(self) -> int:
        """Rows that the next batch may hold."""
        turn, since = divmod(self._batches, PROBE_EVERY)
        if since == PROBE_EVERY - 1:
            return self.sizes[turn % len(self.sizes)]
        return self.best

    @property
    def best(self) -> int:
        """The smallest size that no larger one beats by more than it must."""
        unknown = [size for size in self.sizes if size not in self.seconds]
        if unknown:
            return unknown[-1]
        least = min(self.seconds.values())
        return next(size for size in self.sizes if self.seconds[size] * WORTH <= least)

    def seconds_a_row(self) -> float:
        """At the best size, as far as is known; 0 before the first batch."""
        return min(self.seconds.values(), default=0.0)

    def measured(self, rows: int, seconds: float) -> None:
        """Take in what one batch cost."""
        self._batches += 1
        size = max(size for size in self.sizes if size <= rows)
        each = seconds / rows
        before = self.seconds.get(size, each)
        self.seconds[size] = before + NEWEST * (each - before)
