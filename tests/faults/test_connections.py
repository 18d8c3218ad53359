"""Clients that hold connections, or send what never ends, take a replica from nobody else."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.faults.prober import Answer, Connection, render
from tests.faults.stage import Stage
from tests.faults.template import KEY
from tests.faults.world import REPLICAS, World, http_status

pytestmark = pytest.mark.faults

DESCRIPTORS = 256
PATH = f"/services/{KEY}/invocations"
HEADERS = {"content-type": "application/json"}
HALF_HEADER = b"POST /services HTTP/1.1\r\nHo"
HALF_BODY = render("POST", PATH, b"{" * 100, HEADERS)[:-50]
WEBSOCKET = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


@pytest.mark.beside(waits=True)
def test_twice_as_many_connections_as_descriptors_leave_a_replica_in_service(
    stage: Stage,
) -> None:
    with stage.world("crowded") as world, ExitStack() as stack:
        replica = world.replica(REPLICAS[0], descriptors=DESCRIPTORS)
        port = world.ports[REPLICAS[0]]
        for begun in (b"", HALF_HEADER, HALF_BODY):
            for _ in range(2 * DESCRIPTORS):
                stack.enter_context(holding(port, begun))
            assert http_status(port, "/livez") == 200
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            stack.enter_context(holding(port, HALF_HEADER))
            assert http_status(port, "/livez") == 200
            assert ask(world, render("POST", PATH, stage.template.bodies[0], HEADERS)).status == 200
            assert world.said(REPLICAS[0]) is not None, replica.tail()
        log = replica.log.read_text()
        assert "Too many open files" not in log
        assert log.count("closed an idle or half-sent connection") == 1


@pytest.mark.beside(waits=True)
def test_what_never_ends_is_cut_off_while_others_are_answered(stage: Stage) -> None:
    with stage.world("endless") as world:
        replica = world.replica(REPLICAS[0])
        port = world.ports[REPLICAS[0]]
        with holding(port, b"GET / HTTP/1.1\r\na: ") as long, pytest.raises(ConnectionError):
            long.sendall(b"x" * 200_000_000)
        with holding(port, HALF_HEADER) as header, holding(port, HALF_BODY) as body:
            assert http_status(port, "/livez") == 200
            for slow in (header, body):
                slow.settimeout(30.0)
                assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert replica.alive
        assert world.said(REPLICAS[0]) is not None


@pytest.mark.beside
def test_a_websocket_on_any_path_is_no_error(stage: Stage) -> None:
    with stage.world("websocket") as world:
        replica = world.replica(REPLICAS[0])
        for path in ("/", "/livez", "/services", PATH, "/v2", "/metrics", "/chat"):
            plain, upgrading = (ask(world, render("GET", path, b"", h)) for h in ({}, WEBSOCKET))
            assert upgrading.status == plain.status < 500, path
        body = stage.template.bodies[0]
        assert ask(world, render("POST", PATH, body, HEADERS | WEBSOCKET)).status == 200
        log = replica.log.read_text()
        assert " ERROR " not in log
        assert "pgrade" not in log


@contextmanager
def holding(port: int, begun: bytes) -> Iterator[socket.socket]:
    """A connection that has sent so much, and stays open on this side."""
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
        connection.sendall(begun)
        yield connection


def ask(world: World, request: bytes) -> Answer:
    """One request on a connection of its own."""

    async def answer() -> Answer:
        connection = await Connection.to(world.ports[REPLICAS[0]])
        try:
            return await connection.ask(request)
        finally:
            connection.close()

    return asyncio.run(answer())
