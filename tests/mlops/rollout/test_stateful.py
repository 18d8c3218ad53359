"""Any sequence of requests, aborts, evidence, deaths and delays keeps the books and the promises.

Two controllers take turns on a real store; the replicas are rows that follow it by the product's
own rules. Time is virtual, so hours of waiting cost nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlops.errors import RolloutError, RolloutRefused
from mlops.rollout.controller import Controller
from mlops.rollout.decide import DEPLOYABLE, is_held
from mlops.rollout.fallback import return_to_baseline
from mlops.rollout.plan import Strategy, ab_test_plan, plan_for
from mlops.rollout.request import request_rollout, request_test, roll_back
from mlops.rollout.runner import list_unfinished
from mlops.rollout.wishes import insert_wish
from mlops.store import (
    Phase,
    Rollout,
    Status,
    Verdict,
    Why,
    get_rollout,
    get_version,
    list_events,
    list_replicas,
    list_rollouts,
    list_tests,
    open_store,
)
from mlops.store.rollouts import request_abort
from mlops.store.schema import lease
from mlops.store.schema import replica as replica_table
from mlops.store.sql import db_now
from mlops.store.triggers import Answer
from mlops.store.versions import insert_version
from tests.stores import _MIGRATED, DATABASES, new_database

from .books import check_books
from .laws import answers
from .rows import (
    ASKED,
    BASELINE,
    CHALLENGER,
    CHAMPION,
    SERVICE,
    Clock,
    RowReplica,
    add_version,
    begin_service,
    count,
    count_champion,
    count_short,
    find_verdict,
    make_test,
    make_version,
    route_of,
)
from .skill import lose_skill, retrain
from .world import Process

SECOND = "second-challenger"
WAITS = (1.0, 60.0, 130.0, 700.0, 4000.0, 90_000.0)
UNDOING = {Phase.ROLLBACK, Phase.REVERTED, Phase.FAILED}
COMPARING = (Strategy.SHADOW, Strategy.AB_TEST)
BEFORE_AN_END = {Phase.PENDING, Phase.LOADING, Phase.GATE, Phase.STEP}
ONWARD = {Phase.LOADING, Phase.GATE, Phase.STEP, Phase.PROMOTED}

replicas = st.sampled_from((0, 1))


class Rollouts(RuleBasedStateMachine):
    """Everything that may happen to one service."""

    def __init__(self, url: str, outcomes: Counter[str]) -> None:
        super().__init__()
        self.outcomes = outcomes
        self.store = open_store(url)
        begin_service(self.store)
        add_version(self.store, SECOND, 4, status=Status.CHALLENGER)
        self.clock = Clock()
        self.controllers = [Controller(self.store, name, now=self.clock) for name in ("a", "b")]
        self.replicas = [RowReplica(self.store, name) for name in ("r0", "r1")]
        for one in self.replicas:
            one.follow()
        self.aborted: dict[str, int] = {}
        self.worse: dict[str, int] = {}
        self.weeks = self.trained = 0
        self.failing: set[str] = set()

    # People ---------------------------------------------------------------------------------

    @rule(
        strategy=st.sampled_from([one for one in Strategy if one is not Strategy.AB_TEST]),
        model_id=st.sampled_from((CHALLENGER, SECOND, CHAMPION)),
        end_test=st.booleans(),
    )
    def ask(self, strategy: Strategy, model_id: str, *, end_test: bool) -> None:
        deployable = get_version(self.store, model_id).status in DEPLOYABLE
        allowed = deployable and route_of(self.store).champion != model_id
        allowed = allowed and self._makes_room(end_test=end_test)
        plan, now = plan_for(strategy), self.clock()
        try:
            request_rollout(self.store, model_id, plan, ASKED, end_test=end_test, now=now)
        except RolloutRefused:
            assert not allowed
        else:
            assert allowed

    @rule(model_id=st.sampled_from((CHALLENGER, SECOND)))
    def force(self, model_id: str) -> None:
        free = self._makes_room(end_test=False)
        try:
            plan = plan_for(Strategy.BLUE_GREEN)
            request_rollout(self.store, model_id, plan, ASKED, force=True, now=self.clock())
        except RolloutRefused:
            assert not free or route_of(self.store).champion == model_id

    @rule(
        model_id=st.sampled_from((CHALLENGER, SECOND)),
        champion_is=st.sampled_from(("a", "b")),
        promote=st.booleans(),
        end_test=st.booleans(),
    )
    def start_test(self, model_id: str, champion_is: str, *, promote: bool, end_test: bool) -> None:
        free, champion = self._makes_room(end_test=end_test), route_of(self.store).champion
        allowed = get_version(self.store, model_id).status in DEPLOYABLE and model_id != champion
        if champion == model_id:
            return
        test = make_test(
            champion_id=champion,
            challenger_id=model_id,
            champion_is=champion_is,
            promote=promote,
        )
        plan = ab_test_plan(test.split_bp, duration_s=60.0, hold_s=90_000.0)
        try:
            request_test(self.store, test, plan, ASKED, end_test=end_test, now=self.clock())
        except RolloutRefused:
            assert not (free and allowed)
        else:
            assert free
            assert allowed

    @rule(verdict=st.sampled_from((*Verdict, Verdict.BETTER)))
    def look(self, verdict: Verdict) -> None:
        """A look finds the verdict of the test that runs, and none of one that has ended."""
        for test in list_tests(self.store):
            runs = test.verdict is None
            assert find_verdict(self.store, test, verdict, self.clock()) is runs

    @precondition(lambda self: self.open is not None)
    @rule()
    def abort(self) -> None:
        assert self.open is not None
        request_abort(self.store, self.open.id, Why(self.clock(), actor="anna"))
        self.aborted.setdefault(self.open.id, self._length(self.open))

    @rule()
    def take_back(self) -> None:
        before = route_of(self.store)
        try:
            why = Why(self.clock(), actor="anna")
            after = roll_back(self.store, SERVICE, why, prove=lambda version: None)
        except RolloutError:
            assert route_of(self.store) == before
        else:
            assert after.champion in (before.previous_champion, before.baseline)

    @precondition(lambda self: self.weeks < 2)
    @rule()
    def lose_skill(self) -> None:
        """A training is refused, and the service goes back, if need be once a rollout has ended."""
        before, row = route_of(self.store), self.open
        self.weeks += 1
        lose_skill(self.store, before.champion, week=self.weeks)
        retrain(self.store, Answer.REFUSED)
        free = row is None or self._makes_room(end_test=True)
        live = list_replicas(self.store)
        held = not live or is_held(before.baseline, live)
        moved = return_to_baseline(self.store, now=self.clock())
        due = before.champion != before.baseline and held
        assert bool(moved) == (due and free)
        if row is not None and get_rollout(self.store, row.id).abort_requested is not None:
            self.aborted.setdefault(row.id, self._length(row))
        elif due and row is not None and row.strategy in COMPARING:
            assert row.phase in (Phase.ROLLBACK, Phase.REVERTED)

    @precondition(lambda self: self.trained < 3)
    @rule()
    def train(self) -> None:
        """A new version passes, and is registered with the wish to go live."""
        self.trained += 1
        row = make_version(f"trained-{self.trained}", 10 + self.trained, status=Status.CHALLENGER)
        with self.store.write() as connection:
            insert_version(connection, row, Why(self.clock()))
            plan = plan_for(Strategy.BLUE_GREEN)
            insert_wish(connection, row, plan=plan, why=Why(self.clock(), actor="train"))
        [waiting] = [row for row in list_rollouts(self.store) if row.phase is Phase.WAITING]
        assert waiting.to_version == row.model_id

    # Time and evidence ----------------------------------------------------------------------

    @rule(seconds=st.sampled_from(WAITS))
    def wait(self, seconds: float) -> None:
        self.clock.at += timedelta(seconds=seconds)

    @precondition(lambda self: self.open is not None and self.open.id not in self.worse)
    @rule(word=st.sampled_from(("few", "good", "good", "good", "worse")))
    def gather(self, word: str) -> None:
        assert self.open is not None
        trials = 30 if word == "few" else 1000
        faults = 100 if word == "worse" else 0
        count(self.store, self.open, challenger_trials=trials, challenger_faults=faults)
        if word == "worse":
            self.worse[self.open.id] = self._length(self.open)

    @rule(rounds=st.integers(1, 6))
    def go_well(self, rounds: int) -> None:
        """A while in which the evidence is good, if anything is under way."""
        for _ in range(rounds):
            if self.open is not None and self.open.id not in self.worse:
                count(self.store, self.open)
            self.carry_on(0)
            self.carry_on(1)
            self.wait(130.0)

    @rule(faults=st.sampled_from((0, 0, 200)), own_faults=st.sampled_from((0, 1)))
    def count_the_champion(self, faults: int, own_faults: int) -> None:
        """By requests, and by the newest check on inputs of our own."""
        count_champion(self.store, trials=1000, faults=faults, own_faults=own_faults)
        champion = route_of(self.store).champion
        (self.failing.add if own_faults else self.failing.discard)(champion)

    @precondition(lambda self: self.open is not None)
    @rule(short=st.sampled_from((0, 1, 2)))
    def send_too_few_bars(self, short: int) -> None:
        assert self.open is not None
        count_short(self.store, self.open, dealt=100, short=short)

    # Processes ------------------------------------------------------------------------------

    @rule(which=st.sampled_from((0, 1)))
    def tick(self, which: int) -> None:
        """Client input alone never moves a route off its champion."""
        for moved in self.controllers[which].tick():
            if moved.what == "fall_back":
                assert moved.model_id in self.failing or "does not load in any" in moved.reason

    @rule(which=st.sampled_from((0, 1)))
    def carry_on(self, which: int) -> None:
        for one in self.replicas:
            self._deploying(one, one.follow)
        self.tick(which)

    @rule()
    def the_controller_is_paused(self) -> None:
        with self.store.write() as connection:
            connection.execute(lease.update().values(until=db_now() - 1))

    @rule(which=replicas, what=st.sampled_from(("follow", "look", "load", "drop", "acknowledge")))
    def work(self, which: int, what: str) -> None:
        one = self.replicas[which]
        self._deploying(one, getattr(one, what))

    @rule(which=replicas)
    def crash(self, which: int) -> None:
        self.replicas[which].crash()

    @rule(which=replicas)
    def leave(self, which: int) -> None:
        self.replicas[which].leave()

    @rule(which=replicas)
    def be_cut_off(self, which: int) -> None:
        name = self.replicas[which].name
        with self.store.write() as connection:
            connection.execute(
                replica_table.update()
                .where(replica_table.c.id == name)
                .values(lease_until=db_now() - 1)
            )

    @rule(
        which=replicas,
        broken=st.sampled_from((None, None, None, None, CHALLENGER, SECOND, CHAMPION)),
    )
    def break_a_file(self, which: int, broken: str | None) -> None:
        self.replicas[which].unloadable = frozenset({broken} if broken else ())

    @rule(which=replicas, lacking=st.sampled_from((None, CHALLENGER, SECOND, CHAMPION, BASELINE)))
    def run_short_of_memory(self, which: int, lacking: str | None) -> None:
        self.replicas[which].lacks = frozenset({lacking} if lacking else ())

    # What always holds ----------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        check_books(self.store)

    @invariant()
    def no_promise_is_broken(self) -> None:
        for row in list_rollouts(self.store):
            events = list_events(self.store, row.id)
            for event in events:
                if event.to_phase is Phase.PROMOTED and row.strategy != Strategy.AB_TEST:
                    assert event.detail["verdict"] == "good"
                    assert row.strategy != Strategy.SHADOW
            after_abort = events[self.aborted.get(row.id, len(events)) :]
            kept = {Phase.DONE} if row.strategy in COMPARING else set[Phase]()
            assert all(event.to_phase in UNDOING | kept for event in after_abort)
            after_worse = events[self.worse.get(row.id, len(events)) :]
            assert not any(event.to_phase in ONWARD - {Phase.LOADING} for event in after_worse)

    @invariant()
    def a_test_ends_with_its_rollout_and_promotes_only_what_is_better(self) -> None:
        for test in list_tests(self.store):
            row = get_rollout(self.store, test.rollout_id)
            phases = [event.to_phase for event in list_events(self.store, row.id)]
            ended = row.phase.final or row.phase in UNDOING or row.phase is Phase.PROMOTED
            assert not ended or test.verdict is not None
            if Phase.PROMOTED in phases:
                assert (test.verdict, test.promote) == (Verdict.BETTER, True)
            if test.verdict is None:
                assert route_of(self.store).champion == test.champion_id

    def teardown(self) -> None:
        """When the trouble is over, whatever was begun ends."""
        for one in self.replicas:
            one.unloadable = one.lacks = frozenset()
        for round_ in range(40):
            if not list_unfinished(self.store):
                break
            for one in self.replicas:
                one.follow()
            for controller in self.controllers:
                controller.tick()
            self.clock.at += timedelta(seconds=WAITS[round_ % len(WAITS)])
        assert list_unfinished(self.store) == ()
        rows = list_rollouts(self.store)
        self.outcomes.update(f"{row.strategy} {row.phase}" for row in rows)
        self.store.close()

    @property
    def open(self) -> Rollout | None:
        unfinished = list_unfinished(self.store)
        return next((row for row in unfinished if row.phase is not Phase.WAITING), None)

    def _makes_room(self, *, end_test: bool) -> bool:
        """Whether the service has no open rollout, or one that may be ended now."""
        row = self.open
        if row is None:
            return True
        running = any(
            test.rollout_id == row.id for test in list_tests(self.store, running_only=True)
        )
        ends = running and end_test if row.strategy == Strategy.AB_TEST else True
        return row.strategy in COMPARING and row.phase in BEFORE_AN_END and ends

    def _length(self, row: Rollout) -> int:
        return len(list_events(self.store, row.id))

    def _deploying(self, one: RowReplica, act: Callable[[], object]) -> None:
        """What a replica does takes no answer away."""
        before = self._answers(one)
        act()
        lost = [a for a, b in zip(before, self._answers(one), strict=True) if a and not b]
        assert not lost

    def _answers(self, one: RowReplica) -> tuple[str | None, ...]:
        models = tuple(sorted(one.states.items()))
        return answers(one.name, Process(True, one.seen, models, None))


@pytest.fixture(params=DATABASES)
def databases(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], AbstractContextManager[str]]:
    """Makes migrated, empty databases, one for each example."""
    numbers = iter(range(1_000_000))

    @contextmanager
    def sqlite() -> Iterator[str]:
        copy = tmp_path / f"{next(numbers)}.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), copy)
        yield f"sqlite:///{copy}"
        for file in tmp_path.glob(f"{copy.name}*"):
            file.unlink()

    @contextmanager
    def postgres() -> Iterator[str]:
        with new_database(request.getfixturevalue("postgres"), _MIGRATED) as url:
            yield url

    return sqlite if request.param == "sqlite" else postgres


def test_any_sequence_keeps_the_books_and_the_promises(
    databases: Callable[[], AbstractContextManager[str]], request: pytest.FixtureRequest
) -> None:
    few = "postgres" in request.node.name
    outcomes: Counter[str] = Counter()

    class Fresh(Rollouts):
        def __init__(self) -> None:
            self.database = databases()
            super().__init__(self.database.__enter__(), outcomes)

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                self.store.close()
                self.database.__exit__(None, None, None)

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            max_examples=5 if few else 8,
            stateful_step_count=30 if few else 40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"\n{dict(outcomes)}", end="")
    assert few or {key.split()[1] for key in outcomes} == {"done", "failed"}
