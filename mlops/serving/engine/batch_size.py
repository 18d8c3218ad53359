"""How large a model's batches should be, by what they were measured to cost. Pure.

An LSTM forecasts sixteen windows for little more than one costs, a transformer gains nothing:
which of the two a version is, only its own batches tell.
"""

from __future__ import annotations

SIZES = (1, 2, 4, 8, 16, 32)
"""Rows of a batch that are measured apart; a batch counts for the largest it reaches."""

WORTH = 0.95
"""A larger batch must cost less than this share for each row to be worth its wait."""

PROBE_EVERY = 64
"""Every so many batches the next of `SIZES` is tried, so that each is measured again."""

NEWEST = 0.2
"""Weight of the newest measurement."""

LONGEST_S = 0.1
"""No batch of several rows is meant to take longer: other models' requests wait for it."""


class BatchSizer:
    """Seconds a row for each size of batch, and the size that follows from them.

    The first row goes alone. Then what is not measured yet is tried, largest first: only a
    waiting crowd fills a large batch, so trying costs nobody.
    """

    def __init__(self, limit: int = SIZES[-1]) -> None:
        self.sizes = tuple(size for size in SIZES if size <= limit)
        self.seconds: dict[int, float] = {}
        self._batches = 0

    def cap(self) -> int:
        """Rows that the next batch may hold."""
        turn, since = divmod(self._batches, PROBE_EVERY)
        if since == PROBE_EVERY - 1:
            allowed = self._allowed()
            return allowed[turn % len(allowed)]
        return self.best

    @property
    def best(self) -> int:
        """The smallest size that no larger one beats by more than it must."""
        allowed = self._allowed()
        unknown = [size for size in allowed if size not in self.seconds]
        if unknown:
            return unknown[-1]
        least = min(self.seconds[size] for size in allowed)
        return next(size for size in allowed if self.seconds[size] * WORTH <= least)

    @property
    def seconds_a_row(self) -> float | None:
        """At the best size measured; None before the first batch."""
        return min(self.seconds.values(), default=None)

    def rows_within(self, seconds: float) -> int:
        """Rows that take no longer, at least one."""
        each = self.seconds_a_row
        return 1 if each is None else max(1, int(seconds / max(each, 1e-9)))

    def record(self, rows: int, seconds: float) -> None:
        """Take in what one batch cost."""
        self._batches += 1
        size = max(size for size in self.sizes if size <= rows)
        each = seconds / rows
        before = self.seconds.get(size, each)
        self.seconds[size] = before + NEWEST * (each - before)

    def _allowed(self) -> tuple[int, ...]:
        most = self.rows_within(LONGEST_S)
        return tuple(size for size in self.sizes if size <= most)
