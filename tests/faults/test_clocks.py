"""A clock that was wrong, or is set in the middle of the work, freezes no role and no rollout."""

from __future__ import annotations

import pytest

from mlops.store import Phase, Rollout
from mlops.store.rollouts import list_rollouts
from tests.clocks import each_jump
from tests.faults.armed import AFTER, BEFORE, BEGIN, Fault
from tests.faults.clock import set_clock
from tests.faults.scenes import another
from tests.faults.stage import Stage
from tests.faults.world import QUICK, World

pytestmark = pytest.mark.faults

SOON_S = 40.0
"""A lease or a phase that waited for the clock would take minutes or an hour."""


@pytest.mark.beside
@each_jump
def test_what_died_while_the_clock_was_wrong_holds_up_nothing_once_it_is_right(
    stage: Stage, jump_s: float
) -> None:
    with stage.world("wrong-clock") as world:
        set_clock(world.clock, jump_s)
        wrong = world.replicas()
        row = _ask(world, dwell_s=5.0)
        world.reaches(row, Phase.STEP)
        for process in wrong:
            world.kill(process)
        set_clock(world.clock, 0.0)
        world.replicas()
        world.prober()
        # Where the clock was behind, the deadline has passed now.
        assert world.ends(row, SOON_S).phase is Phase.DONE or jump_s < 0
        assert world.ends(_ask(world), SOON_S).phase is Phase.DONE
        world.check()


@pytest.mark.beside
@each_jump
@pytest.mark.parametrize(
    ("point", "when"),
    [
        ("leases.acquire_lease[controller]", BEFORE),
        ("controller._renew_and_prune", BEGIN),
        ("controller._take_arrow[step0]", AFTER),
    ],
)
def test_a_clock_that_jumps_under_a_controller_at_work_stops_no_rollout(
    stage: Stage, jump_s: float, point: str, when: str
) -> None:
    with stage.world("jumping-clock") as world:
        set_clock(world.clock, 0.0)
        world.replicas(stands_by=False)
        world.prober()
        world.until(world.in_rotation, "both replicas answer")
        world.controller(Fault(point, when, f"jump:{jump_s:g}", nth=1 if "step" in point else 3))
        world.ends(_ask(world), SOON_S)
        assert world.struck()
        assert world.ends(_ask(world), SOON_S).phase is Phase.DONE
        world.check()


def _ask(world: World, **changes: float) -> Rollout:
    """Ask for a rollout by the machine's clock."""
    before = {row.id for row in list_rollouts(world.store)}
    plan, model = {**QUICK, **changes}, another(world)
    world.asker("rollout", model=model, strategy="blue_green", plan=plan).wait()
    [asked] = [row for row in list_rollouts(world.store) if row.id not in before]
    return asked
