"""Every state of a small world, reached and judged: what may go wrong, and what gets stuck."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from mlops.rollout.plan import Strategy
from mlops.rollout.routing import FAILED
from mlops.store.routes import Route
from mlops.store.schema import Phase

from . import comparing_laws, evidence_laws, laws
from .world import (
    CHALLENGER,
    CHAMPIONS,
    GOOD,
    IDS,
    LITTLE,
    NOTHING,
    Clock,
    Decided,
    Kind,
    Move,
    Process,
    Row,
    Said,
    Sight,
    World,
    begin,
    decided,
    fallen,
    followed,
    interrupted,
    looks,
    moves,
    outdated,
    sights,
)


class Way(IntFlag):
    """Ways to an end; each step of the world is open on some of them.

    ``CALM``: no evidence comes and nobody interferes. ``PROMPT``: no deadline passes. ``GOOD``:
    no deadline passes, the evidence is good, and the dead stay dead.
    """

    NONE = 0
    CALM = 1
    PROMPT = 2
    GOOD = 4


EVERY_WAY = Way.CALM | Way.PROMPT | Way.GOOD

State = tuple[int, int, int, int]
"""Row, the two replicas, and the faults that are left."""


@dataclass(slots=True)
class Found:
    """What an exploration came to; ``violations`` and ``stuck`` show one path each."""

    states: int = 0
    steps: int = 0
    seconds: float = 0.0
    violations: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    phases: Counter[Phase] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        return not self.violations and not self.stuck

    def __str__(self) -> str:
        figures = f"{self.states:,} states, {self.steps:,} steps, {self.seconds:.1f} s"
        wrong = (self.violations | self.stuck).items()
        return "\n  ".join([figures, *(f"{name}: {path}" for name, path in wrong)])


def explore(world: World, *, stop_at_first: bool = False) -> Found:
    """Reach every state there is, breadth first; ``stop_at_first`` violation, for mutants."""
    return _Exploration(world, stop_at_first=stop_at_first).run()


Thing = TypeVar("Thing", bound=Hashable)


class _Numbers(Generic[Thing]):
    """Numbers for things that are compared often."""

    def __init__(self) -> None:
        self.known: dict[Thing, int] = {}
        self.of: list[Thing] = []

    def __getitem__(self, thing: Thing) -> int:
        number = self.known.get(thing)
        if number is None:
            number = self.known[thing] = len(self.of)
            self.of.append(thing)
        return number


class _Step(NamedTuple):
    """What happens to one replica."""

    process: int
    label: str
    cost: int
    ways: Way


@dataclass(slots=True)
class _Arrow:
    """What the controller does."""

    row: int
    label: str
    changes_route: bool
    promotes: bool
    ways: Way = Way.NONE


class _Exploration:
    def __init__(self, world: World, *, stop_at_first: bool) -> None:
        self.world = world
        self.stop_at_first = stop_at_first
        self.found = Found()
        self.rows: _Numbers[Row] = _Numbers()
        self.routes: _Numbers[Route] = _Numbers()
        self.processes: _Numbers[Process] = _Numbers()
        self.arrows_of: dict[tuple[int, Said | None, Said | None], list[_Arrow]] = {}
        self.steps_of: dict[tuple[int, int, int], list[_Step]] = {}
        self.moves_of: dict[tuple[str, int], list[_Step]] = {}
        self.outdated_of: dict[int, int] = {}
        self.index: dict[State, int] = {}
        self.states: list[State] = []
        self.parents: list[tuple[int, str]] = []
        self.sources, self.targets, self.ways = array("i"), array("i"), array("b")
        self.at = -1

    def run(self) -> Found:
        began = time.perf_counter()
        laws.forget()
        self._note(laws.broken_by_dealing())
        for row, one, two, faults in begin(self.world):
            self._reach((self.rows[row], self.processes[one], self.processes[two], faults), "")
        for at, state in enumerate(self.states):  # it grows while it is walked
            self.at = at
            self._expand(state)
            if self.stop_at_first and self.found.violations:
                break
        else:
            self._look_for_stuck()
        self.found.states, self.found.steps = len(self.states), len(self.sources)
        self.found.seconds = time.perf_counter() - began
        return self.found

    def _expand(self, state: State) -> None:
        row, first, second, faults = state
        self.found.phases[self.rows.of[row].phase] += 1
        for arrow in self._arrows(row, first, second):
            if arrow.promotes:
                self._judge_promotion(row, first, second, arrow)
            one, two = first, second
            if arrow.changes_route:
                one, two = self._outdated(first), self._outdated(second)
            self._go((arrow.row, one, two, faults), arrow.label, arrow.ways)
        for step in self._steps(0, first, row):
            if step.cost <= faults:
                self._go((row, step.process, second, faults - step.cost), step.label, step.ways)
        for step in self._steps(1, second, row):
            if step.cost <= faults:
                self._go((row, first, step.process, faults - step.cost), step.label, step.ways)

    def _go(self, after: State, label: str, ways: Way) -> None:
        target = self._reach(after, label)
        self.sources.append(self.at)
        self.targets.append(target)
        self.ways.append(ways)

    def _reach(self, state: State, label: str) -> int:
        row, first, second, faults = state
        if self.world.symmetric and second < first:
            state = (row, second, first, faults)
        known = self.index.get(state)
        if known is None:
            known = self.index[state] = len(self.states)
            self.states.append(state)
            self.parents.append((self.at, label))
        return known

    # The controller -------------------------------------------------------------------------

    def _arrows(self, row: int, first: int, second: int) -> list[_Arrow]:
        said = (self.processes.of[first].said, self.processes.of[second].said)
        key = (row, *said)
        known = self.arrows_of.get(key)
        if known is None:
            known = self.arrows_of[key] = self._decide(self.rows.of[row], said)
        return known

    def _decide(self, row: Row, said: tuple[Said | None, Said | None]) -> list[_Arrow]:
        plain = row._replace(decided=None)
        found: dict[int, _Arrow] = {}
        for champion in CHAMPIONS if row.phase.final else ():
            fallback = fallen(plain, said, champion)
            self.found.kinds["fall back"] += fallback is not None
            self._note(evidence_laws.broken_by_fallback(plain, said, champion, fallback))
        ended = None if row.phase.final else interrupted(self.world, plain)
        self._note(comparing_laws.broken_by_interrupt(self.world, plain, ended))
        if ended is not None:
            self.found.kinds[f"{row.phase} -> {ended.to}"] += 1
            taken = self._written(followed(plain, ended), "make room")
            found.setdefault(taken.row, taken)
        for sight in () if row.phase.final else sights(self.world.strategy, row.phase):
            arrow = decided(self.world, plain, said, sight)
            look = laws.Look(self.world, plain, said, sight, arrow)
            self._note(laws.broken_by(look))
            self._note(evidence_laws.broken_by(look))
            self._note(comparing_laws.broken_by(look))
            if arrow is None:
                continue
            self.found.kinds[f"{row.phase} -> {arrow.to}"] += 1
            after = followed(plain, arrow)
            taken = self._written(after, f"decide {arrow.to} {arrow.step}")
            if self.world.slow_controller:
                waiting = self.rows[plain._replace(decided=after)]
                taken = _Arrow(waiting, taken.label, changes_route=False, promotes=False)
            found.setdefault(taken.row, taken).ways |= _ways(self.world, row.phase, sight)
        if row.decided is not None:
            written = self._written(row.decided, f"write {row.decided.row.phase}")
            written.ways = EVERY_WAY
            found[written.row] = written
        return list(found.values())

    def _written(self, after: Decided, label: str) -> _Arrow:
        promotes = after.row.phase is Phase.PROMOTED
        return _Arrow(self.rows[after.row], label, after.changes_route, promotes)

    def _judge_promotion(self, row: int, first: int, second: int, arrow: _Arrow) -> None:
        pair = (self.processes.of[first], self.processes.of[second])
        before, after = self.rows.of[row], self.rows.of[arrow.row]
        self._note(laws.broken_by_promotion(self.world, before, after, pair))

    # Replicas -------------------------------------------------------------------------------

    def _steps(self, number: int, process: int, row: int) -> list[_Step]:
        number = 0 if self.world.symmetric else number
        route = self.rows.of[row].route
        key = (number, process, self.routes[route])
        known = self.steps_of.get(key)
        if known is None:
            known = self.steps_of[key] = self._all_steps(IDS[number], process, route)
        return known

    def _all_steps(self, name: str, process: int, route: Route) -> list[_Step]:
        before = self.processes.of[process]
        known = self.moves_of.get((name, process))
        if known is None:
            self._note(laws.broken_in(name, before))
            possible = list(moves(self.world, name, before))
            known = [self._moved(name, before, move) for move in possible]
            self.moves_of[name, process] = known
        if looked := [self._moved(name, before, move) for move in looks(before, route)]:
            return [*known, *looked]
        if route.challenger is None and all(step.cost > 0 for step in known):
            self._note(laws.broken_at_rest(before))
        return known

    def _moved(self, name: str, before: Process, move: Move) -> _Step:
        self.found.kinds[move.kind] += 1
        self._note(laws.broken_by_move(name, before, move))
        ways = EVERY_WAY
        if move.cost:
            ways = Way.NONE
        elif move.kind is Kind.RESTART:
            ways = Way.CALM | Way.PROMPT
        name = "a replica" if self.world.symmetric else name
        label = " ".join(part for part in (name, move.kind, move.what) if part)
        return _Step(self.processes[move.after], label, move.cost, ways)

    def _outdated(self, process: int) -> int:
        known = self.outdated_of.get(process)
        if known is None:
            known = self.outdated_of[process] = self.processes[outdated(self.processes.of[process])]
        return known

    # What was found -------------------------------------------------------------------------

    def _note(self, broken: Iterable[str]) -> None:
        for law in broken:
            if law not in self.found.violations:
                self.found.violations[law] = self._path(self.at)

    def _path(self, at: int) -> str:
        labels: list[str] = []
        while at >= 0:
            at, label = self.parents[at]
            labels.append(label)
        return ", ".join(reversed(labels[:-1])) or "at once"

    def _look_for_stuck(self) -> None:
        phases = np.array([self.rows.of[state[0]].phase for state in self.states])
        final = np.isin(phases, (Phase.DONE, Phase.FAILED))
        undone = np.isin(phases, (Phase.ROLLBACK, Phase.REVERTED))
        forward = np.isin(phases, (*laws.FORWARD, Phase.PROMOTED))
        one = (self.world.champion,)
        both = (*one, CHALLENGER)
        undone &= np.array([self._healthy(state, one) for state in self.states])
        forward &= np.array([self._healthy(state, both) for state in self.states])
        self._must_reach(final, Way.CALM, ~final, "an_end_is_reached_whatever_happens")
        self._must_reach(final, Way.PROMPT, undone, "what_is_undone_ends_without_a_deadline")
        self._must_reach(phases == Phase.DONE, Way.GOOD, forward, "a_good_challenger_gets_through")

    def _must_reach(self, goal: np.ndarray, way: Way, start: np.ndarray, name: str) -> None:
        open_here = (np.frombuffer(self.ways, dtype=np.int8) & way) > 0
        sources = np.frombuffer(self.sources, dtype=np.int32)[open_here]
        targets = np.frombuffer(self.targets, dtype=np.int32)[open_here]
        reaches = goal.copy()
        while True:
            new = sources[reaches[targets] & ~reaches[sources]]
            if not new.size:
                break
            reaches[new] = True
        stuck = np.flatnonzero(start & ~reaches)
        if stuck.size:
            self.found.stuck[name] = f"{stuck.size:,} states, such as {self._path(int(stuck[0]))}"

    def _healthy(self, state: State, models: Collection[str]) -> bool:
        """Somebody lives who is not on the way out, and nobody failed to load these."""
        pair = [self.processes.of[state[1]], self.processes.of[state[2]]]
        held = [one.models for one in pair] + [one.said.models for one in pair if one.said]
        broken = any((model, FAILED) in loaded for loaded in held for model in models)
        return not broken and any(one.alive and not one.draining for one in pair)


def _ways(world: World, phase: Phase, sight: Sight) -> Way:
    """The ways on which the controller may find this."""
    calm = sight.calm and sight.evidence in (NOTHING, LITTLE) and sight.test is None
    prompt = sight.clock is not Clock.LATE
    tested = world.strategy is Strategy.AB_TEST and phase is not Phase.PROMOTED
    good = prompt and sight.calm and sight.evidence == GOOD and (sight.won or not tested)
    return (
        (Way.CALM if calm else Way.NONE)
        | (Way.PROMPT if prompt else Way.NONE)
        | (Way.GOOD if good else Way.NONE)
    )
