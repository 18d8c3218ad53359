"""Counts each request once, for two readers: the evidence on versions, and their hourly traffic.

    count_request -> evidence: trials and faults of champion and challenger     -> `Tally`
                  -> traffic: requests, faults, refusals and latencies by hour  -> `TrafficRow`

One trial is a key-minute: all requests with one key in one minute, failed if any of them failed.
So a client that repeats a bad request does not decide a rollout. A request without a key is a
trial of its own. A process that is killed loses what it counted since the last write.
"""

from __future__ import annotations

import hashlib
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from mlops.store import Route
from mlops.store.request_counts import (
    BUCKETS,
    EDGES_S,
    Source,
    Tally,
    Traffic,
    TrafficRow,
    champion_scope,
    dealt_scope,
)

MINUTE_S, BUCKET_S, HOUR_S = 60.0, 300.0, 3600.0
"""Trials that are judged by the newest ones alone have a row for each `BUCKET_S`."""

MAX_WAITING = 20_000
"""Hours (one per version) kept while the store is away, some 10 MB; then the oldest are lost."""

TIMEOUT, TOO_FEW_BARS = "timeout", "too_few_bars"


class Try(NamedTuple):
    """One version that was asked: the seconds it took, and the kind of its fault, if any."""

    model_id: str
    seconds: float
    fault: str | None = None


class TooShort(NamedTuple):
    """The bars that a request offers a version, and how many the version needs.

    With ``has_gap`` they are those since the last gap, which must not lie in what it needs. None
    is offered to a version that reads the clock where bars come without their times.
    """

    offered: int
    needed: int
    has_gap: bool = False

    def __str__(self) -> str:
        if self.has_gap:
            return (
                f"the last {self.needed} bars must follow one another, and only {self.offered} "
                "do; fill the gap, or send more bars since"
            )
        if not self.offered:
            return f"it reads the clock: send open_time with its {self.needed} bars"
        return f"it needs {self.needed} bars and got {self.offered}; send more history"


class _Row(NamedTuple):
    """What a `Tally` is about."""

    service: str
    scope: str
    step: int
    source: Source


_VersionHour: TypeAlias = tuple[str, str, int]
"""What a `TrafficRow` is about: service, model_id, and the number of the hour since 1970."""


@dataclass(slots=True)
class _Trials:
    """Pairs of trials and faults; ``detail`` has the faults by kind."""

    weight_bp: int = 0
    champion: list[int] = field(default_factory=lambda: [0, 0])
    challenger: list[int] = field(default_factory=lambda: [0, 0])
    detail: dict[str, int] = field(default_factory=dict)

    def add(self, fault: str | None, *, challenger: bool, failed_before: bool | None) -> None:
        """Add one input; ``failed_before`` is None where it begins a trial."""
        counts = self.challenger if challenger else self.champion
        counts[0] += failed_before is None
        if fault is not None:
            counts[1] += not failed_before
            self.detail[fault] = self.detail.get(fault, 0) + 1


@dataclass(slots=True)
class _Hour:
    faults: int = 0
    turned_away: int = 0
    seconds: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * BUCKETS)


Key = TypeVar("Key")
Total = TypeVar("Total")


class Totals(Generic[Key, Total]):
    """Running totals by key, and which of them are not written yet.

    Whoever calls `change` or `take`, or reads ``known``, holds ``lock``.
    """

    def __init__(self, lock: threading.Lock, begin: Callable[[], Total]) -> None:
        self.lock = lock
        self.begin = begin
        self.known: dict[Key, Total] = {}
        self._unwritten: set[Key] = set()
        self._taken: set[Key] = set()

    def change(self, key: Key) -> Total:
        """The totals of a key, which the caller changes."""
        totals = self.known.get(key)
        if totals is None:
            totals = self.known[key] = self.begin()
        self._unwritten.add(key)
        return totals

    def take(self) -> list[tuple[Key, Total]]:
        """The totals that changed since they were last taken."""
        self._taken, self._unwritten = self._unwritten, set()
        return [(key, totals) for key, totals in self.known.items() if key in self._taken]

    def give_back(self) -> None:
        """Mark what was taken last as changed again, because it could not be written."""
        with self.lock:
            self._unwritten |= self._taken

    def forget(self, is_over: Callable[[Key], bool]) -> None:
        """Drop the written totals of keys that are over."""
        with self.lock:
            gone = [key for key in self.known if is_over(key) and key not in self._unwritten]
            for key in gone:
                del self.known[key]


