"""What happens in a scenario, apart from the faults: each strategy, and each way back."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from mlops.store import Phase, Rollout, Why, list_rollouts
from mlops.store.routes import change_route, read_route
from tests.faults.armed import Fault
from tests.faults.template import KEY, SOUND, UNLUCKY
from tests.faults.world import QUICK, World

STRATEGIES = ("canary", "blue_green", "rolling", "shadow")


def begin(world: World, *, stands_by: bool = False) -> None:
    """Two replicas that take turns with a client's requests."""
    world.replicas(stands_by=stands_by)
    world.prober()
    world.until(world.in_rotation, "both replicas answer")


def strategy(name: str) -> Callable[[World], None]:
    """A good challenger goes live, or is shadowed."""

    def play(world: World) -> None:
        before, good = world.route().champion, another(world)
        row = world.rollout(good, name)
        assert row.phase is Phase.DONE, row.reason
        assert world.route().champion == (before if name == "shadow" else good)

    return play


def roll_back(world: World) -> None:
    """A challenger that fails on 5 % of its inputs is found out before anybody sees it."""
    before = world.route().champion
    row = world.rollout("raises_5_percent")
    assert row.phase is Phase.FAILED, row.reason
    assert "worse than the champion" in row.reason
    assert world.route().champion == before


def revert(world: World) -> None:
    """A promotion is taken back while it is watched."""
    before = world.route().champion
    row = world.ask(UNLUCKY, "blue_green", bake_s=60.0)
    world.reaches(row, Phase.PROMOTED)
    world.asker("abort", rollout=row.id).wait()
    assert world.ends(row).phase is Phase.FAILED
    assert world.route().champion == before


def fall_back(world: World) -> None:
    """A champion begins to fail when no rollout is under way."""
    before = world.route().champion
    enthrone(world, "raises")
    world.until(lambda: world.route().champion == before, "the champion of before is back")


def ab_test(world: World) -> None:
    """A test begins, a look finds its challenger better, and that is promoted."""
    good = another(world)
    row = ask_test(world, good)
    world.reaches(row, Phase.STEP)
    world.asker("look", rollout=row.id).wait()
    assert world.ends(row).phase is Phase.DONE
    assert world.route().champion == good


def ask_test(world: World, model_id: str, *faults: Fault) -> Rollout:
    """A process asks for a test of a version; its rollout."""
    process = world.asker("test", *faults, service=KEY, model=model_id, plan=dict(QUICK))
    assert process.wait() == 0, process.tail()
    return next(row for row in list_rollouts(world.store) if row.to_version == model_id)


def step_back(world: World) -> None:
    """Somebody asks for a rollout, and then to have the version of before again."""
    before, good = world.route().champion, another(world)
    world.asker("rollout", model=good, strategy="blue_green", plan=dict(QUICK)).wait()
    world.until(lambda: world.idle() and world.route().champion == good, "the rollout ends")
    world.asker("roll_back", service=KEY).wait()
    assert world.route().champion == before


def stop(world: World) -> None:
    """Everybody is asked to end, one after the other, and comes back."""
    row = world.ask(another(world), dwell_s=1.0)
    world.reaches(row, Phase.LOADING)
    _end_controllers(world)
    world.controller()
    for process in world.serving():
        with idle_connection(world, process.who):
            assert world.terminate(process) == 0
        world.replica(process.who, stands_by=False)
    assert world.ends(row).phase is Phase.DONE


def stand_by(world: World) -> None:
    """No controller but those in the replicas."""
    _end_controllers(world)
    for process in world.serving():
        assert world.terminate(process) == 0
        world.replica(process.who, stands_by=True)
    assert world.rollout(another(world)).phase is Phase.DONE


SCENES: Mapping[str, Callable[[World], None]] = {
    **{name: strategy(name) for name in STRATEGIES},
    "ab_test": ab_test,
    "roll_back": roll_back,
    "revert": revert,
    "fall_back": fall_back,
    "step_back": step_back,
    "stop": stop,
    "stand_by": stand_by,
}
"""In this order they can be played one after the other."""


def another(world: World) -> str:
    """A sound version that is neither live nor kept, so that it has to be loaded."""
    route = world.route()
    return next(one for one in SOUND if one not in (route.champion, route.previous_champion))


@contextmanager
def idle_connection(world: World, who: str) -> Iterator[None]:
    """A client that keeps its connection, and says nothing on it."""
    with socket.create_connection(("127.0.0.1", world.ports[who])) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1)
        yield


def enthrone(world: World, model_id: str) -> None:
    """Make a version champion from outside of any rollout: one that was sound until now."""
    with world.store.write() as connection:
        before = read_route(connection, KEY)
        assert before is not None
        after = replace(before, champion=model_id, previous_champion=before.champion)
        change_route(connection, before, after, "set_up", Why(datetime.now(UTC)))


def _end_controllers(world: World) -> None:
    for process in world.started:
        if process.who.startswith("controller") and process.alive:
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
