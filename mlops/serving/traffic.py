"""Hourly traffic of each version in this process: requests, faults, refusals and latencies.

The totals grow in memory and are written every `FLUSH_S`; a process that is killed loses at most
what it counted since then, one that ends writes all.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mlops.store.request_counts import BUCKETS, EDGES_S, Traffic, TrafficRow

FLUSH_S = 30.0
HOUR_S = 3600.0
MAX_WAITING = 20_000
"""Hours (one per version) kept while the store is away, some 10 MB; then the oldest are lost."""


@dataclass(slots=True)
class _Hour:
    """The totals of one version in one hour.

    Args:
        began: First second of the hour, Unix time.
        written: How many of its requests were in the totals when they were last taken.
    """

    service: str
    model_id: str
    began: float
    ends: float
    faults: int = 0
    turned_away: int = 0
    seconds: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    written: int = 0

    @property
    def requests(self) -> int:
        return sum(self.latencies) + self.turned_away


class TrafficCounts:
    """Counts traffic; thread-safe. `take_changes` hands out the totals that are to be written.

    Every request is counted here, so all that can be derived when the totals are written is.

    Args:
        max_waiting: Hours that are over and may wait for the store.
    """

    def __init__(
        self,
        replica_id: str,
        incarnation: str,
        *,
        clock: Callable[[], float] = time.time,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.replica_id = replica_id
        self.incarnation = incarnation
        self.clock = clock
        self.max_waiting = max_waiting
        self.lost = 0
        self._lock = threading.Lock()
        self._current: dict[tuple[str, str], _Hour] = {}
        self._over: list[_Hour] = []

    def count_answer(
        self, service: str, model_id: str, seconds: float, *, fault: bool = False
    ) -> None:
        """Count one answer of a version, or one fault, and the seconds it took."""
        bucket, now = bisect_left(EDGES_S, seconds), self.clock()
        with self._lock:
            hour = self._current.get((service, model_id))
            if hour is None or now >= hour.ends:
                hour = self._begin_hour(service, model_id, now)
            hour.latencies[bucket] += 1
            hour.seconds += seconds
            if fault:
                hour.faults += 1

    def count_turned_away(self, service: str, model_id: str) -> None:
        """Count one request that was refused before the version was asked."""
        now = self.clock()
        with self._lock:
            hour = self._current.get((service, model_id))
            if hour is None or now >= hour.ends:
                hour = self._begin_hour(service, model_id, now)
            hour.turned_away += 1

    def take_changes(self) -> tuple[TrafficRow, ...]:
        """The totals that grew since they were last taken."""
        with self._lock:
            hours = [hour for hour in self._hours() if hour.requests > hour.written]
            for hour in hours:
                hour.written = hour.requests
            return tuple(
                TrafficRow(
                    hour.service,
                    hour.model_id,
                    self.replica_id,
                    self.incarnation,
                    datetime.fromtimestamp(hour.began, UTC),
                    Traffic(
                        hour.requests,
                        hour.faults,
                        hour.turned_away,
                        hour.seconds,
                        tuple(hour.latencies),
                    ),
                )
                for hour in hours
            )

    def give_back(self, rows: Sequence[TrafficRow]) -> None:
        """Mark taken totals as changed again, because they could not be written."""
        unwritten = {(row.service, row.model_id, row.hour.timestamp()) for row in rows}
        with self._lock:
            for hour in self._hours():
                if (hour.service, hour.model_id, hour.began) in unwritten:
                    hour.written = 0

    def forget_written(self) -> None:
        """Drop the hours that are over and whose totals were taken."""
        now = self.clock()
        with self._lock:
            for key in [key for key, hour in self._current.items() if now >= hour.ends]:
                self._over.append(self._current.pop(key))
            self._over = [hour for hour in self._over if hour.requests > hour.written]

    def _hours(self) -> tuple[_Hour, ...]:
        return (*self._over, *self._current.values())

    def _begin_hour(self, service: str, model_id: str, now: float) -> _Hour:
        before = self._current.get((service, model_id))
        if before is not None:
            self._over.append(before)
        if len(self._over) > self.max_waiting:
            # Hours are appended as they end, so the first one is the oldest.
            self._over.pop(0)
            self.lost += 1
        began = now // HOUR_S * HOUR_S
        hour = self._current[service, model_id] = _Hour(service, model_id, began, began + HOUR_S)
        return hour
