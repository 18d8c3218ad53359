"""What must hold of every arrow, every replica and every move, whatever happened before.

The laws are told by what was acknowledged and what is held, never by the rules they judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.rollout import routing
from mlops.rollout.plan import EVERYTHING_BP, Strategy
from mlops.store.rollouts import Arrow
from mlops.store.routes import Route
from mlops.store.schema import Phase, Status, Verdict, metadata
from mlops.store.schema import route as route_table

from .world import (
    CHALLENGER,
    DEPLOYING,
    GOOD,
    IDS,
    IN_FORCE,
    LACKS,
    MANY_SHORT,
    NOTHING,
    ROLLOUT,
    WORSE,
    WORSE_AFTER,
    Clock,
    Kind,
    Move,
    Process,
    Row,
    Said,
    Sight,
    World,
)

LEGAL: dict[Phase | None, frozenset[Phase]] = {
    None: frozenset({Phase.WAITING, Phase.PENDING}),
    Phase.WAITING: frozenset({Phase.PENDING, Phase.FAILED}),
    Phase.PENDING: frozenset({Phase.LOADING, Phase.FAILED, Phase.DONE}),
    Phase.LOADING: frozenset({Phase.LOADING, Phase.GATE, Phase.ROLLBACK, Phase.DONE}),
    Phase.GATE: frozenset({Phase.LOADING, Phase.STEP, Phase.ROLLBACK, Phase.DONE}),
    Phase.STEP: frozenset({Phase.LOADING, Phase.STEP, Phase.PROMOTED, Phase.DONE, Phase.ROLLBACK}),
    Phase.PROMOTED: frozenset({Phase.DONE, Phase.REVERTED}),
    Phase.REVERTED: frozenset({Phase.FAILED}),
    Phase.ROLLBACK: frozenset({Phase.FAILED, Phase.DONE}),
}
"""Where each phase may lead; what is final leads nowhere."""

FORWARD = (Phase.LOADING, Phase.GATE, Phase.STEP)
"""The phases in which the challenger is the challenger."""

KEYS = tuple(f"key-{number}" for number in range(32))


def _holds(said: Said, model: str | None) -> bool:
    return (model, routing.READY) in said.models


def _all_hold(able: dict[str, Said]) -> bool:
    """Somebody is able, and all who are route by the newest route and hold the version."""
    following = (said.generation == IN_FORCE and _holds(said, CHALLENGER) for said in able.values())
    return bool(able) and all(following)


@dataclass(frozen=True, slots=True)
class Look:
    """The controller looked, and took an arrow or none."""

    world: World
    row: Row
    said: tuple[Said | None, ...]
    sight: Sight
    arrow: Arrow | None

    @property
    def live(self) -> dict[str, Said]:
        """Who is waited for: a process that is on its way out is not."""
        heard = zip(IDS, self.said, strict=True)
        return {name: said for name, said in heard if said is not None and not said.draining}

    @property
    def parts(self) -> dict[str, Said]:
        """Who is to hold the challenger."""
        only = self.row.route.only_replicas
        return {name: said for name, said in self.live.items() if only is None or name in only}

    @property
    def followed(self) -> bool:
        """Somebody lives, and all who do route by the newest route."""
        live = self.live.values()
        return bool(live) and all(said.generation == IN_FORCE for said in live)

    @property
    def held(self) -> bool:
        """Somebody takes part, and all who do hold the challenger."""
        parts = self.parts.values()
        return bool(parts) and all((CHALLENGER, routing.READY) in said.models for said in parts)

    @property
    def load_failed(self) -> bool:
        """Some replica found that the version's own files are wrong."""
        return any((CHALLENGER, routing.FAILED) in said.models for said in self.live.values())

    @property
    def able(self) -> dict[str, Said]:
        """Who has not failed to load the version, for whatever cause."""
        failed = {(CHALLENGER, routing.FAILED), (CHALLENGER, LACKS)}
        return {name: said for name, said in self.live.items() if not failed & set(said.models)}

    @property
    def bad_news(self) -> bool:
        if self.row.phase is Phase.PROMOTED:
            lost = self.load_failed and not self.able
            return self.sight.aborted or lost or self.sight.evidence == WORSE_AFTER
        bad = self.sight.aborted or self.load_failed or self.sight.champion_fails
        bad = bad or self.sight.lost
        return bad or self.sight.evidence == WORSE

    @property
    def can_go_back(self) -> bool:
        """Somebody holds a version that could take the champion's place."""
        return self.successor is not None

    @property
    def successor(self) -> str | None:
        """The champion before this one, else the baseline, whichever somebody holds."""
        route = self.row.route
        for name in (route.previous_champion, route.baseline):
            held = any(_holds(said, name) for said in self.live.values())
            if held and name != route.champion:
                return name
        return None

    @property
    def is_held(self) -> bool:
        """Clients send too few bars for the challenger."""
        return self.sight.short == MANY_SHORT

    @property
    def tests(self) -> bool:
        """The rollout carries an A/B test."""
        return self.world.strategy is Strategy.AB_TEST

    @property
    def is_asked(self) -> bool:
        """The rollout is a shadow, and another version waits for its place."""
        return self.world.strategy is Strategy.SHADOW and self.sight.asked

    def goes(self, *phases: Phase) -> bool:
        return self.arrow is not None and self.arrow.to in phases

    @property
    def grows(self) -> bool:
        """More keys, or more replicas, are the challenger's than before."""
        if self.arrow is None or self.arrow.route is None or self.goes(Phase.LOADING):
            return False
        before, after = self.row.route, self.arrow.route
        wider = (before.only_replicas or ()) != (after.only_replicas or ())
        return after.challenger is not None and (after.weight_bp > before.weight_bp or wider)


