"""What the limits of connections look like over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import uvloop

from deployments.http_protocol import Limits
from deployments.processes import free_port
from deployments.replica import Server, configure_server
from tests.deployments.wire import request

LONG_REPLY = b"x" * 20_000_000
QUICK = Limits(progress_s=0.3, reply_s=0.3)
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Replies with a short text, or with a long one at `/long`."""
    while (await receive()).get("more_body"):
        pass
    text = LONG_REPLY if scope["path"] == "/long" else b"alive"
    fields = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": text})


@contextmanager
def serving(**options: Any) -> Iterator[tuple[int, Server]]:
    """A replica's server and its port, in a thread of its own."""
    port = free_port()
    server = Server(configure_server(app, host="127.0.0.1", port=port, **options))

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield port, server
    finally:
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10.0)


def read_to_end(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection, however it ends."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while more := connection.recv(1_000_000):
            received += more
    return bytes(received)


def ask(port: int, sent: bytes) -> bytes:
    """The reply to what is sent on a connection of its own."""
    with connect(port) as connection:
        connection.sendall(sent)
        return read_to_end(connection)


def test_a_client_reads_why_it_is_refused_though_it_sent_more_than_was_read() -> None:
    with serving() as (port, _):
        for size in (40_000, 400_000):
            reply = ask(port, request("/", "a: " + "x" * size))
            assert reply.startswith(b"HTTP/1.1 431 "), size


def test_a_client_that_does_not_end_its_request_is_told_so() -> None:
    with serving(limits=QUICK) as (port, _):
        assert ask(port, b"GET / HT").startswith(b"HTTP/1.1 408 ")
        assert ask(port, request("/", method="POST", size=9)).startswith(b"HTTP/1.1 408 ")


def test_a_websocket_is_answered_as_the_request_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), serving() as (port, _), connect(port) as connection:
        for path in ("/", "/livez", "/services/any/invocations"):
            connection.sendall(request(path, *WEBSOCKET))
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert not caplog.records


def test_the_app_is_reached_though_others_hold_more_connections_than_there_may_be() -> None:
    with serving(connections=16) as (port, _), ExitStack() as stack:
        held = [stack.enter_context(connect(port)) for _ in range(40)]
        for connection in held[1::2]:
            connection.sendall(b"GET / HT")
        for _ in range(3):
            assert ask(port, request("/", "Connection: close")).endswith(b"alive")
        for connection in held:
            connection.setblocking(False)
        assert sum(is_open(connection) for connection in held) < 16


def is_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_a_client_that_does_not_read_is_given_up_and_one_that_reads_is_not() -> None:
    with serving(limits=QUICK) as (port, server), connect(port) as connection:
        connection.sendall(request("/long"))
        wait_until(lambda: server.server_state.total_requests == 1)
        wait_until(lambda: not server.server_state.connections)
        assert len(ask(port, request("/long", "Connection: close"))) > len(LONG_REPLY)


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
