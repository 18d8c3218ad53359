"""A connection without a socket, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from benchmarks.replica_variants import CountingParser
from deployments.connections import OpenConnections
from deployments.http_protocol import HttpProtocol, Limits

READ_BYTES = 256 * 1024
"""What uvloop reads at once."""


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until `pass_time`."""

    now = 0.0

    def time(self) -> float:
        return self.now


async def pass_time(seconds: float) -> None:
    """Move the clock a second at a time, and run what is due."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    end = loop.now + seconds
    while loop.now < end:
        loop.now = min(end, loop.now + 1.0)
        await settle()


async def settle(turns: int = 10) -> None:
    """Let the event loop run what is due."""
    for _ in range(turns):
        await asyncio.sleep(0)


def on_clock(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a `Clock`."""

    @wraps(test)
    def run(**given: Any) -> None:
        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(test(**given))

    return run


class Transport(asyncio.Transport):
    """Keeps what is written; the client reads it unless ``unread`` says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: HttpProtocol
        self.written = b""
        self.unread = 0
        self.reading = True
        self.ended = False
        self.closing = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written after the end"
        if not self.closing:
            self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unread

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.unread:
                self._lose_connection()

    def abort(self) -> None:
        if not self.aborted:
            self.closing = self.aborted = True
            self._lose_connection()

    def _lose_connection(self) -> None:
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class App:
    """Replies with what it was asked; waits until it ``may_answer``."""

    def __init__(self) -> None:
        self.may_read, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_read.set()
        self.may_answer.set()
        self.headers: list[dict[bytes, bytes]] = []
        self.bodies: list[bytes] = []
        self.disconnects = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.may_read.wait()
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            body += message["body"]
            more = message["more_body"]
        await self.may_answer.wait()
        self.headers.append(dict(scope["headers"]))
        self.bodies.append(body)
        text = b"%s %s %d" % (scope["method"].encode(), scope["path"].encode(), len(body))
        fields = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": text})


class Server:
    """Connections of one server to one app."""

    def __init__(self, app: Any = None, *, connections: int = 100, **limits: Any) -> None:
        self.app = App() if app is None else app
        self.config = uvicorn.Config(
            self.app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=75
        )
        self.state = ServerState()
        self.limits = Limits(**limits)
        self.open_connections = OpenConnections(connections)

    def connect(self) -> Wire:
        protocol = HttpProtocol(
            config=self.config,
            server_state=self.state,
            app_state={},
            limits=self.limits,
            open_connections=self.open_connections,
        )
        return Wire(protocol)


class Wire:
    """The client's side of a connection."""

    def __init__(self, protocol: HttpProtocol) -> None:
        self.protocol = protocol
        self.transport = Transport()
        self.transport.protocol = protocol
        self.parser: Any = CountingParser(protocol.parser)
        protocol.parser = self.parser
        protocol.connection_made(self.transport)

    async def send(self, data: bytes, *, at_once: int = READ_BYTES) -> None:
        """Hand over bytes as the event loop does: not while reading is paused."""
        for start in range(0, len(data), at_once):
            await self._wait_for_reading()
            if self.closed:
                return
            self.protocol.data_received(data[start : start + at_once])
        await settle()

    async def _wait_for_reading(self) -> None:
        for _ in range(1000):
            if self.transport.reading or self.closed:
                return
            await asyncio.sleep(0)
        raise AssertionError("reading stays paused")

    @property
    def closed(self) -> bool:
        return self.transport.closing

    @property
    def open(self) -> bool:
        return not (self.closed or self.transport.ended)

    @property
    def statuses(self) -> list[int]:
        """Of the replies so far."""
        lines = self.transport.written.split(b"HTTP/1.1 ")[1:]
        return [int(line[:3]) for line in lines]

    @property
    def last_reply(self) -> bytes:
        return self.transport.written.rpartition(b"\r\n\r\n")[2]


def request(
    path: str = "/",
    *fields: str,
    method: str = "GET",
    body: bytes = b"",
    size: int | None = None,
) -> bytes:
    """A request; ``size`` states another length than the body has."""
    stated = [f"Content-Length: {size or len(body)}"] if body or size else []
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *fields, *stated, "", ""]
    return "\r\n".join(lines).encode() + body
