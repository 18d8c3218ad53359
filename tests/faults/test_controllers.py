"""No controller, a late one, two of them: exposure ends by itself, and only one acts."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime

import pytest

from mlops.store import Phase
from mlops.store.rollouts import list_rollouts
from tests.faults import cast
from tests.faults.armed import BEFORE, BEGIN, Fault
from tests.faults.outages import EXPIRY_S, LONG, exposed
from tests.faults.scenes import begin
from tests.faults.stage import Stage
from tests.faults.template import CHAMPION, GOOD
from tests.faults.world import World

pytestmark = pytest.mark.faults

both = pytest.mark.parametrize("database", ["sqlite", "postgres"])
LOST = "is no longer held here"


@pytest.mark.beside
@both
def test_where_no_controller_is_left_all_traffic_is_the_champions_within_the_dead_mans_time(
    stage: Stage, database: str
) -> None:
    with stage.world("abandoned", database) as world:
        begin(world)
        controller = world.controller()
        row = world.ask(GOOD, **LONG)
        world.until(lambda: exposed(world.results()) > 0, "the challenger answers somebody")
        controller.kill()
        died = time.monotonic()
        alone_until = died + EXPIRY_S + 3.0
        world.until(lambda: time.monotonic() > alone_until, "nobody has acted for a while")
        results = world.results()
        assert exposed(results, died + EXPIRY_S, alone_until) == 0
        assert len(results.between(died + EXPIRY_S, alone_until)) > 0
        world.controller()
        again = time.monotonic()
        world.until(lambda: exposed(world.results(), again) > 0, "the rollout is resumed")
        [known] = list_rollouts(world.store)
        assert (known.id, known.phase) == (row.id, Phase.STEP)
        world.abort(row)
        assert world.ends(row).phase is Phase.FAILED
        assert world.route().champion == CHAMPION
        world.check()


@pytest.mark.beside
def test_a_rollout_whose_deadline_passed_while_nobody_was_there_is_rolled_back(
    stage: Stage,
) -> None:
    with stage.world("overdue") as world:
        begin(world)
        controller = world.controller()
        row = world.ask(GOOD, dwell_s=6.0, load_s=8.0, hold_s=6.5)
        world.reaches(row, Phase.STEP)
        controller.kill()
        world.until(lambda: _overdue(world), "the deadline passes")
        world.controller()
        ended = world.ends(row)
        assert ended.phase is Phase.FAILED
        assert "not enough evidence by the deadline" in ended.reason
        world.check()


@pytest.mark.beside
@both
@pytest.mark.parametrize(
    "point", ["controller._renew_and_prune", "controller._take_arrow[promoted]"]
)
def test_a_controller_that_wakes_up_after_its_lease_changes_nothing(
    stage: Stage, database: str, point: str
) -> None:
    with stage.world("asleep", database) as world:
        begin(world)
        row = world.ask(GOOD)
        sleeper = world.controller(Fault(point, BEGIN, "stop", nth=3 if "house" in point else 1))
        _until_asleep(world)
        other = world.controller()
        world.until(lambda: world.holds_role(other.who), "another takes the role")
        assert world.ends(row).phase is Phase.DONE
        sleeper.signal(signal.SIGCONT)
        world.until(lambda: LOST in sleeper.tail(), "it notices")
        assert sleeper.alive
        assert world.holds_role(other.who)
        world.check()


@pytest.mark.beside
@both
def test_a_controller_that_sleeps_in_the_middle_of_a_change_makes_it_once(
    stage: Stage, database: str
) -> None:
    with stage.world("asleep-inside", database) as world:
        begin(world)
        row = world.ask(GOOD)
        sleeper = world.controller(Fault("controller._take_arrow[gate]", BEFORE, "stop"))
        _until_asleep(world)
        world.controller()
        woken_at = time.monotonic() + 2 * cast.LEASE_S
        world.until(lambda: time.monotonic() > woken_at, "its lease has run out")
        sleeper.signal(signal.SIGCONT)
        assert world.ends(row).phase is Phase.DONE
        world.check()


def _until_asleep(world: World) -> None:
    world.until(lambda: bool(world.struck()), "the controller stops in mid-air")


def _overdue(world: World) -> bool:
    [row] = list_rollouts(world.store)
    return row.deadline < datetime.now(UTC)
