"""Connections that a replica has not accepted yet are counted."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from deployments.replica import count_waiting_connections


def test_connections_are_counted_until_they_are_accepted() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        assert count_waiting_connections(listening.fileno()) == 0
        for _ in range(3):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        assert count_waiting_connections(listening.fileno()) == 3
        stack.enter_context(listening.accept()[0])
        assert count_waiting_connections(listening.fileno()) == 2
        assert listening.fileno() >= 0


def test_a_socket_without_tcp_has_nobody_at_its_door() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert count_waiting_connections(one.fileno()) == 0
