"""The API on real connections: alone, and in front of a data plane."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from deployments import api
from deployments.replica import Server, configure_server
from mlops.api.app import Dispatcher
from mlops.settings import Settings
from tests.mlops.api.conftest import World, library_once, world

__all__ = ["library_once", "world"]

LIMIT = 16 * 1024**2


async def ask(port: int, text: str) -> str:
    """What the server answers to the bytes of a request, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


def request(line: str, *headers: str, body: str = "") -> str:
    """A request on a connection of its own."""
    lines = [line, "Host: 127.0.0.1", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body])


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """The port of a server of this application, as a replica has it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(configure_server(app, host="127.0.0.1", port=0, connections=100))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0)
        yield listening.getsockname()[1]
        server.should_exit = True
        await serving


def test_both_planes_answer_on_one_port(world: World) -> None:
    dispatcher = Dispatcher(world.client.app, PlainTextResponse("the data plane"))

    async def run() -> None:
        async with served(dispatcher) as port:
            found = await ask(port, request(f"GET /mlops/api/models/{world.champion} HTTP/1.1"))
            assert found.startswith("HTTP/1.1 200")
            assert world.champion in found
            head = await ask(port, request(f"HEAD /mlops/api/models/{world.champion} HTTP/1.1"))
            assert head.startswith("HTTP/1.1 200")
            assert head.endswith("\r\n\r\n")
            for version in ("1.0", "1.1"):
                assert "the data plane" in await ask(port, request(f"GET /ping HTTP/{version}"))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (request("GET /mlops/api/models/x HTTP/1.0"), 403),
        (request("POST /mlops/api/models/deploy HTTP/1.1", f"Content-Length: {LIMIT + 1}"), 413),
        (request("POST /mlops/api/models/deploy HTTP/1.1", "Origin: https://evil.org"), 403),
        (request("POST /mlops/api/models/deploy HTTP/1.1", "Content-Length: 1", body="x"), 422),
        (request("GET /mlops/api/models/%00 HTTP/1.1"), 422),
        (request("GET /mlops/api/models/%ED%A0%80 HTTP/1.1"), 422),
        (request("GET /mlops/api/models/a?b=%ED%A0%80 HTTP/1.1"), 404),
        (request("OPTIONS /mlops/api/models/deploy HTTP/1.1"), 405),
    ],
)
def test_a_request_that_is_wrong_is_a_problem(world: World, text: str, status: int) -> None:
    async def run() -> str:
        async with served(world.client.app) as port:
            return await ask(port, text)

    answer = asyncio.run(run())
    assert answer.split(" ")[1] == str(status)
    assert "application/problem+json" in answer


@pytest.mark.slow
def test_the_api_alone_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, mlops_base_path=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])

    async def run() -> None:
        serving = asyncio.create_task(api.serve(settings, host="127.0.0.1", port=port))
        answer = ""
        while not answer:
            try:
                answer = await ask(port, request("GET /mlops/api/rollouts HTTP/1.1"))
            except ConnectionRefusedError:
                await asyncio.sleep(0)
        assert '{"rollouts":[],"next":null}' in answer
        os.kill(os.getpid(), signal.SIGTERM)
        await serving

    asyncio.run(run())
