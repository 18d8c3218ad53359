"""Whatever process dies at whatever moment: traffic stays on a healthy version, rollouts end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pytest

from mlops.store import Phase, Verdict, Why, get_rollout, list_events, list_rollouts, list_tests
from tests.faults.ab_test_rows import find_better, request_test_of
from tests.faults.armed import AFTER, Fault
from tests.faults.outages import settle
from tests.faults.plans import (
    asker_faults,
    carrying_faults,
    controller_faults,
    ending_faults,
    gap_faults,
    load_faults,
    serving_faults,
)
from tests.faults.scenes import STRATEGIES, another, ask_test, begin, enthrone, idle_connection
from tests.faults.stage import Stage
from tests.faults.template import CHAMPION, GOOD
from tests.faults.world import LOOK_S, QUICK, REPLICAS, World
from tests.zygote import Process

on_both = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.faults)]
)
VICTIM, SURVIVOR = REPLICAS
WHY = Why(datetime.now(UTC), actor="ann", reason="because")


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_controller_that_dies_at_any_commit_of_a_rollout_costs_no_request_and_no_rollout(
    stage: Stage, strategy: str, database: str
) -> None:
    with stage.world(f"controller-{strategy}", database) as world:
        begin(world)
        faults = controller_faults(stage, strategy)
        kill_controllers(world, faults, lambda: keep_rolling(world, strategy))
        world.controller()
        world.until(world.idle, "every rollout has ended")
        assert all(row.phase is Phase.DONE for row in list_rollouts(world.store)), world.told()
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@on_both
def test_a_controller_that_dies_at_any_commit_of_an_ab_test_promotes_its_winner_once(
    stage: Stage, database: str
) -> None:
    with stage.world("controller-ab-test", database) as world:
        begin(world)
        faults = controller_faults(stage, "blue_green")
        kill_controllers(world, faults, lambda: keep_testing(world))
        world.controller()
        world.until(lambda: keep_ending(world), "every test has ended")
        finish(world, faults)
        for test in list_tests(world.store):
            row = get_rollout(world.store, test.rollout_id)
            phases = [event.to_phase for event in list_events(world.store, row.id)]
            assert (row.phase, test.verdict) == (Phase.DONE, Verdict.BETTER), world.told()
            assert phases.count(Phase.PROMOTED) == 1


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_controller_that_dies_while_it_undoes_a_rollout_leaves_it_to_the_next(
    stage: Stage, database: str
) -> None:
    with stage.world("controller-roll-back", database) as world:
        begin(world)
        row = world.ask("raises_5_percent")
        faults = controller_faults(stage, "roll_back")
        kill_controllers(world, faults)
        world.controller()
        assert world.ends(row).phase is Phase.FAILED
        assert world.route().champion == CHAMPION
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_controller_that_dies_while_it_takes_a_promotion_back_leaves_it_to_the_next(
    stage: Stage, database: str
) -> None:
    with stage.world("controller-revert", database) as world:
        begin(world)
        row = world.ask(GOOD, "blue_green", bake_s=60.0)

        def abort() -> None:
            [now] = list_rollouts(world.store)
            if now.phase is Phase.PROMOTED and now.abort_requested is None:
                world.abort(now)

        faults = controller_faults(stage, "revert")
        kill_controllers(world, faults, abort)
        world.controller()
        assert world.ends(row).phase is Phase.FAILED
        assert world.route().champion == CHAMPION
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_controller_that_dies_while_it_replaces_a_failing_champion_leaves_it_to_the_next(
    stage: Stage, database: str
) -> None:
    with stage.world("controller-fall-back", database) as world:
        begin(world)
        enthrone(world, "raises")
        faults = controller_faults(stage, "fall_back")
        kill_controllers(world, faults)
        world.controller()
        world.until(lambda: world.route().champion == CHAMPION, "the champion of before is back")
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_controller_that_dies_while_it_steps_down_leaves_the_role_to_the_next(
    stage: Stage, database: str
) -> None:
    with stage.world("controller-stop", database) as world:
        begin(world)
        row = world.ask(GOOD, dwell_s=1.0)
        faults = controller_faults(stage, "stop")
        for fault in faults:
            process = world.controller(fault)
            world.until(lambda who=process.who: world.holds_role(who), "it carries the role")
            process.signal(signal.SIGTERM)
            assert process.wait() == -signal.SIGKILL, process.tail()
        world.controller()
        assert world.ends(row).phase is Phase.DONE
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@on_both
def test_who_asks_and_dies_has_asked_once_or_not_at_all(stage: Stage, database: str) -> None:
    with stage.world("asker", database) as world:
        begin(world)
        world.controller()
        faults = asker_faults(stage)
        for fault in faults:
            ask_and_die(world, fault)
        # The books are read row by row, so nothing may be under way.
        world.until(world.idle, "the last rollout has ended")
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_replica_that_dies_in_any_stage_of_loading_a_challenger_does_not_stop_the_rollout(
    stage: Stage, database: str
) -> None:
    with stage.world("replica-load", database) as world:
        begin_with_survivor(world)
        faults = load_faults(stage)
        for fault in faults:
            victim = world.replica(VICTIM, fault, gated=True, stands_by=False)
            world.until(world.idle, "the rollout before has ended")
            world.let(victim)
            keep_rolling(world, "blue_green", dwell_s=0.0, bake_s=0.0)
            assert victim.wait() == -signal.SIGKILL, victim.tail()
        world.replica(VICTIM, stands_by=False)
        world.until(world.idle, "every rollout has ended")
        assert all(row.phase is Phase.DONE for row in list_rollouts(world.store)), world.told()
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@on_both
def test_a_replica_that_dies_at_any_of_its_commits_costs_only_what_was_in_flight_in_it(
    stage: Stage, database: str
) -> None:
    with stage.world("replica-serving", database) as world:
        begin_with_survivor(world)
        faults = serving_faults(stage)
        for fault in faults:
            victim = world.replica(VICTIM, fault, gated=True, stands_by=False)
            world.until(world.in_rotation, "both replicas answer")
            world.let(victim)
            until_dead(world, victim, lambda: keep_rolling(world, "canary"))
        world.replica(VICTIM, stands_by=False)
        world.until(world.idle, "every rollout has ended")
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_replica_that_dies_at_the_gap_of_a_failing_version_costs_only_what_was_in_flight_in_it(
    stage: Stage, database: str
) -> None:
    with stage.world("replica-gaps", database) as world:
        world.replica(SURVIVOR, stands_by=False)
        world.prober()
        enthrone(world, "raises")
        faults = gap_faults(stage)
        for fault in faults:
            victim = world.replica(VICTIM, fault, gated=True, stands_by=False)
            world.until(world.in_rotation, "both replicas answer")
            world.let(victim)
            assert victim.wait() == -signal.SIGKILL, victim.tail()
        world.replica(VICTIM, stands_by=False)
        world.controller()
        world.until(lambda: world.route().champion == CHAMPION, "the champion of before is back")
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@on_both
def test_a_replica_that_is_killed_while_it_ends_costs_nothing(stage: Stage, database: str) -> None:
    with stage.world("replica-ending", database) as world:
        begin_with_survivor(world)
        faults = ending_faults(stage)
        for fault in faults:
            victim = world.replica(VICTIM, fault, stands_by=False)
            world.until(world.in_rotation, "both replicas answer")
            with idle_connection(world, VICTIM):
                assert world.terminate(victim) == -signal.SIGKILL, victim.tail()
        world.replica(VICTIM, stands_by=False)
        assert world.rollout(GOOD).phase is Phase.DONE
        finish(world, faults)


@pytest.mark.faults
@pytest.mark.beside
@on_both
def test_a_replica_that_dies_as_controller_at_any_commit_is_replaced(
    stage: Stage, database: str
) -> None:
    with stage.world("replica-carrying", database) as world:
        world.replica(SURVIVOR, stands_by=False)
        world.prober()
        faults = carrying_faults(stage)
        for fault in faults:
            victim = world.replica(VICTIM, fault, gated=True, stands_by=True)
            world.until(world.in_rotation, "both replicas answer")
            world.let(victim)
            until_dead(world, victim, lambda: keep_rolling(world, "canary"))
        world.replica(VICTIM, stands_by=True)
        world.until(world.idle, "every rollout has ended")
        finish(world, faults)


# How ----------------------------------------------------------------------------------------


def kill_controllers(
    world: World, faults: Iterable[Fault], meanwhile: Callable[[], None] = lambda: None
) -> None:
    """One controller after the other, each of which dies at its fault."""
    for fault in faults:
        until_dead(world, world.controller(fault), meanwhile)


def until_dead(world: World, process: Process, meanwhile: Callable[[], None]) -> None:
    """Wait for a process to die of its fault."""
    end = time.monotonic() + 90.0
    while process.alive:
        meanwhile()
        assert time.monotonic() < end, f"{process.who} does not die\n{world.told()}"
        time.sleep(LOOK_S)
    assert process.wait() == -signal.SIGKILL, process.tail()


def keep_testing(world: World) -> None:
    """Ask for another test where none is open, and find its challenger better once it can be."""
    rows = [row for row in list_rollouts(world.store) if not row.phase.final]
    if not rows:
        request_test_of(world.store, world.route().service, another(world), QUICK, WHY)
    elif rows[0].phase is Phase.STEP:
        find_better(world.store, rows[0].id, WHY)


def keep_ending(world: World) -> bool:
    """Whether every test has ended; the open one is found better."""
    if not world.idle():
        keep_testing(world)
    return world.idle()


def keep_rolling(world: World, strategy: str, **changes: float) -> None:
    """Ask for another rollout where none is open: of a version that no replica holds."""
    if world.idle():
        world.ask(another(world), strategy, **changes)


def begin_with_survivor(world: World) -> None:
    """One replica, a controller and a client; the other replica is about to live and die."""
    world.replica(SURVIVOR, stands_by=False)
    world.controller()
    world.prober()


def ask_and_die(world: World, fault: Fault) -> None:
    """Before its commit nothing was asked; after it, exactly once."""
    world.until(world.idle, "the rollout before has ended")
    route, rows = world.route(), list_rollouts(world.store)
    other = another(world)
    asked = fault.when == AFTER
    if fault.point == "rollouts.request_abort":
        row = world.ask(other, "shadow", dwell_s=60.0)
        process = world.asker("abort", fault, rollout=row.id)
        assert process.wait() == -signal.SIGKILL, process.tail()
        [now] = [one for one in list_rollouts(world.store) if one.id == row.id]
        assert (now.abort_requested is not None) == asked
        if not asked:
            world.abort(row)
    elif fault.point == "request.request_test":
        process = world.asker("test", fault, service=route.service, model=other, plan=dict(QUICK))
        assert process.wait() == -signal.SIGKILL, process.tail()
        assert len(list_rollouts(world.store)) == len(rows) + asked
        assert len(list_tests(world.store, running_only=True)) == asked
        for row in list_rollouts(world.store)[:asked]:
            world.abort(row)
    elif fault.point == "ab_test_rows.find_better":
        row = ask_test(world, other)
        world.reaches(row, Phase.STEP)
        process = world.asker("look", fault, rollout=row.id)
        assert process.wait() == -signal.SIGKILL, process.tail()
        [test] = [one for one in list_tests(world.store) if one.rollout_id == row.id]
        assert (test.verdict is Verdict.BETTER) == asked
        if not asked:
            world.abort(row)
    elif fault.point == "request.roll_back":
        if route.previous_champion is None:
            world.rollout(other, "blue_green")
            route = world.route()
        process = world.asker("roll_back", fault, service=route.service)
        assert process.wait() == -signal.SIGKILL, process.tail()
        assert (world.route().champion == route.previous_champion) == asked
    else:
        plan = dict(QUICK)
        process = world.asker("rollout", fault, model=other, strategy="blue_green", plan=plan)
        assert process.wait() == -signal.SIGKILL, process.tail()
        assert len(list_rollouts(world.store)) == len(rows) + asked


def finish(world: World, faults: list[Fault]) -> None:
    """Every fault has struck once, every law holds, and what was handed out is on record."""
    assert faults, "no point was found"
    assert world.struck() == [str(fault) for fault in faults]
    settle(world)
    world.check()