# Arrows -------------------------------------------------------------------------------------


def the_path_is_legal(look: Look) -> bool:
    return look.arrow is None or look.arrow.to in LEGAL.get(look.row.phase, frozenset())


def every_wait_has_an_end(look: Look) -> bool:
    if look.arrow is None or look.arrow.to.final:
        return True
    return look.arrow.patience.total_seconds() > 0


def a_deadline_is_acted_on(look: Look) -> bool:
    if look.sight.clock is not Clock.LATE:
        return True
    phase = look.row.phase
    if phase is Phase.PENDING:
        return bool(look.live) or look.goes(Phase.FAILED)
    if phase in FORWARD and not look.live:
        return look.arrow is None or look.bad_news
    if phase in FORWARD:
        ready = look.followed and look.held and not look.bad_news
        next_ = Phase.DONE if look.is_asked else Phase.GATE
        if phase is not Phase.LOADING:
            next_ = Phase.PROMOTED
            ready = ready and phase is Phase.STEP and look.sight.won and not look.is_held
        return look.goes(next_ if ready else Phase.ROLLBACK)
    return phase is Phase.PROMOTED or look.goes(Phase.FAILED, Phase.DONE)


def a_promotion_is_judged_at_its_deadline(look: Look) -> bool:
    """By the replicas that can load the version; where there are none, it goes on waiting."""
    if look.row.phase is not Phase.PROMOTED or look.sight.clock is not Clock.LATE:
        return True
    if look.bad_news or (look.able and not _all_hold(look.able)):
        return look.goes(Phase.REVERTED) or not look.can_go_back
    return look.goes(Phase.DONE) == bool(look.able)


def bad_news_is_acted_on_at_once(look: Look) -> bool:
    if not look.bad_news:
        return True
    if look.row.phase is Phase.PENDING:
        return not look.sight.aborted or look.goes(Phase.FAILED)
    if look.row.phase in FORWARD:
        return look.goes(Phase.ROLLBACK)
    return look.row.phase is not Phase.PROMOTED or look.goes(Phase.REVERTED) == look.can_go_back


def a_route_is_moved_only_to_what_a_live_replica_holds(look: Look) -> bool:
    if look.arrow is None or look.arrow.route is None:
        return True
    after = look.arrow.route.champion
    held = any(_holds(said, after) for said in look.live.values())
    return after == look.row.route.champion or held


