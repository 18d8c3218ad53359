"""What must hold of a store and of a client's log, whatever died meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlops.store import (
    LivePeriod,
    Phase,
    RolloutEvent,
    Store,
    get_route,
    list_audit_entries,
    list_live_periods,
)
from mlops.store.rollouts import list_events, list_rollouts
from tests.faults.notes import Note
from tests.faults.results import Change, Results, Tried
from tests.faults.template import BASELINE, CHAMPION, KEY, UNLOADABLE

ARROWS: dict[Phase | None, frozenset[Phase]] = {
    None: frozenset({Phase.WAITING, Phase.PENDING}),
    Phase.WAITING: frozenset({Phase.PENDING, Phase.FAILED}),
    Phase.PENDING: frozenset({Phase.LOADING, Phase.FAILED, Phase.DONE}),
    Phase.LOADING: frozenset({Phase.LOADING, Phase.GATE, Phase.ROLLBACK, Phase.DONE}),
    Phase.GATE: frozenset({Phase.LOADING, Phase.STEP, Phase.ROLLBACK, Phase.DONE}),
    Phase.STEP: frozenset({Phase.LOADING, Phase.STEP, Phase.PROMOTED, Phase.DONE, Phase.ROLLBACK}),
    Phase.PROMOTED: frozenset({Phase.DONE, Phase.REVERTED}),
    Phase.REVERTED: frozenset({Phase.FAILED}),
    Phase.ROLLBACK: frozenset({Phase.FAILED, Phase.DONE}),
    Phase.DONE: frozenset(),
    Phase.FAILED: frozenset(),
}
"""The diagram of `mlops.rollout.decide`, read off its picture: where each phase may lead."""


def legal(path: Sequence[Phase | None]) -> bool:
    """Whether phases may follow one another so; a path begins with None."""
    return all(after in ARROWS[before] for before, after in pairwise(path))


def broken_in_store(store: Store) -> Iterator[str]:
    """Every law that the rows of the service break."""
    reigns = list_live_periods(store, KEY)
    yield from _broken_reigns(reigns)
    route = get_route(store, KEY)
    if route is None or route.generation != reigns[-1].generation:
        yield f"the route {route} is not what its history ends with"
    changes = [
        entry
        for entry in list_audit_entries(store, service=KEY)
        if "generation" in (entry.after or {})
    ]
    if [entry.after["generation"] for entry in changes if entry.after] != [
        reign.generation for reign in reigns
    ]:
        yield "the audit does not tell each change of the route once"
    passed = {BASELINE, CHAMPION}
    for row in reversed(list_rollouts(store, service=KEY)):
        events = list_events(store, row.id)
        yield from _broken_path(row.id, events)
        if events[-1].to_phase is not row.phase:
            yield f"{row.id} is {row.phase} and its events end with {events[-1].to_phase}"
        if any(event.to_phase is Phase.GATE for event in events):
            passed.add(row.to_version)
    for reign in reigns:
        if reign.champion not in passed and reign.action != "set_up":
            yield f"{reign.champion} reigned without having passed a gate"


def _broken_reigns(reigns: Sequence[LivePeriod]) -> Iterator[str]:
    if [reign.generation for reign in reigns] != list(range(1, len(reigns) + 1)):
        yield f"generations {[reign.generation for reign in reigns]} do not count up by one"
    for reign in reigns:
        if not reign.champion or reign.champion in (reign.challenger, reign.previous_champion):
            yield f"{reign} names one version twice"
        if not 0 <= reign.weight_bp <= 10_000 or (reign.weight_bp and not reign.challenger):
            yield f"{reign} gives a share to nobody"


def _broken_path(rollout_id: str, events: Sequence[RolloutEvent]) -> Iterator[str]:
    path = [events[0].from_phase, *(event.to_phase for event in events)]
    for end in range(2, len(path) + 1):
        if not legal(path[:end]):
            yield f"{rollout_id} went {path[:end]}"
            return
    if [event.seq for event in events] != list(range(len(events))):
        yield f"{rollout_id} has events {[event.seq for event in events]}"
    if any(before.to_phase is not after.from_phase for before, after in pairwise(events)):
        yield f"{rollout_id} has a gap in {path}"
    for name in ("term", "generation"):
        values = [getattr(event, name) for event in events]
        if values != sorted(values):
            yield f"{rollout_id} has {name}s {values}, which go back"


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was killed or told to end, and when (`time.monotonic`)."""

    who: str
    at: float

    def noticed(self, changes: Sequence[Change]) -> float:
        """When the balancer's check next found that it is not ready."""
        return next(
            (
                change.at
                for change in changes
                if change.replica == self.who and change.at >= self.at and change.status != "200"
            ),
            math.inf,
        )

    def excuses(self, tried: Tried, changes: Sequence[Change]) -> bool:
        """Whether an attempt was in flight in it, or begun before its death could be known."""
        mine = tried.replica == self.who and tried.until >= self.at
        return mine and tried.at <= self.noticed(changes)


@dataclass(frozen=True, slots=True)
class Count:
    """Requests that were sent, failed as they may, and failed as they may not."""

    sent: int
    allowed: int
    broken: tuple[str, ...]


def judge_requests(results: Results, deaths: Sequence[Death]) -> Count:
    """Which first attempts failed, and whether each may have and was answered by one retry."""
    allowed, broken = 0, []
    for request in results.requests:
        first, retry = request.first, request.retry
        if first.status == 200 and first.version not in UNLOADABLE:
            continue
        excused = first.status is None and any(
            death.excuses(first, results.changes) for death in deaths
        )
        if excused and retry is not None and retry.status == 200:
            allowed += 1
        else:
            broken.append(f"request {request.number}: {first}, then {retry}")
    return Count(len(results.requests), allowed, tuple(broken))


def broken_readiness(
    results: Results, deaths: Sequence[Death], ended: Sequence[Death]
) -> Iterator[str]:
    """Every time a replica that had been ready said that it is not, though nobody ended it."""
    ready_since: dict[str, float] = {}
    for change in results.changes:
        since = ready_since.pop(change.replica, None)
        if change.status == "200":
            ready_since[change.replica] = change.at
        elif since is not None and not any(
            end.who == change.replica and since <= end.at <= change.at for end in (*deaths, *ended)
        ):
            yield f"{change.replica} became {change.status} at {change.at:.3f}"


def violations(notes: Sequence[Note]) -> Iterator[str]:
    """What a process saw of itself that must never be."""
    yield from (f"{note.who}: {note.text}" for note in notes if note.kind == "violation")
