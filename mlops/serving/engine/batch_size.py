"""The batch size of a model, by the measured cost of its batches.

    cost(size) = exponentially weighted mean of seconds a row, by size
    best       = the smallest size whose cost is within 5 % of the least

An LSTM forecasts sixteen windows for little more than one costs, a transformer gains nothing from
batches; only measurement tells the two apart.
"""

from __future__ import annotations

SIZES = (1, 2, 4, 8, 16, 32)
"""Sizes, in rows, that are measured apart; a batch counts for the largest that it reaches."""

WORTH = 0.95
"""A larger size pays where a row costs less than this share of what it costs at a smaller one."""

PROBE_EVERY = 64
"""Every so many batches the next of `SIZES` is tried, so that no measurement grows old."""

NEWEST = 0.2
"""Weight of the newest measurement in the mean."""

LONGEST_S = 0.1
"""Longest batch of several rows, in seconds: requests to other models wait for its end."""


class BatchSizer:
    """Chooses the size of a model's next batch.

    The first batch has one row. Then each size that is not measured yet is tried, largest first;
    a large batch forms only where many requests wait, so trying one delays none.

    Args:
        limit: Largest size.
    """

    def __init__(self, limit: int = SIZES[-1]) -> None:
        self.sizes = tuple(size for size in SIZES if size <= limit)
        self.seconds: dict[int, float] = {}
        self._batches = 0

    def cap(self) -> int:
        """Most rows for the next batch."""
        probe, since = divmod(self._batches, PROBE_EVERY)
        if since == PROBE_EVERY - 1:
            allowed = self._allowed()
            return allowed[probe % len(allowed)]
        return self.best

    @property
    def best(self) -> int:
        """The largest size not yet measured, else the smallest that none beats by `WORTH`."""
        allowed = self._allowed()
        unknown = [size for size in allowed if size not in self.seconds]
        if unknown:
            return unknown[-1]
        least = min(self.seconds[size] for size in allowed)
        return next(size for size in allowed if self.seconds[size] * WORTH <= least)

    @property
    def seconds_a_row(self) -> float | None:
        """The least seconds a row of all sizes; None before the first batch."""
        return min(self.seconds.values(), default=None)

    def rows_within(self, seconds: float) -> int:
        """Rows that are forecast within so many seconds, at least one."""
        each = self.seconds_a_row
        return 1 if each is None else max(1, int(seconds / max(each, 1e-9)))

    def record(self, rows: int, seconds: float) -> None:
        """Add the measurement of one batch."""
        self._batches += 1
        size = max(size for size in self.sizes if size <= rows)
        each = seconds / rows
        before = self.seconds.get(size, each)
        self.seconds[size] = before + NEWEST * (each - before)

    def _allowed(self) -> tuple[int, ...]:
        most = self.rows_within(LONGEST_S)
        return tuple(size for size in self.sizes if size <= most)