def a_load_failure_of_a_replica_moves_no_route_and_no_status(look: Look) -> bool:
    """It may be waited for, until the deadline; then the version has not failed."""
    lacking = any(LACKS in dict(said.models).values() for said in look.live.values())
    if not lacking or look.bad_news or look.arrow is None:
        return True
    undone = look.goes(Phase.ROLLBACK, Phase.REVERTED)
    if look.sight.clock is not Clock.LATE:
        return not undone
    if look.row.phase is Phase.PROMOTED:
        return not undone or (bool(look.able) and not _all_hold(look.able))
    return Status.FAILED not in look.arrow.statuses.values()


def what_has_just_started_is_given_the_time_to_load(look: Look) -> bool:
    if look.sight.clock is not Clock.RESTARTED or look.bad_news or not look.live:
        return True
    return not look.goes(Phase.ROLLBACK, Phase.REVERTED)


def nothing_is_promoted_without_a_live_acknowledgement(look: Look) -> bool:
    return not look.goes(Phase.PROMOTED) or bool(look.live)


def nothing_is_promoted_that_is_not_held_by_all(look: Look) -> bool:
    return not look.goes(Phase.PROMOTED) or (look.followed and look.held)


def traffic_grows_only_where_all_have_followed(look: Look) -> bool:
    return not look.grows or (look.followed and look.held)


def no_step_is_taken_before_all_have_followed(look: Look) -> bool:
    if look.row.phase is Phase.PROMOTED and look.goes(Phase.DONE):
        late = look.sight.clock is Clock.LATE
        return (look.followed and look.held) or (late and _all_hold(look.able))
    return not look.goes(Phase.GATE) or (look.followed and look.held)


def no_share_is_given_before_the_gate(look: Look) -> bool:
    return not look.goes(Phase.STEP) or look.sight.evidence != NOTHING


def a_share_is_given_step_by_step(look: Look) -> bool:
    if look.arrow is None or look.arrow.route is None or look.arrow.route.challenger is None:
        return True
    after, weights = look.arrow.route, look.world.plan.weights_bp
    if not look.goes(Phase.STEP):
        return after.weight_bp == 0
    step = 0 if look.world.plan.one_by_one else look.arrow.step
    return step < len(weights) and after.weight_bp == weights[step]


def replicas_take_part_one_by_one_or_all_at_once(look: Look) -> bool:
    if look.arrow is None or look.arrow.route is None or look.arrow.route.challenger is None:
        return True
    before, after = look.row.route.only_replicas, look.arrow.route.only_replicas
    if not look.world.plan.one_by_one:
        return after is None
    if look.goes(Phase.LOADING):
        return after is not None and len(after) == 1
    joins = look.row.phase is Phase.STEP and look.goes(Phase.STEP)
    return after is not None and len(after) == len(before or ()) + joins


def only_what_is_good_goes_on(look: Look) -> bool:
    further = look.row.phase is Phase.STEP and look.goes(Phase.STEP)
    good = look.sight.won if look.tests else look.sight.evidence == GOOD
    return not (further or look.goes(Phase.PROMOTED)) or good


def only_a_full_share_is_promoted(look: Look) -> bool:
    route = look.row.route
    whole = route.only_replicas is None or set(look.live) <= set(route.only_replicas)
    if look.tests:
        return True
    return not look.goes(Phase.PROMOTED) or (route.weight_bp == EVERYTHING_BP and whole)


def each_step_lasts(look: Look) -> bool:
    waiting = look.row.phase in (Phase.STEP, Phase.PROMOTED)
    early = waiting and look.sight.clock is Clock.EARLY
    # A test lasts until its verdict, a shadow until another version waits.
    early = early and not (look.row.phase is Phase.STEP and (look.tests or look.is_asked))
    return not early or not look.goes(Phase.STEP, Phase.PROMOTED, Phase.DONE)


