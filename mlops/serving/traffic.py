"""Running totals of what each version was asked in this process, by hour, until they are written.

A process that is killed loses what it counted since it last wrote, at most `FLUSH_S` of it; one
that ends writes all.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mlops.store import BUCKETS, EDGES_S, Traffic, TrafficRow

FLUSH_S = 30.0
HOUR_S = 3600.0
MAX_WAITING = 20_000
"""Hours of versions that wait while the store is away, some 10 MB; then the oldest are lost."""


@dataclass(slots=True)
class _Hour:
    """One version's totals; ``written`` is how many requests they had when last handed out."""

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
    """Thread-safe; `grown` hands out what has to be written.

    Every request passes here: what can be worked out when it is written is not counted.
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
        self._now: dict[tuple[str, str], _Hour] = {}
        self._over: list[_Hour] = []

    def took(self, service: str, model_id: str, seconds: float, *, fault: bool = False) -> None:
        """A version answered, or failed to, after so many seconds."""
        bucket, now = bisect_left(EDGES_S, seconds), self.clock()
        with self._lock:
            held = self._now.get((service, model_id))
            if held is None or now >= held.ends:
                held = self._begin(service, model_id, now)
            held.latencies[bucket] += 1
            held.seconds += seconds
            if fault:
                held.faults += 1

    def turned_away(self, service: str, model_id: str) -> None:
        """A version that was to be asked had no turn."""
        now = self.clock()
        with self._lock:
            held = self._now.get((service, model_id))
            if held is None or now >= held.ends:
                held = self._begin(service, model_id, now)
            held.turned_away += 1

    def grown(self) -> tuple[TrafficRow, ...]:
        """The totals that grew since they were last handed out; `not_written` takes them back."""
        with self._lock:
            grown = [
                one for one in (*self._over, *self._now.values()) if one.requests > one.written
            ]
            for one in grown:
                one.written = one.requests
            return tuple(self._row(one) for one in grown)

    def not_written(self, rows: Sequence[TrafficRow]) -> None:
        """Hand these out again: the store was away."""
        places = {(row.service, row.model_id, row.hour.timestamp()) for row in rows}
        with self._lock:
            for one in (*self._over, *self._now.values()):
                if (one.service, one.model_id, one.began) in places:
                    one.written = 0

    def forget_written(self) -> None:
        """Let go of the hours that are over and written."""
        now = self.clock()
        with self._lock:
            for key in [key for key, one in self._now.items() if now >= one.ends]:
                self._over.append(self._now.pop(key))
            self._over = [one for one in self._over if one.requests > one.written]

    def _begin(self, service: str, model_id: str, now: float) -> _Hour:
        before = self._now.get((service, model_id))
        if before is not None:
            self._over.append(before)
        if len(self._over) > self.max_waiting:
            # The first to be over is the oldest.
            self._over.pop(0)
            self.lost += 1
        began = now // HOUR_S * HOUR_S
        held = self._now[service, model_id] = _Hour(service, model_id, began, began + HOUR_S)
        return held

    def _row(self, one: _Hour) -> TrafficRow:
        return TrafficRow(
            one.service,
            one.model_id,
            self.replica_id,
            self.incarnation,
            datetime.fromtimestamp(one.began, UTC),
            Traffic(one.requests, one.faults, one.turned_away, one.seconds, tuple(one.latencies)),
        )
