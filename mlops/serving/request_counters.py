"""Trials and faults of champion and challenger in this process: the evidence of a rollout.

One trial is a key-minute: all requests with one key in one minute, failed if any of them failed.
So a client that repeats a bad request does not decide a rollout. A request without a key is a
trial of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from mlops.store import Route
from mlops.store.request_counts import Source, Tally

MINUTE_S = 60.0
BUCKET_S = 300.0
"""A champion's own trials are counted in buckets of so many seconds, so that old ones can go."""


@dataclass(slots=True)
class _Totals:
    weight_bp: int
    champion: list[int] = field(default_factory=lambda: [0, 0])
    challenger: list[int] = field(default_factory=lambda: [0, 0])
    kinds: dict[str, int] = field(default_factory=dict)
    changed: bool = True


_Row: TypeAlias = tuple[str, str, int, Source]
"""Service, scope, step and source: what a row of `mlops.store.request_counts` is about."""


class RequestCounters:
    """Counts trials; thread-safe. `take_changes` hands out the totals that are to be written."""

    def __init__(
        self, replica_id: str, incarnation: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.replica_id = replica_id
        self.incarnation = incarnation
        self.clock = clock
        self._lock = threading.Lock()
        self._totals: dict[_Row, _Totals] = {}
        self._minute = 0
        self._seen: dict[tuple[_Row, bool, str], bool] = {}

    def count_request(
        self, route: Route, *, challenger: bool, fault: str | None, key: str | None = None
    ) -> None:
        """Count one request that was answered.

        Args:
            challenger: Whether the request was dealt to the challenger.
            fault: Kind of the fault of the version it was dealt to, where another one answered.
            key: The client's own key.
        """
        with self._lock:
            if route.challenger is not None:
                row = (route.service, route.salt, route.generation, Source.LIVE)
                self._count_trial(row, route.weight_bp, challenger, fault, key)
            if not challenger:
                bucket = int(self.clock() // BUCKET_S)
                row = (route.service, f"champion:{route.champion}", bucket, Source.LIVE)
                self._count_trial(row, 0, False, fault, key)

    def count_pair(
        self, route: Route, source: Source, *, champion: str | None, challenger: str | None
    ) -> None:
        """Count one input that both versions forecast from.

        Args:
            champion: Kind of the champion's fault. An input that neither version answers counts
                as a fault of neither.
            challenger: Kind of the challenger's fault.
        """
        if champion is not None and challenger is not None:
            champion = challenger = None
        with self._lock:
            totals = self._changed_totals(_pair_row(route, source), 0)
            _count(totals, totals.champion, champion)
            _count(totals, totals.challenger, challenger)

    def restart(self, route: Route, source: Source) -> None:
        """Set the pairs of a source back to none."""
        with self._lock:
            self._totals.pop(_pair_row(route, source), None)

    def take_changes(self) -> dict[str, list[Tally]]:
        """The totals that changed since they were last taken, by service."""
        with self._lock:
            changes: dict[str, list[Tally]] = {}
            for (service, scope, step, source), totals in self._totals.items():
                if not totals.changed:
                    continue
                totals.changed = False
                changes.setdefault(service, []).append(
                    Tally(
                        scope=scope,
                        step=step,
                        source=source,
                        replica_id=self.replica_id,
                        incarnation=self.incarnation,
                        weight_bp=totals.weight_bp,
                        champion_trials=totals.champion[0],
                        champion_faults=totals.champion[1],
                        challenger_trials=totals.challenger[0],
                        challenger_faults=totals.challenger[1],
                        detail=dict(totals.kinds),
                    )
                )
            return changes

    def give_back(self, tallies: dict[str, list[Tally]]) -> None:
        """Mark taken totals as changed again, because they could not be written."""
        with self._lock:
            for service, service_tallies in tallies.items():
                for tally in service_tallies:
                    totals = self._totals.get((service, tally.scope, tally.step, tally.source))
                    if totals is not None:
                        totals.changed = True

    def keep_only(self, scopes: set[str]) -> None:
        """Forget written totals of all other scopes: their rollouts and champions are over."""
        with self._lock:
            self._totals = {
                row: totals
                for row, totals in self._totals.items()
                if row[1] in scopes or totals.changed
            }

    def _count_trial(
        self, row: _Row, weight_bp: int, challenger: bool, fault: str | None, key: str | None
    ) -> None:
        totals = self._changed_totals(row, weight_bp)
        counts = totals.challenger if challenger else totals.champion
        if key is None:
            _count(totals, counts, fault)
            return
        minute = int(self.clock() // MINUTE_S)
        if minute != self._minute:
            self._minute, self._seen = minute, {}
        failed_before = self._seen.get((row, challenger, key))
        counts[0] += failed_before is None
        counts[1] += fault is not None and not failed_before
        self._seen[row, challenger, key] = bool(failed_before) or fault is not None
        if fault is not None:
            totals.kinds[fault] = totals.kinds.get(fault, 0) + 1

    def _changed_totals(self, row: _Row, weight_bp: int) -> _Totals:
        totals = self._totals.get(row)
        if totals is None:
            totals = self._totals[row] = _Totals(weight_bp)
        totals.changed = True
        return totals


def _pair_row(route: Route, source: Source) -> _Row:
    # Step 0: pairs do not depend on the challenger's share, so all steps have one row.
    return (route.service, route.salt, 0, source)


def _count(totals: _Totals, counts: list[int], fault: str | None) -> None:
    counts[0] += 1
    if fault is not None:
        counts[1] += 1
        totals.kinds[fault] = totals.kinds.get(fault, 0) + 1