def steps_are_counted(look: Look) -> bool:
    if look.arrow is None or look.row.phase is not Phase.STEP or not look.goes(Phase.STEP):
        return True
    return look.arrow.step == look.row.step + 1


def a_shadow_gets_no_traffic(look: Look) -> bool:
    if look.arrow is None or look.world.strategy is not Strategy.SHADOW:
        return True
    route = look.arrow.route
    return not look.goes(Phase.PROMOTED) and (route is None or route.weight_bp == 0)


def a_challenger_without_share_is_shown_requests(look: Look) -> bool:
    if not look.goes(*FORWARD) or look.arrow is None or look.arrow.route is None:
        return True
    after = look.arrow.route
    return after.challenger == CHALLENGER and (after.weight_bp > 0 or after.mirror_bp > 0)


def promotion_keeps_the_previous_champion(look: Look) -> bool:
    if not look.goes(Phase.PROMOTED):
        return True
    assert look.arrow is not None
    after = look.arrow.route
    return after is not None and (after.champion, after.previous_champion, after.challenger) == (
        CHALLENGER,
        look.row.route.champion,
        None,
    )


def reverting_goes_back_to_what_is_held_and_keeps_both(look: Look) -> bool:
    if not look.goes(Phase.REVERTED):
        return True
    assert look.arrow is not None
    after, before = look.arrow.route, look.row.route
    return after is not None and (after.champion, after.previous_champion) == (
        look.successor,
        before.champion,
    )


def a_challenger_comes_with_a_deal_of_its_own(look: Look) -> bool:
    if not look.goes(Phase.LOADING) or look.arrow is None or look.arrow.route is None:
        return True
    return look.arrow.route.salt == ROLLOUT


def what_is_undone_gets_no_traffic(look: Look) -> bool:
    if not look.goes(Phase.ROLLBACK):
        return True
    assert look.arrow is not None
    after = look.arrow.route
    return after is not None and (after.weight_bp, after.mirror_bp) == (0, 0)


def an_end_leaves_no_challenger(look: Look) -> bool:
    if not look.goes(Phase.DONE, Phase.FAILED):
        return True
    assert look.arrow is not None
    after = look.arrow.route or look.row.route
    return (after.challenger, after.weight_bp, after.mirror_bp) == (None, 0, 0)


def an_undone_rollout_ends_when_all_have_followed(look: Look) -> bool:
    undone = look.row.phase in (Phase.ROLLBACK, Phase.REVERTED)
    if not undone or look.arrow is None:
        return True
    return look.followed or look.sight.clock in (Clock.LATE, Clock.RESTARTED)


def a_reversal_ends_once_all_hold_the_champion_again(look: Look) -> bool:
    if look.row.phase is not Phase.REVERTED or not look.live:
        return True
    restored = all(_holds(said, look.row.route.champion) for said in look.live.values())
    return look.goes(Phase.FAILED) or not (look.followed and restored)


def only_what_may_go_live_is_loaded(look: Look) -> bool:
    if look.row.phase is not Phase.PENDING:
        return True
    may_begin = [Status.CHALLENGER]
    if look.world.strategy is Strategy.SHADOW:
        may_begin.append(Status.REFUSED)
    allowed = look.sight.status in may_begin or look.sight.forced
    new = look.row.route.champion != CHALLENGER and not look.sight.aborted
    new = new and not look.is_asked
    return look.goes(Phase.LOADING) == (allowed and new and bool(look.live))


def a_rollout_begins_again_only_where_its_replicas_are_gone(look: Look) -> bool:
    if look.row.phase not in FORWARD or not look.goes(Phase.LOADING):
        return True
    return not look.parts


def what_becomes_of_versions_is_said(look: Look) -> bool:
    """The champion is deployed, the one before is not; what failed on evidence has failed."""
    if look.arrow is None:
        return True
    statuses, route = look.arrow.statuses, look.arrow.route or look.row.route
    if look.goes(Phase.ROLLBACK):
        failed = look.load_failed or look.sight.evidence == WORSE
        failed = failed or look.sight.test is Verdict.WORSE
        return (statuses.get(CHALLENGER) is Status.FAILED) == failed
    if route.champion == look.row.route.champion:
        return not statuses
    left = statuses.get(look.row.route.champion)
    expected = Status.FAILED if look.goes(Phase.REVERTED) else Status.RETIRED
    return statuses.get(route.champion) is Status.DEPLOYED and left is expected


