"""A newer release migrates the store while replicas of this one run, and they may be restarted."""

from __future__ import annotations

import pytest

from mlops.store import Phase
from mlops.store.migrations import HEAD, MIN_READER, current_revision
from tests.faults.stage import Stage
from tests.faults.template import BETTER, GOOD
from tests.faults.world import REPLICAS, World
from tests.further_release import FURTHER

pytestmark = pytest.mark.faults
databases = pytest.mark.parametrize("database", ["sqlite", "postgres"])
KILLED, OTHER = REPLICAS


def is_migrated(world: World) -> bool:
    with world.store.read() as connection:
        return current_revision(connection) == FURTHER


@pytest.mark.beside
@databases
def test_a_replica_restarts_beside_a_controller_of_a_further_release(
    stage: Stage, database: str
) -> None:
    with stage.world("upgrade", database) as world:
        killed, _ = world.replicas(stands_by=False)
        world.prober()
        world.until(world.in_rotation, "both replicas answer")
        further = world.further_controller(MIN_READER)
        world.until(lambda: is_migrated(world), "the store is migrated")
        world.kill(killed)
        world.replica(KILLED, stands_by=True)
        assert world.rollout(GOOD).phase is Phase.DONE
        # Back to this release: from here on the replica that was restarted is the controller.
        world.kill(further)
        assert world.rollout(BETTER).phase is Phase.DONE
        world.check()


@pytest.mark.beside
@databases
def test_a_replica_that_may_not_read_the_store_any_more_says_so_and_the_other_serves_on(
    stage: Stage, database: str
) -> None:
    with stage.world("refused", database) as world:
        killed, _ = world.replicas(stands_by=False)
        world.prober()
        world.until(world.in_rotation, "both replicas answer")
        world.further_controller(FURTHER)
        world.until(lambda: is_migrated(world), "the store is migrated")
        world.kill(killed)
        again = world.replica(KILLED, wait=False)
        assert again.wait(60.0) != 0
        assert f"this one knows '{HEAD}' at most: install the release" in again.tail()
        assert world.ready(OTHER)
        world.check()
