"""Clients that go away, and an input that no model can stand, harm nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.faults.prober import Answer, Connection, render
from tests.faults.scenes import enthrone
from tests.faults.stage import Stage
from tests.faults.template import CHAMPION, KEY
from tests.faults.world import REPLICAS

pytestmark = pytest.mark.faults

FRAGILE = "raises_5_percent"
CANCELLED, GOOD_ONES, TOGETHER = 400, 1000, 64
PATH = f"/services/{KEY}/invocations"
HEADERS = {"content-type": "application/json"}


@pytest.mark.beside
def test_after_a_storm_of_cancelled_and_poisoned_requests_the_next_thousand_are_answered(
    stage: Stage,
) -> None:
    with stage.world("storm") as world:
        enthrone(world, FRAGILE)
        world.replica(REPLICAS[0], stands_by=False)
        port = world.ports[REPLICAS[0]]
        world.until(
            lambda: FRAGILE in asyncio.run(_who_answers(port, stage.template.bodies[:40])),
            "the champion answers",
        )
        answered = asyncio.run(_storm(port, stage.template.bodies))
        assert answered == {CHAMPION}, "a poisoned input is the next version's to answer"
        sound = [body for body in stage.template.bodies if not _poisoned(body)]
        before = asyncio.run(_asked(port, sound[:20]))
        after = asyncio.run(_asked(port, (sound * 5)[:GOOD_ONES]))
        assert {answer.status for answer in after} == {200}
        assert {answer.headers["x-model-version"] for answer in after} == {FRAGILE}
        assert [one.body for one in after[:20]] == [one.body for one in before]
        stage.totals["sent"] += CANCELLED + GOOD_ONES


def _poisoned(body: bytes) -> bool:
    """By the hour of its last bar, as `tests.faults.misbehaving` decides."""
    return int(json.loads(body)["instances"][0][-1][0]) // 3600 % 20 == 0


async def _storm(port: int, bodies: Sequence[bytes]) -> set[str]:
    """Send and hang up, many times, in the middle of it poison; who answered the poison."""
    poison = [body for body in bodies if _poisoned(body)]
    gone = [_hang_up(port, bodies[n % len(bodies)], n) for n in range(CANCELLED)]
    answers, *_ = await asyncio.gather(_asked(port, poison), *gone)
    assert {answer.status for answer in answers} == {200}
    return {answer.headers["x-model-version"] for answer in answers}


async def _hang_up(port: int, body: bytes, number: int) -> None:
    """Go away at once, within the request, or while it is being answered."""
    connection = await Connection.to(port)
    request = render("POST", PATH, body, HEADERS)
    connection.writer.write(request if number % 3 else request[: len(request) // 2])
    await connection.writer.drain()
    await asyncio.sleep(0.002 * (number % 5))
    if number % 2:
        connection.writer.transport.abort()
    else:
        connection.close()


async def _who_answers(port: int, bodies: Sequence[bytes]) -> set[str]:
    return {answer.headers.get("x-model-version", "") for answer in await _asked(port, bodies)}


async def _asked(port: int, bodies: Sequence[bytes]) -> list[Answer]:
    """Ask for each over a few connections."""
    waiting = list(enumerate(bodies))[::-1]
    answers: dict[int, Answer] = {}

    async def client() -> None:
        connection = await Connection.to(port)
        while waiting:
            number, body = waiting.pop()
            answers[number] = await connection.ask(render("POST", PATH, body, HEADERS))
        connection.close()

    await asyncio.gather(*(client() for _ in range(min(TOGETHER, len(bodies)))))
    return [answers[number] for number in range(len(bodies))]
