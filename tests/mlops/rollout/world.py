"""A small world in which a rollout is explored: two replicas, a route, and a rollout's row.

The moves of replicas are those that `mlops.rollout.routing` allows them, the arrows those that
`mlops.rollout.decide` takes. Of generations only one thing matters, for they never come again:
1 is the one in force, 0 any that came before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import product
from typing import NamedTuple

from mlops.rollout import comparing, routing
from mlops.rollout import decide as deciding
from mlops.rollout import fallback as falling
from mlops.rollout.analysis import (
    ChampionTrials,
    Evidence,
    PairedTrials,
    ShortRequests,
    TrialCounts,
)
from mlops.rollout.plan import RolloutPlan, Strategy, plan_for
from mlops.store.replicas import HeldModel, LoadCause, Replica, ReplicaState
from mlops.store.rollouts import Arrow, Rollout
from mlops.store.routes import Route
from mlops.store.schema import Phase, Status, Verdict

SERVICE, ROLLOUT = "service", "rollout"
CHAMPION, CHALLENGER, PREVIOUS, BASELINE = "A", "B", "C", "D"
IDS = ("r0", "r1")
IN_FORCE, OLDER = 1, 0
T0 = datetime(2025, 1, 1, tzinfo=UTC)

Models = tuple[tuple[str, str], ...]
"""What a process holds: pairs of model and state, sorted."""

LACKS = "lacks"
"""The state of a model that its process could not load, by no fault of the model."""


@dataclass(frozen=True, slots=True)
class World:
    """What is explored, and how many faults may happen on the way.

    The baseline never loads, so that nobody is rescued by it, unless ``baseline_loads``: then
    its failing is a fault like others. With ``champion_may_not_load`` that costs no fault. With
    ``slow_controller`` anything may happen between what the controller saw and what it writes. An
    A/B test is explored with half of the traffic for its challenger, or ``unsplit`` with none.
    """

    strategy: Strategy
    faults: int = 1
    baseline_loads: bool = False
    begins_on_baseline: bool = False
    has_previous: bool = False
    champion_may_not_load: bool = False
    slow_controller: bool = False
    unsplit: bool = False

    @property
    def plan(self) -> RolloutPlan:
        return _UNSPLIT if self.unsplit else _PLANS[self.strategy]

    @property
    def champion(self) -> str:
        return BASELINE if self.begins_on_baseline else CHAMPION

    @property
    def symmetric(self) -> bool:
        """Whether replicas differ by nothing but their name."""
        return self.strategy is not Strategy.ROLLING


_PLANS = {strategy: plan_for(strategy) for strategy in Strategy} | {
    Strategy.CANARY: plan_for(Strategy.CANARY, weights_bp=(5000, 10_000))
}


_UNSPLIT = plan_for(Strategy.AB_TEST, weights_bp=(0,))


class Said(NamedTuple):
    """What a replica last acknowledged."""

    generation: int
    models: Models
    draining: bool


class Process(NamedTuple):
    """A replica: the route it has seen, what it holds, and what others know of it.

    ``said`` is None once its lease has run out.
    """

    alive: bool
    seen: Route | None
    models: Models
    said: Said | None
    draining: bool = False

    @property
    def states(self) -> dict[str, str]:
        """As the product knows them: it drops and replaces all failed models alike."""
        return {model: routing.FAILED if state == LACKS else state for model, state in self.models}

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(model for model, state in self.models if state == routing.READY)


class Row(NamedTuple):
    """Route and rollout; ``decided`` is what a slow controller is about to write."""

    route: Route
    phase: Phase
    step: int
    decided: Decided | None = None


class Decided(NamedTuple):
    """Where an arrow leads, and whether it brings a new generation of the route."""

    row: Row
    changes_route: bool


class Kind(StrEnum):
    """What a replica may do, or suffer."""

    LOOK = "look"
    LOOK_IN_VAIN = "look, unheard"
    LOAD = "load"
    FAIL = "fail to load"
    LACK = "lack what a load needs"
    DROP = "drop"
    ACKNOWLEDGE = "acknowledge"
    CRASH = "crash"
    RESTART = "restart"
    PARTITION = "partition"
    EXPIRE = "expire"
    DRAIN = "drain"
    EXIT = "exit"


DEPLOYING = frozenset(
    {Kind.LOOK, Kind.LOOK_IN_VAIN, Kind.LOAD, Kind.FAIL, Kind.LACK, Kind.DROP, Kind.ACKNOWLEDGE}
)
"""What replicas do because somebody deploys."""


class Move(NamedTuple):
    kind: Kind
    what: str
    after: Process
    cost: int = 0


def begin(world: World) -> Iterator[tuple[Row, Process, Process, int]]:
    """A rollout was asked for, of a new version or of one that is the champion by now.

    Both replicas run, or one, or none: one that does not is one of the faults. The number is
    that of the faults which are left.
    """
    before = PREVIOUS if world.has_previous else None
    for champion, previous in ((world.champion, before), (CHALLENGER, world.champion)):
        route = Route(SERVICE, IN_FORCE, champion, previous, BASELINE, T0, T0)
        states = {BASELINE: routing.READY} | dict(_at_start(world))
        states |= {name: routing.READY for name in (champion, previous) if name is not None}
        models = _sorted(states)
        runs = Process(True, route, models, Said(IN_FORCE, models, False))
        for pair in product((runs, _DOWN), repeat=2):
            yield Row(route, Phase.PENDING, 0), *pair, max(world.faults - pair.count(_DOWN), 0)


_DOWN = Process(False, None, (), None)


def outdated(process: Process) -> Process:
    """The same replica after the route has changed."""
    seen = process.seen and replace(process.seen, generation=OLDER)
    said = process.said and process.said._replace(generation=OLDER)
    return process._replace(seen=seen, said=said)


# Replicas -----------------------------------------------------------------------------------


def moves(world: World, name: str, process: Process) -> Iterator[Move]:
    """Everything that may happen next to a replica, but for its seeing a new route."""
    alive, seen, models, said, draining = process
    if not alive:
        yield Move(Kind.RESTART, "", Process(True, None, _at_start(world), said))
        if said is not None:
            yield Move(Kind.EXPIRE, "", process._replace(said=None))
        return
    saying = Said(OLDER if seen is None else seen.generation, models, draining)
    if said != saying:
        yield Move(Kind.ACKNOWLEDGE, "", process._replace(said=saying))
    yield Move(Kind.CRASH, "", _DOWN._replace(said=said), 1)
    if draining:
        yield Move(Kind.EXIT, "", _DOWN)
        return
    yield Move(Kind.DRAIN, "", process._replace(draining=True), 1)
    if said is not None:
        yield Move(Kind.PARTITION, "", process._replace(said=None), 1)
    if seen is not None:
        yield from _loads(world, name, process, seen)
        for model, _ in models:
            if routing.may_drop(seen, name, model, process.states):
                left = tuple(pair for pair in models if pair[0] != model)
                yield Move(Kind.DROP, model, process._replace(models=left))


def looks(process: Process, route: Route) -> Iterator[Move]:
    """See the route in force, and say so in the same breath, unless the store goes away."""
    if not process.alive or process.draining or process.seen == route:
        return
    heard = Said(IN_FORCE, process.models, process.draining)
    yield Move(Kind.LOOK, "", process._replace(seen=route, said=heard))
    yield Move(Kind.LOOK_IN_VAIN, "", process._replace(seen=route, said=None), 1)


def _loads(world: World, name: str, process: Process, seen: Route) -> Iterator[Move]:
    for model, state in process.models:
        if state == LACKS:
            others = {name: state for name, state in process.states.items() if name != model}
            if routing.next_to_load(seen, name, others) == model:
                yield _load(Kind.LOAD, process, model, routing.READY)
    model = routing.next_to_load(seen, name, process.states)
    if model is None:
        return
    yield _load(Kind.LOAD, process, model, routing.READY)
    free = model == CHALLENGER or (model == CHAMPION and world.champion_may_not_load)
    yield _load(Kind.FAIL, process, model, routing.FAILED, 0 if free else 1)
    yield _load(Kind.LACK, process, model, LACKS, 1)


def _load(kind: Kind, process: Process, model: str, state: str, cost: int = 0) -> Move:
    after = _sorted(dict(process.models) | {model: state})
    return Move(kind, model, process._replace(models=after), cost)


def _at_start(world: World) -> Models:
    return () if world.baseline_loads else ((BASELINE, routing.FAILED),)


def _sorted(states: dict[str, str]) -> Models:
    return tuple(sorted(states.items()))


# The controller -----------------------------------------------------------------------------


class Clock(StrEnum):
    """How long the phase has lasted."""

    EARLY = "early"
    DWELT = "dwelt"
    LATE = "late"
    RESTARTED = "late, and all replicas have just started"


NOTHING = Evidence()
LITTLE = Evidence(paired=PairedTrials(50))
GOOD = Evidence(paired=PairedTrials(1000), promoted=TrialCounts(1000, 0))
WORSE = Evidence(paired=PairedTrials(1000, challenger_faults=100))
WORSE_AFTER = Evidence(paired=PairedTrials(1000), promoted=TrialCounts(1000, 100))

FAULTS, SOME_OWN = TrialCounts(1000, 200), TrialCounts(23, 1)
HEALTHY = ChampionTrials(TrialCounts(1000, 1), TrialCounts(23, 0))
FAILS = ChampionTrials(FAULTS, SOME_OWN)
FAILS_CLIENTS = ChampionTrials(FAULTS, TrialCounts(23, 0))
UNCHECKED = ChampionTrials(FAULTS)
FAILS_OURS = ChampionTrials(HEALTHY.live, SOME_OWN)
CHAMPIONS = (HEALTHY, FAILS, FAILS_CLIENTS, UNCHECKED, FAILS_OURS)
"""What may be known of a champion: trials on requests, and those on inputs of our own."""

FEW_SHORT, MANY_SHORT = ShortRequests(100, 1, 35, 169), ShortRequests(100, 2, 35, 169)


class Sight(NamedTuple):
    """What else the controller finds when it looks.

    ``test`` is the stored verdict of the rollout's A/B test, ``promotes`` whether its winner is
    promoted, and ``asked`` whether another version waits for the slot.
    """

    evidence: Evidence
    clock: Clock
    aborted: bool = False
    champion: ChampionTrials = HEALTHY
    status: Status = Status.CHALLENGER
    forced: bool = False
    short: ShortRequests = FEW_SHORT
    test: Verdict | None = None
    promotes: bool = True
    asked: bool = False

    @property
    def won(self) -> bool:
        """The test has a winner who is to be promoted."""
        return self.test is Verdict.BETTER and self.promotes

    @property
    def lost(self) -> bool:
        """The test is over, and promotes nobody."""
        return self.test is not None and not self.won

    @property
    def champion_fails(self) -> bool:
        """The champion fails on requests, and on inputs of our own."""
        return self.champion == FAILS

    @property
    def calm(self) -> bool:
        """Nobody interferes, and clients send enough bars."""
        interfered = self.aborted or self.champion_fails or self.short == MANY_SHORT
        interfered = interfered or self.lost or self.asked
        return not interfered and self.status is Status.CHALLENGER


_CLOCKS = (Clock.EARLY, Clock.DWELT, Clock.LATE)
_SEEN = (
    *(Sight(*found) for found in product((NOTHING, LITTLE, GOOD, WORSE), _CLOCKS)),
    *(Sight(evidence, Clock.RESTARTED) for evidence in (NOTHING, GOOD)),
)
_HANDS = tuple(
    Sight(evidence, clock, **what)
    for evidence, clock, what in product(
        (NOTHING, GOOD),
        _CLOCKS,
        ({"aborted": True}, {"champion": FAILS}),
    )
)
_CLIENTS = (
    *(Sight(GOOD, clock, short=MANY_SHORT) for clock in _CLOCKS),
    *(Sight(GOOD, Clock.DWELT, champion=known) for known in (FAILS_CLIENTS, UNCHECKED)),
)
_REFUSED = tuple(
    Sight(NOTHING, clock, status=status, forced=forced)
    for clock, status, forced in product(_CLOCKS, (Status.REFUSED, Status.FAILED), (False, True))
)
_AFTER = tuple(Sight(WORSE_AFTER, clock) for clock in _CLOCKS)


_FOUND = (
    *(Sight(*found, test=Verdict.BETTER) for found in product((NOTHING, GOOD, WORSE), _CLOCKS)),
    Sight(NOTHING, Clock.RESTARTED, test=Verdict.BETTER),
    *(Sight(NOTHING, clock, test=verdict) for clock, verdict in product(_CLOCKS, Verdict)),
    *(
        Sight(NOTHING, clock, test=Verdict.BETTER, promotes=False, aborted=aborted)
        for clock, aborted in product(_CLOCKS, (False, True))
    ),
    *(Sight(NOTHING, clock, test=Verdict.BETTER, short=MANY_SHORT) for clock in _CLOCKS),
    *(Sight(NOTHING, Clock.DWELT, test=verdict, aborted=True) for verdict in Verdict),
    *(Sight(NOTHING, Clock.DWELT, test=verdict, champion=FAILS) for verdict in Verdict),
    *(Sight(WORSE, Clock.DWELT, test=verdict) for verdict in Verdict),
    *(Sight(NOTHING, Clock.DWELT, test=verdict, status=Status.FAILED) for verdict in Verdict),
)
_ASKED = tuple(
    Sight(evidence, clock, aborted=aborted, asked=True)
    for evidence, clock, aborted in product((NOTHING, GOOD, WORSE), _CLOCKS, (False, True))
)


def sights(strategy: Strategy, phase: Phase) -> tuple[Sight, ...]:
    """What may be found in a phase."""
    before_end = phase is not Phase.PROMOTED and phase is not Phase.REVERTED
    tested = _FOUND if strategy is Strategy.AB_TEST and before_end else ()
    compares = strategy in (Strategy.AB_TEST, Strategy.SHADOW)
    more = (*tested, *(_ASKED if compares and before_end else ()))
    if phase is Phase.PENDING:
        return (*_SEEN, *_HANDS, *_REFUSED, *more)
    after = _AFTER if phase is Phase.PROMOTED else ()
    return (*_SEEN, *_HANDS, *_CLIENTS, *after, *more)


def decided(world: World, row: Row, said: tuple[Said | None, ...], sight: Sight) -> Arrow | None:
    """The arrow the product takes."""
    asked = _asked(world, row.phase, row.step, sight.aborted, sight.forced)
    now = T0 + _lasted(world.plan, row.phase, sight.clock)
    started = now if sight.clock is Clock.RESTARTED else T0
    snapshot = deciding.Snapshot(
        rollout=asked,
        plan=world.plan,
        route=row.route,
        replicas=tuple(
            _replica(name, heard, started) for name, heard in zip(IDS, said, strict=True) if heard
        ),
        evidence=sight.evidence,
        statuses={CHALLENGER: sight.status, row.route.champion: Status.DEPLOYED},
        champion_failing=falling.champion_failing(row.route, (), sight.champion),
        short_requests=sight.short,
        verdict_of_test=sight.test,
        verdict_text="its sentence" if sight.test else "",
        promotes_winner=sight.promotes,
        asked_by=_WAITING if sight.asked else None,
    )
    return deciding.decide(snapshot, now)


def interrupted(world: World, row: Row) -> Arrow | None:
    """The arrow of a request that another version go live instead; None where it is refused."""
    asked = _asked(world, row.phase, row.step, aborted=False, forced=False)
    if not comparing.makes_room(asked):
        return None
    return comparing.interrupt(asked, row.route, "another was asked for", again=True)


def fallen(
    row: Row, said: tuple[Said | None, ...], champion: ChampionTrials
) -> falling.Fallback | None:
    """What the product puts in the place of a champion, where no rollout is open."""
    replicas = [_replica(name, heard, T0) for name, heard in serving(said).items()]
    return falling.decide_fallback(row.route, replicas, champion)


def serving(said: tuple[Said | None, ...]) -> dict[str, Said]:
    """The replicas that a champion is judged by: those that stay."""
    return {
        name: heard
        for name, heard in zip(IDS, said, strict=True)
        if heard is not None and not heard.draining
    }


def followed(row: Row, arrow: Arrow) -> Decided:
    """Route and rollout after an arrow; a changed route is a new generation."""
    route = row.route if arrow.route is None else replace(arrow.route, generation=IN_FORCE)
    return Decided(Row(route, arrow.to, arrow.step), arrow.route is not None)


@cache
def _lasted(plan: RolloutPlan, phase: Phase, clock: Clock) -> timedelta:
    shortest = {Phase.STEP: plan.dwell_s, Phase.PROMOTED: plan.bake_s}.get(phase, 0.0)
    if clock in (Clock.LATE, Clock.RESTARTED):
        return plan.patience(phase)
    return timedelta(seconds=shortest if clock is Clock.DWELT else max(shortest - 1, 0))


@cache
def _asked(world: World, phase: Phase, step: int, aborted: bool, forced: bool) -> Rollout:
    plan = world.plan
    return Rollout(
        id=ROLLOUT,
        service=SERVICE,
        strategy=plan.strategy,
        from_version=world.champion,
        to_version=CHALLENGER,
        plan={},
        phase=phase,
        step=step,
        since=T0,
        deadline=T0 + plan.patience(phase),
        reason="why",
        abort_requested="somebody" if aborted else None,
        forced=forced,
        requested_by="somebody",
        requested_why="",
        requested_at=T0,
    )


_WAITING = replace(
    _asked(World(Strategy.CANARY), Phase.WAITING, 0, aborted=False, forced=False),
    id="waiting",
    to_version=PREVIOUS,
)


@cache
def _replica(name: str, said: Said, started_at: datetime) -> Replica:
    return Replica(
        id=name,
        incarnation="1",
        address="",
        state=ReplicaState.DRAINING if said.draining else ReplicaState.READY,
        generations={SERVICE: said.generation},
        models={model: _model(model, state) for model, state in said.models},
        started_at=started_at,
    )


def _model(model: str, state: str) -> HeldModel:
    if state == LACKS:
        return HeldModel(model, routing.FAILED, cause=LoadCause.REPLICA)
    return HeldModel(model, state, cause=LoadCause.VERSION if state == routing.FAILED else None)
