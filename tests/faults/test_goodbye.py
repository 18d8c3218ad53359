"""A replica that is told to end loses nobody's request."""

from __future__ import annotations

import json
import signal

import pytest

from tests.faults.stage import Stage
from tests.faults.world import REPLICAS, World

pytestmark = pytest.mark.faults

CONNECTIONS = 500


@pytest.mark.beside
def test_a_replica_that_is_told_to_end_answers_all_of_500_keep_alive_connections(
    stage: Stage,
) -> None:
    with stage.world("goodbye") as world:
        leaving, _ = world.replicas()
        crowd = world.crowd(CONNECTIONS)
        world.until(lambda: counts(world).get("200 from 1", 0) > 2 * CONNECTIONS, "all have asked")
        assert world.terminate(leaving, timeout_s=60.0) == 0, leaving.tail()
        world.until(lambda: counts(world).get("200 from 2", 0) > CONNECTIONS, "all have moved")
        crowd.signal(signal.SIGTERM)
        assert crowd.wait(60.0) == 0, crowd.tail()
        told = counts(world)
        assert told["connected"] == told["moved"] == CONNECTIONS
        others = {what for what in told if what not in ("connected", "moved")}
        assert others == {"200 from 1", "200 from 2"}, told
        assert world.said(REPLICAS[0]) is None, "it left without a word"
        stage.totals["sent"] += told["200 from 1"] + told["200 from 2"]


@pytest.mark.beside
def test_each_replica_may_be_ended_in_turn_under_load(stage: Stage) -> None:
    with stage.world("in-turn") as world:
        world.replicas()
        world.prober()
        for _ in range(2):
            for process in world.serving():
                world.until(world.in_rotation, "both replicas answer")
                assert world.terminate(process) == 0, process.tail()
                world.replica(process.who)
        count = world.check()
        assert count.allowed == 0, "an end that was announced cost somebody a retry"


def counts(world: World) -> dict[str, int]:
    """What became of the crowd's requests until now."""
    path = world.folder / "crowd.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}
