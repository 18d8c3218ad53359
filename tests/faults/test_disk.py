"""A disk that is full, and descriptors that have run out, are told as what they are.

What was published is kept, requests are answered meanwhile, and all goes on once the cause ends.
"""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from mlops.store import list_forecasts
from tests.faults.armed import BEFORE, Fault
from tests.faults.files import CALLS, DESCRIPTORS, file_point
from tests.faults.outages import settle
from tests.faults.stage import Stage
from tests.faults.template import CHAMPION, KEY
from tests.faults.world import REPLICAS, World

pytestmark = pytest.mark.faults
ALONE = REPLICAS[0]


def ask_for_forecast(world: World) -> tuple[int, Any]:
    """Status and body of the newest forecast; the status is 0 where the connection is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", world.ports[ALONE], timeout=10.0)
    try:
        connection.request("GET", f"/services/{KEY}/forecast")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionError:
        return 0, None
    finally:
        connection.close()


def is_forecast(world: World) -> bool:
    return ask_for_forecast(world)[0] == 200


@pytest.mark.beside(waits=True)
@pytest.mark.parametrize("error", ["ENOSPC", "EMFILE"])
@pytest.mark.parametrize("call", CALLS)
def test_a_spool_that_cannot_be_written_is_named_and_goes_on_by_itself(
    stage: Stage, call: str, error: str
) -> None:
    fault = Fault(file_point(call, "spool"), BEFORE, f"fails:{error}")
    with stage.world(f"disk-{call}-{error}") as world:
        replica = world.replica(ALONE, fault, gated=True)
        world.prober(rate=50)
        world.until(lambda: is_forecast(world), "the newest bar is forecast")
        world.let(replica)
        world.until(lambda: not is_forecast(world), "the last forecast is too old")
        _, body = ask_for_forecast(world)
        assert f"({error})" in body["message"], body
        assert str(world.folder) in body["message"], body
        assert replica.log.read_text().count("no forecast: the spool") <= 3
        known = len(list_forecasts(world.store, KEY))
        world.spare(replica)
        world.until(lambda: is_forecast(world), "the newest bar is forecast again")
        world.until(lambda: len(list_forecasts(world.store, KEY)) > known, "it is on record")
        settle(world)
        assert world.check().allowed == 0


@pytest.mark.beside(waits=True)
def test_a_replica_without_descriptors_keeps_its_clients_and_accepts_others_again(
    stage: Stage,
) -> None:
    fault = Fault(DESCRIPTORS, BEFORE, "fails:EMFILE")
    with stage.world("descriptors") as world:
        replica = world.replica(ALONE, fault, gated=True)
        kept = http.client.HTTPConnection("127.0.0.1", world.ports[ALONE], timeout=10.0)
        ask_on(kept, world)
        world.let(replica)
        world.until(lambda: f"fails:EMFILE before {DESCRIPTORS}" in world.struck(), "it strikes")
        for _ in range(20):
            assert ask_on(kept, world) == 200
        world.until(
            lambda: "Too many open files" in replica.log.read_text(), "the log names the cause"
        )
        world.spare(replica)
        world.until(lambda: is_forecast(world), "others are accepted again")
        world.until(lambda: world.said(ALONE) is not None, "it counts as live again")
        assert replica.alive
        assert ask_on(kept, world) == 200
        kept.close()
        assert world.route().champion == CHAMPION


def ask_on(connection: http.client.HTTPConnection, world: World) -> int:
    """The status of an inference on a connection that is open already."""
    connection.request(
        "POST",
        f"/services/{KEY}/invocations",
        world.template.bodies[0],
        {"content-type": "application/json"},
    )
    answer = connection.getresponse()
    answer.read()
    return answer.status
