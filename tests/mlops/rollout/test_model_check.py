"""Whatever is interleaved with whatever, the production rules keep every law and get nowhere stuck.

All states of a small world are visited: the arrows are those of `mlops.rollout.decide`, the moves
of both replicas those that `mlops.rollout.routing` allows. Then each rule is replaced by wrong
versions of itself, and each of those must be found out.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest

from mlops.rollout import comparing, routing
from mlops.rollout import decide as deciding
from mlops.rollout.plan import Strategy
from mlops.rollout.snapshot import Snapshot
from mlops.store.schema import Phase

from . import laws
from .model_check import Found, explore
from .mutants import Mutant, all_mutants, first_of_each_rule, rules_of, written_for
from .world import Kind, World

WORLDS = [
    # The baseline is dead in these, which is one fault more than they count.
    World(Strategy.CANARY),
    World(Strategy.BLUE_GREEN),
    World(Strategy.ROLLING),
    World(Strategy.SHADOW),
    World(Strategy.ROLLING, champion_may_not_load=True),
    World(Strategy.BLUE_GREEN, has_previous=True),
    World(Strategy.BLUE_GREEN, slow_controller=True),
    World(Strategy.BLUE_GREEN, baseline_loads=True, begins_on_baseline=True),
    World(Strategy.AB_TEST, has_previous=True),
    pytest.param(World(Strategy.AB_TEST, unsplit=True), marks=pytest.mark.slow),
    pytest.param(World(Strategy.AB_TEST, slow_controller=True), marks=pytest.mark.slow),
    World(Strategy.AB_TEST, baseline_loads=True, begins_on_baseline=True),
    # Two faults of any kind.
    *(
        pytest.param(World(strategy, faults=2, baseline_loads=True), marks=pytest.mark.slow)
        for strategy in (Strategy.CANARY, Strategy.AB_TEST)
    ),
]
"""Which arm of an A/B test a person called model B is no input of the rules: a test whose model B
is the champion is explored with the others."""


def named(world: World) -> str:
    flags = [name for name in World.__slots__ if getattr(world, name) is True]
    return "-".join([world.strategy, f"{world.faults}_faults", *flags])


@cache
def explored(world: World) -> Found:
    return explore(world)


@pytest.mark.parametrize("world", WORLDS, ids=named)
def test_no_law_is_broken_and_no_state_is_stuck(world: World) -> None:
    found = explored(world)
    print(f"\n{named(world)}: {found}", end="")
    assert found.sound, f"{found}"


def test_every_arrow_and_every_move_is_visited() -> None:
    """A law that is never tried is no law; `wish_check` tries those of a waiting rollout."""
    strategies = (Strategy.ROLLING, Strategy.SHADOW, Strategy.AB_TEST)
    found = [explored(World(strategy)) for strategy in strategies]
    begun = {a: to for a, to in laws.LEGAL.items() if a not in (None, Phase.WAITING)}
    arrows = {f"{a} -> {b}" for a, to in begun.items() for b in to}
    kinds = found[0].kinds | found[1].kinds | found[2].kinds
    assert set(kinds) == arrows | set(Kind) | {"fall back"}
    assert set(found[0].phases) == set(Phase) - {Phase.WAITING}


@pytest.mark.parametrize(
    "owner", [deciding, comparing, Snapshot, routing], ids=lambda owner: owner.__name__
)
def test_every_rule_has_wrong_versions_to_be_told_from(owner: ModuleType | type) -> None:
    assert rules_of(owner) == written_for(owner)


SMALL_WORLDS = [
    World(Strategy.CANARY, faults=0),
    World(Strategy.ROLLING, faults=0, baseline_loads=True),
    World(Strategy.SHADOW, faults=0, champion_may_not_load=True),
    World(Strategy.AB_TEST, faults=0),
    World(Strategy.ROLLING),
    World(Strategy.BLUE_GREEN, faults=2),
]
"""In this order a wrong rule shows soonest."""


@pytest.mark.parametrize("mutant", list(first_of_each_rule(all_mutants())))
def test_a_wrong_rule_is_found_out(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.install(monkeypatch)
    # Rules of rollouts that compare show in the worlds of those.
    compared = {Strategy.AB_TEST, Strategy.SHADOW} if mutant.owner is comparing else set()
    worlds = sorted(SMALL_WORLDS, key=lambda world: world.strategy not in compared)
    assert any(not explore(world, stop_at_first=True).sound for world in worlds)