class RequestCounters:
    """Counts requests; thread-safe but for its readers, which one thread calls.

    A reader takes the totals that changed, writes them, or gives them back where the write fails,
    and then has those of the past forgotten.

    Args:
        max_waiting: Hours of traffic that may wait for the store; ``lost`` counts older ones.
    """

    def __init__(
        self,
        replica_id: str,
        incarnation: str,
        clock: Callable[[], float] = time.time,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.process = (replica_id, incarnation)
        self.clock = clock
        self.max_waiting = max_waiting
        self.lost = 0
        self._lock = threading.Lock()
        self.evidence: Totals[_Row, _Trials] = Totals(self._lock, _Trials)
        self.traffic: Totals[_VersionHour, _Hour] = Totals(self._lock, _Hour)
        self._champion_fault_at: dict[str, float] = {}
        self._minute = 0
        self._failed: dict[tuple[_Row, bool, bytes], bool] = {}

    def count_request(
        self,
        route: Route,
        tries: Sequence[Try],
        *,
        key: str | None = None,
        too_short: TooShort | None = None,
    ) -> None:
        """Count one request; one that no version could compute is neither a trial nor traffic.

        The version that was asked first succeeded or failed. One that was asked after it is
        charged only if it failed too, and only the champion is. A request that was not answered
        because of a time-out is traffic, but no trial.

        Args:
            tries: The versions that were asked, in this order; the last one without a fault
                answered. None was asked of a mirrored request.
            key: The client's own key.
            too_short: Why the challenger, which the request was dealt or mirrored to, was not
                asked.
        """
        is_answered = bool(tries) and tries[-1].fault is None
        if tries and not is_answered and all(tried.fault != TIMEOUT for tried in tries):
            return
        now = self.clock()
        digest = None if key is None else hashlib.blake2b(key.encode(), digest_size=16).digest()
        with self._lock:
            for model_id, seconds, fault in tries:
                hour = self._change_hour(route.service, model_id, now)
                hour.latencies[bisect_left(EDGES_S, seconds)] += 1
                hour.seconds += seconds
                hour.faults += fault is not None
            if too_short is not None:
                self._count_dealt(route, too_short, digest, now)
            if is_answered:
                self._count_trials(route, tries, digest, now)

    def count_turned_away(self, service: str, model_id: str) -> None:
        """Count one request that was refused before the version was asked."""
        with self._lock:
            self._change_hour(service, model_id, self.clock()).turned_away += 1

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
            trials = self.evidence.change(_pair_row(route, source))
            trials.add(champion, challenger=False, failed_before=None)
            trials.add(challenger, challenger=True, failed_before=None)

    def restart(self, route: Route, source: Source) -> None:
        """Set the pairs of a source back to none."""
        with self._lock:
            self.evidence.known.pop(_pair_row(route, source), None)

    def put_own_trials(self, route: Route, faults: Sequence[str | None]) -> None:
        """Set the champion's newest result on inputs of our own: a fault or None for each."""
        row = _Row(route.service, champion_scope(route.champion), 0, Source.REPLAY)
        with self._lock:
            self.evidence.known.pop(row, None)
            trials = self.evidence.change(row)
            for fault in faults:
                trials.add(fault, challenger=False, failed_before=None)

    def champion_fault_at(self, model_id: str) -> float | None:
        """When a champion last failed on a request, by ``clock``; None if it never did."""
        return self._champion_fault_at.get(model_id)

    # Readers -------------------------------------------------------------------------------------

    def take_evidence(self) -> dict[str, list[Tally]]:
        """The evidence that changed since it was last taken, by service."""
        changes: dict[str, list[Tally]] = {}
        with self._lock:
            for row, trials in self.evidence.take():
                tally = Tally(
                    row.scope,
                    row.step,
                    row.source,
                    *self.process,
                    weight_bp=trials.weight_bp,
                    champion_trials=trials.champion[0],
                    champion_faults=trials.champion[1],
                    challenger_trials=trials.challenger[0],
                    challenger_faults=trials.challenger[1],
                    detail=dict(trials.detail),
                )
                changes.setdefault(row.service, []).append(tally)
        return changes

    def take_traffic(self) -> tuple[TrafficRow, ...]:
        """The hours that changed since they were last taken."""
        with self._lock:
            return tuple(
                TrafficRow(
                    service,
                    model_id,
                    *self.process,
                    datetime.fromtimestamp(number * HOUR_S, UTC),
                    Traffic(
                        sum(hour.latencies) + hour.turned_away,
                        hour.faults,
                        hour.turned_away,
                        hour.seconds,
                        tuple(hour.latencies),
                    ),
                )
                for (service, model_id, number), hour in self.traffic.take()
            )

    def forget_evidence(self, routes: Collection[Route]) -> None:
        """Drop written evidence of ended rollouts, former champions and past buckets."""
        rollouts = {route.salt for route in routes}
        lasting = {champion_scope(route.champion) for route in routes}
        lasting |= {dealt_scope(salt) for salt in rollouts}
        steps = (0, int(self.clock() // BUCKET_S))
        self.evidence.forget(
            lambda row: (
                row.scope not in rollouts and (row.scope not in lasting or row.step not in steps)
            )
        )

    def forget_traffic(self) -> None:
        """Drop written hours that are over."""
        hour = int(self.clock() // HOUR_S)
        self.traffic.forget(lambda key: key[2] != hour)

    # Totals --------------------------------------------------------------------------------------

    def _count_trials(
        self, route: Route, tries: Sequence[Try], key: bytes | None, now: float
    ) -> None:
        """Count success or failure of the version that was asked first, and the champion's."""
        rollout = _Row(route.service, route.salt, route.generation, Source.LIVE)
        if tries[0].model_id == route.challenger:
            self._count_dealt(route, None, key, now)
            self._count_trial(rollout, tries[0].fault, key, now, challenger=True)
            self.evidence.known[rollout].weight_bp = route.weight_bp
        for place, (model_id, _, fault) in enumerate(tries):
            if model_id != route.champion or (place and fault is None):
                continue
            if route.challenger is not None:
                self._count_trial(rollout, fault, key, now)
                self.evidence.known[rollout].weight_bp = route.weight_bp
            bucket = int(now // BUCKET_S)
            own = _Row(route.service, champion_scope(model_id), bucket, Source.LIVE)
            self._count_trial(own, fault, key, now)
            if fault is not None:
                self._champion_fault_at[model_id] = now

    def _count_dealt(
        self, route: Route, too_short: TooShort | None, key: bytes | None, now: float
    ) -> None:
        """Count a request that was dealt to the challenger, and whether it has enough bars."""
        bucket = int(now // BUCKET_S)
        row = _Row(route.service, dealt_scope(route.salt), bucket, Source.LIVE)
        fault = None if too_short is None else TOO_FEW_BARS
        self._count_trial(row, fault, key, now, challenger=True)
        if too_short is not None:
            self.evidence.known[row].detail |= {
                "offered": too_short.offered,
                "needed": too_short.needed,
            }

    def _count_trial(
        self,
        row: _Row,
        fault: str | None,
        key: bytes | None,
        now: float,
        *,
        challenger: bool = False,
    ) -> None:
        failed_before = None
        if key is not None:
            minute = int(now // MINUTE_S)
            if minute != self._minute:
                self._minute, self._failed = minute, {}
            seen = (row, challenger, key)
            failed_before = self._failed.get(seen)
            self._failed[seen] = bool(failed_before) or fault is not None
        trials = self.evidence.change(row)
        trials.add(fault, challenger=challenger, failed_before=failed_before)

    def _change_hour(self, service: str, model_id: str, now: float) -> _Hour:
        hours = self.traffic.known
        if len(hours) > self.max_waiting and (service, model_id, int(now // HOUR_S)) not in hours:
            # Hours are added as they begin, so the first one is the oldest.
            del hours[next(iter(hours))]
            self.lost += 1
        return self.traffic.change((service, model_id, int(now // HOUR_S)))


def _pair_row(route: Route, source: Source) -> _Row:
    # Step 0: pairs do not depend on the challenger's share, so all steps have one row.
    return _Row(route.service, route.salt, 0, source)
