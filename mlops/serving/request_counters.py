"""Running totals of how versions did in this process, as the controller reads them.

The unit is the key-minute: of all requests with one key in one minute, one trial, failed if any
of them failed. So a client that repeats a bad request does not decide a rollout. Requests
without a key of their own are a key each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlops.store import Route, Source, Tally

MINUTE_S = 60.0
BUCKET_S = 300.0
"""Trials of a champion outside a rollout are counted by so many seconds, to be forgotten."""


@dataclass(slots=True)
class _Totals:
    weight_bp: int
    champion: list[int] = field(default_factory=lambda: [0, 0])
    challenger: list[int] = field(default_factory=lambda: [0, 0])
    kinds: dict[str, int] = field(default_factory=dict)
    changed: bool = True


_Place = tuple[str, str, int, Source]


class RequestCounters:
    """Thread-safe; `changed` hands out what has to be written."""

    def __init__(
        self, replica_id: str, incarnation: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.replica_id = replica_id
        self.incarnation = incarnation
        self.clock = clock
        self._lock = threading.Lock()
        self._totals: dict[_Place, _Totals] = {}
        self._minute = 0
        self._seen: dict[tuple[_Place, bool, str], bool] = {}

    def live(
        self, route: Route, *, challenger: bool, fault: str | None, key: str | None = None
    ) -> None:
        """One answered request: which version it was dealt to, and how that failed, if it did.

        ``key`` is the client's own key; a fault is one only if another version answered.
        """
        with self._lock:
            if route.challenger is not None:
                place = (route.service, route.salt, route.generation, Source.LIVE)
                self._trial(place, route.weight_bp, challenger, fault, key)
            if not challenger:
                bucket = int(self.clock() // BUCKET_S)
                place = (route.service, f"champion:{route.champion}", bucket, Source.LIVE)
                self._trial(place, 0, False, fault, key)

    def paired(
        self, route: Route, source: Source, *, champion: str | None, challenger: str | None
    ) -> None:
        """One input given to both; what neither answers counts against none."""
        if champion is not None and challenger is not None:
            champion = challenger = None
        with self._lock:
            totals = self._at(_paired_place(route, source), 0)
            for counted, fault in ((totals.champion, champion), (totals.challenger, challenger)):
                counted[0] += 1
                counted[1] += fault is not None
            for fault in (champion, challenger):
                _kind(totals, fault)

    def restart(self, route: Route, source: Source) -> None:
        """Forget what was counted for a source, because it is counted anew."""
        with self._lock:
            self._totals.pop(_paired_place(route, source), None)

    def changed(self) -> dict[str, list[Tally]]:
        """Totals not handed out since they last changed, by service."""
        with self._lock:
            found: dict[str, list[Tally]] = {}
            for (service, scope, step, source), totals in self._totals.items():
                if not totals.changed:
                    continue
                totals.changed = False
                found.setdefault(service, []).append(
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
            return found

    def not_written(self, tallies: dict[str, list[Tally]]) -> None:
        """Hand these out again: the store was away."""
        with self._lock:
            for service, several in tallies.items():
                for one in several:
                    totals = self._totals.get((service, one.scope, one.step, one.source))
                    if totals is not None:
                        totals.changed = True

    def keep_only(self, scopes: set[str]) -> None:
        """Forget what was counted for rollouts and champions that are over, once written."""
        with self._lock:
            over = [
                place
                for place, totals in self._totals.items()
                if place[1] not in scopes and not totals.changed
            ]
            for place in over:
                del self._totals[place]

    def _trial(
        self, place: _Place, weight_bp: int, challenger: bool, fault: str | None, key: str | None
    ) -> None:
        totals = self._at(place, weight_bp)
        counted = totals.challenger if challenger else totals.champion
        if key is None:
            counted[0] += 1
            counted[1] += fault is not None
        else:
            before = self._this_minute().get((place, challenger, key))
            counted[0] += before is None
            counted[1] += fault is not None and not before
            self._seen[place, challenger, key] = bool(before) or fault is not None
        _kind(totals, fault)

    def _this_minute(self) -> dict[tuple[_Place, bool, str], bool]:
        minute = int(self.clock() // MINUTE_S)
        if minute != self._minute:
            self._minute, self._seen = minute, {}
        return self._seen

    def _at(self, place: _Place, weight_bp: int) -> _Totals:
        totals = self._totals.get(place)
        if totals is None:
            totals = self._totals[place] = _Totals(weight_bp)
        totals.changed = True
        return totals


def _paired_place(route: Route, source: Source) -> _Place:
    """Pairs are compared whatever the share is, so one row holds those of all steps."""
    return (route.service, route.salt, 0, source)


def _kind(totals: _Totals, fault: str | None) -> None:
    if fault is not None:
        totals.kinds[fault] = totals.kinds.get(fault, 0) + 1
