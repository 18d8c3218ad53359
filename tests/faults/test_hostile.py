"""A stranger may send anything: no version is charged for it, and no champion loses its place."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import pytest

from mlops.arrays import FloatArray
from mlops.data.bars import COLUMNS
from mlops.store.alerts import list_alerts
from mlops.store.request_counts import champion_scope, read_tallies, read_traffic
from mlops.store.schema import route
from tests.bar_forms import Form
from tests.faults.laws import broken_in_store
from tests.faults.prober import Answer
from tests.faults.scenes import enthrone
from tests.faults.stage import Stage
from tests.faults.steady import ask_each, request_of
from tests.faults.template import CHAMPION, KEY, PICKY, PICKY_BASELINE, WINDOW_BARS
from tests.faults.world import REPLICAS, World

pytestmark = pytest.mark.faults

HEADERS = {"content-type": "application/json"}
FEW, MANY = 25, 10_000
"""With so few requests a stranger dethroned a champion; so many are sent in the long run."""

BIG_BODIES, BIG_BODY = 6, b"[1]," * (4 * 1024**2)
SETTLE_S = 3.0
"""Replicas and the controller act within a second."""


def as_they_are(bars: FloatArray) -> None:
    """Bars of a market."""


def make_absurd(bars: FloatArray) -> None:
    """Prices that no bar may have."""
    bars[-6:, :4] = np.resize((1e-300, 1e300), 6)[:, None]


def make_wild(bars: FloatArray) -> None:
    """A price that moves by a factor of 1,000 within a bar, which is legal."""
    bars[-6:, 1] *= 1e3


def requests_of(
    world: World, count: int, spoil: Callable[[FloatArray], None] = as_they_are
) -> list[bytes]:
    """Windows of bars, each spoilt in its last ones."""
    values = world.template.bars[list(COLUMNS)].to_numpy()
    requests = []
    for number in range(count):
        end = len(values) - number % 200
        bars = values[end - WINDOW_BARS : end].copy()
        spoil(bars)
        body = json.dumps({"instances": bars.tolist()}).encode()
        requests.append(request_of(Form(False, HEADERS, body), KEY))
    return requests


def faults_of_versions(world: World) -> int:
    """All faults that were counted against a version, by every way of counting."""
    live = world.route()
    names = (live.champion, live.previous_champion, live.baseline, CHAMPION)
    with world.store.read() as connection:
        tallies = [
            tally
            for name in dict.fromkeys(names)
            if name is not None
            for tally in read_tallies(connection, KEY, champion_scope(name))
        ]
        traffic = read_traffic(connection, since=datetime(2000, 1, 1, tzinfo=UTC))
    return sum(tally.champion_faults for tally in tallies) + sum(
        row.traffic.faults for row in traffic
    )


def flush(world: World) -> None:
    """End the replicas, which write what they have counted."""
    time.sleep(SETTLE_S)
    for process in world.serving():
        assert world.terminate(process) == 0


def attack(world: World, requests: Sequence[bytes]) -> list[Answer]:
    """Half of the requests to each replica."""
    half = len(requests) // 2
    ports = [world.ports[who] for who in REPLICAS]
    return [
        answer
        for port, part in zip(ports, (requests[:half], requests[half:]), strict=True)
        for answer in ask_each(port, part)
    ]


@contextmanager
def nothing(world: World) -> Iterator[None]:
    yield


@contextmanager
def good_requests(world: World) -> Iterator[None]:
    """A client at 200 requests a second, all of which are answered."""
    world.prober()
    world.until(world.in_rotation, "both replicas answer")
    yield
    world.check()


@contextmanager
def big_bodies(world: World) -> Iterator[None]:
    """Six bodies of 16 MB at once, again and again, beside good requests."""
    body = b'{"instances": [' + BIG_BODY[:-1] + b"]}"
    request, stop = request_of(Form(False, HEADERS, body), KEY), threading.Event()

    def send() -> None:
        while not stop.is_set():
            ask_each(world.ports[REPLICAS[0]], [request] * BIG_BODIES, connections=BIG_BODIES)

    with good_requests(world):
        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def a_training(world: World) -> Iterator[None]:
    """A training on every core, beside good requests."""
    process = world.trainer()
    with good_requests(world):
        yield
        assert process.alive, process.tail()
        process.kill()


BESIDE = {
    "alone": nothing,
    "good requests": good_requests,
    "big bodies": big_bodies,
    "a training": a_training,
}


@pytest.mark.beside
@pytest.mark.parametrize("beside", BESIDE)
def test_bars_of_no_market_are_refused_and_speak_against_no_version(
    stage: Stage, beside: str
) -> None:
    with stage.world(f"absurd-{beside.replace(' ', '-')}") as world:
        world.budget_s = 5.0
        world.replicas(stands_by=False)
        world.controller()
        count = MANY if beside == "alone" else MANY // 10
        with BESIDE[beside](world):
            answers = attack(world, requests_of(world, count, make_absurd))
        assert {answer.status for answer in answers} == {400}
        flush(world)
        assert faults_of_versions(world) == 0
        assert world.route().champion == CHAMPION
        assert list(broken_in_store(world.store)) == []


@pytest.mark.beside
@pytest.mark.parametrize("count", [FEW, MANY])
def test_legal_bars_that_no_version_can_compute_are_refused_and_counted_nowhere(
    stage: Stage, count: int
) -> None:
    with stage.world(f"uncomputable-{count}") as world:
        enthrone(world, PICKY)
        make_baseline(world, PICKY_BASELINE)
        world.replicas(stands_by=False)
        world.controller()
        answers = attack(world, requests_of(world, count, make_wild))
        assert {answer.status for answer in answers} == {400}
        assert b"no version of this service can make a forecast" in answers[0].body
        flush(world)
        assert faults_of_versions(world) == 0
        assert world.route().champion == PICKY
        logs = [process.log.read_text() for process in world.started]
        assert not any("no version answered" in log for log in logs)


@pytest.mark.beside
def test_requests_that_the_champion_alone_cannot_compute_raise_an_alert_and_move_no_route(
    stage: Stage,
) -> None:
    with stage.world("picky") as world:
        enthrone(world, PICKY)
        world.replicas(stands_by=False)
        world.controller()
        hostile = requests_of(world, FEW * 4, make_wild)
        answers = attack(world, hostile + requests_of(world, FEW * 4))
        assert {answer.status for answer in answers} == {200}
        world.until(lambda: bool(list_alerts(world.store, lasting_only=True)), "people are told")
        (alert,) = list_alerts(world.store, lasting_only=True)
        assert alert.title == f"{PICKY} fails on what clients send"
        time.sleep(SETTLE_S)
        assert world.route().champion == PICKY


def make_baseline(world: World, model_id: str) -> None:
    """Another baseline, so that no version is left which computes everything."""
    with world.store.write() as connection:
        connection.execute(route.update().values(baseline=model_id, previous_champion=None))