def the_table_takes_the_route(look: Look) -> bool:
    return look.arrow is None or look.arrow.route is None or _taken(look.arrow.route)


ARROW_LAWS = (
    the_path_is_legal,
    every_wait_has_an_end,
    a_deadline_is_acted_on,
    a_promotion_is_judged_at_its_deadline,
    bad_news_is_acted_on_at_once,
    a_route_is_moved_only_to_what_a_live_replica_holds,
    a_load_failure_of_a_replica_moves_no_route_and_no_status,
    what_has_just_started_is_given_the_time_to_load,
    nothing_is_promoted_without_a_live_acknowledgement,
    nothing_is_promoted_that_is_not_held_by_all,
    traffic_grows_only_where_all_have_followed,
    no_step_is_taken_before_all_have_followed,
    no_share_is_given_before_the_gate,
    a_share_is_given_step_by_step,
    replicas_take_part_one_by_one_or_all_at_once,
    only_what_is_good_goes_on,
    only_a_full_share_is_promoted,
    each_step_lasts,
    steps_are_counted,
    a_shadow_gets_no_traffic,
    a_challenger_without_share_is_shown_requests,
    a_challenger_comes_with_a_deal_of_its_own,
    promotion_keeps_the_previous_champion,
    reverting_goes_back_to_what_is_held_and_keeps_both,
    what_is_undone_gets_no_traffic,
    an_end_leaves_no_challenger,
    an_undone_rollout_ends_when_all_have_followed,
    a_reversal_ends_once_all_hold_the_champion_again,
    only_what_may_go_live_is_loaded,
    a_rollout_begins_again_only_where_its_replicas_are_gone,
    what_becomes_of_versions_is_said,
    the_table_takes_the_route,
)


def broken_by(look: Look) -> Iterator[str]:
    """The laws an arrow breaks."""
    return (law.__name__ for law in ARROW_LAWS if not law(look))


@lru_cache(maxsize=1024)
def _taken(route: Route) -> bool:
    values = {column.name: getattr(route, column.name) for column in route_table.c}
    only = route.only_replicas
    values["only_replicas"] = None if only is None else list(only)
    try:
        with _rules().connect() as connection:
            connection.execute(route_table.insert().values(**values))
            connection.rollback()
    except (sa.exc.IntegrityError, StoreError):
        return False
    return True


