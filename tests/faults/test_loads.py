"""A version that is not sound is never asked, and costs nobody an answer while it is tried."""

from __future__ import annotations

import re

import pytest

from mlops.store import Phase, Status, get_version
from tests.faults.scenes import begin
from tests.faults.stage import Stage
from tests.faults.template import CHAMPION, GOOD, UNLOADABLE
from tests.faults.world import World

pytestmark = pytest.mark.faults

WORDS = {
    "golden": "golden example",
    "corrupt": "sha256|digest|altered|changed",
    "digest": "digest",
    "load_raises": "cannot be loaded",
}
NO_MEMORY = "load_memory"


@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_version_that_does_not_load_whole_is_never_asked(stage: Stage, database: str) -> None:
    assert {*WORDS, NO_MEMORY} == set(UNLOADABLE)
    with stage.world("unloadable", database) as world:
        begin(world)
        world.controller()
        for name, words in WORDS.items():
            row = world.rollout(name, "blue_green")
            assert row.phase is Phase.FAILED
            assert re.search(f"replica-. cannot load it: .*({words})", row.reason), row.reason
            assert get_version(world.store, name).status is Status.FAILED
        _is_untouched(world)
        assert world.rollout(GOOD, "blue_green").phase is Phase.DONE, "the loader is dead"
        world.check()


@pytest.mark.beside
def test_a_version_that_fails_on_every_input_is_found_out_before_anybody_sees_it(
    stage: Stage,
) -> None:
    with stage.world("failing") as world:
        begin(world)
        world.controller()
        for name in ("raises", "nan"):
            row = world.rollout(name)
            assert row.phase is Phase.FAILED
            assert "worse than the champion" in row.reason, row.reason
        _is_untouched(world)
        world.check()


@pytest.mark.beside
def test_a_version_that_takes_a_minute_to_load_is_given_up_and_nobody_waits_for_it(
    stage: Stage,
) -> None:
    with stage.world("slow-load") as world:
        begin(world)
        world.controller()
        row = world.rollout("load_slow", "blue_green", load_s=3.0)
        assert row.phase is Phase.FAILED
        assert "not loaded within 3 s" in row.reason, row.reason
        _is_untouched(world)
        world.check()


@pytest.mark.beside
def test_a_version_for_which_there_is_no_memory_is_waited_for_and_has_not_failed(
    stage: Stage,
) -> None:
    with stage.world("no-memory") as world:
        world.replicas(stands_by=False, no_memory_for=[GOOD])
        world.prober()
        world.controller()
        for name, words in ((NO_MEMORY, "no memory for this"), (GOOD, "bytes of free memory")):
            row = world.rollout(name, "blue_green", load_s=3.0)
            assert row.phase is Phase.FAILED
            assert "not loaded by the deadline" in row.reason, row.reason
            assert words in row.reason, row.reason
            assert get_version(world.store, name).status is Status.CHALLENGER
        _is_untouched(world)
        world.check()


def _is_untouched(world: World) -> None:
    route = world.route()
    assert (route.champion, route.challenger, route.weight_bp) == (CHAMPION, None, 0)
    served = {request.answer.version for request in world.results().requests}
    assert served <= {CHAMPION, "baseline"}