@lru_cache(maxsize=1)
def _rules() -> sa.Engine:
    """The table with its rules, without the versions it refers to."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    metadata.create_all(engine, tables=[metadata.tables["version"], route_table])
    return engine


# Replicas -----------------------------------------------------------------------------------


def answers(name: str, process: Process) -> tuple[str | None, ...]:
    """Which version answers each key, None where nobody does."""
    if not process.alive or process.seen is None:
        return (None,) * len(KEYS)
    ready = process.ready
    return tuple(
        next((model for model in order if model in ready), None)
        for order in orders(name, process.seen, ready, valid=True)
    )


@lru_cache(maxsize=65_536)
def orders(
    name: str, route: Route, ready: frozenset[str], *, valid: bool
) -> tuple[tuple[str, ...], ...]:
    """Whom the product asks for each key, in turn."""
    found = []
    for drawn in dealt(route.salt):
        first = routing.goes_to_challenger(route, name, drawn, valid=valid)
        found.append(routing.ask_order(route, ready, challenger_first=first))
    return tuple(found)


@lru_cache(maxsize=1024)
def dealt(salt: str) -> tuple[int, ...]:
    """Where the keys fall."""
    return tuple(routing.deal(salt, key) for key in KEYS)


def forget() -> None:
    """Ask the product anew: a function of its may have been replaced."""
    orders.cache_clear()
    dealt.cache_clear()


def broken_in(name: str, process: Process) -> Iterator[str]:
    """The laws a replica breaks as it stands."""
    route = process.seen
    if not process.alive or route is None:
        return
    ready = process.ready
    shared, alone = (orders(name, route, ready, valid=valid) for valid in (True, False))
    if not ready.issuperset(model for order in {*shared, *alone} for model in order):
        yield "nobody_is_asked_who_is_not_ready_here"
    in_turn = (route.champion, route.previous_champion, route.baseline)
    first = next((model for model in in_turn if model in ready), None)
    if any(order[:1] != (() if first is None else (first,)) for order in alone):
        yield "without_a_valid_share_champion_previous_and_baseline_answer_in_turn"
    part = route.only_replicas is None or name in route.only_replicas
    weight = route.weight_bp if part and CHALLENGER in ready else 0
    if route.challenger is not None:
        share = sum(order[:1] == (CHALLENGER,) for order in shared) / len(KEYS)
        if not _close(share, weight / EVERYTHING_BP):
            yield "a_share_is_what_it_says"
        rest = {order[:1] for order in shared if order[:1] != (CHALLENGER,)}
        if rest - {() if first is None else (first,)}:
            yield "all_other_keys_are_the_champions"
    if any(a and not b for a, b in zip(shared, alone, strict=True)):
        yield "the_end_of_a_share_takes_no_answer_away"


def _close(share: float, wanted: float) -> bool:
    return share == wanted if wanted in (0.0, 1.0) else abs(share - wanted) < 0.25


def broken_by_move(name: str, before: Process, move: Move) -> Iterator[str]:
    """The laws a replica breaks by what it does next."""
    if move.kind in DEPLOYING:
        pairs = zip(answers(name, before), answers(name, move.after), strict=True)
        if any(was is not None and now is None for was, now in pairs):
            yield "deploying_takes_no_answer_away"
    route = before.seen
    if move.kind is Kind.LOAD and route is not None and move.what == route.challenger:
        if route.champion not in before.ready:
            yield "the_challenger_is_loaded_after_its_champion"
        if route.only_replicas is not None and name not in route.only_replicas:
            yield "only_who_takes_part_loads_the_challenger"


def broken_by_promotion(
    world: World, before: Row, after: Row, processes: tuple[Process, ...]
) -> Iterator[str]:
    """The laws a promotion breaks by what the processes really hold.

    With two faults the last process that holds it may die, and not be missed yet.
    """
    held = any(CHALLENGER in one.ready for one in processes if one.alive)
    if world.faults <= 1 and not held:
        yield "nothing_is_promoted_while_no_process_holds_it"
    if world.slow_controller:
        return  # who came back in the meantime is moved with the others
    for name, one in zip(IDS, processes, strict=True):
        followed = one.alive and one.seen == before.route and one.said is not None
        pairs = zip(answers(name, one), answers(name, one._replace(seen=after.route)), strict=True)
        if world.strategy is Strategy.AB_TEST:
            # It gives the challenger the keys that were the champion's.
            moved = any(now != CHALLENGER for was, now in pairs if was is not None)
        else:
            moved = any(was != now for was, now in pairs)
        if followed and not one.draining and moved:
            yield "promotion_changes_no_answer"


def broken_at_rest(process: Process) -> Iterator[str]:
    """The laws a replica breaks when nothing is left to do."""
    route = process.seen
    if not process.alive or process.draining or route is None:
        return
    wanted = {route.champion, route.previous_champion, route.baseline} - {None}
    if route.champion in process.ready and {model for model, _ in process.models} != wanted:
        yield "at_rest_a_replica_holds_what_its_route_names"


def broken_by_dealing() -> Iterator[str]:
    """The laws of dealing keys: the same everywhere and always, anew for each rollout."""
    if dealt("one") != tuple(routing.deal("one", key) for key in KEYS):
        yield "a_key_always_falls_on_the_same_place"
    if dealt("one") == dealt("another"):
        yield "each_rollout_deals_anew"
