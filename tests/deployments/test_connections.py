"""A replica has fewer connections than descriptors, and gives up those that wait longest."""

from __future__ import annotations

import logging
import random
import resource

import pytest

from deployments import connections
from deployments.connections import LOG_EVERY_S, RareLog, count_allowed_connections
from tests.deployments.wire import Server, Wire, on_clock, pass_time, request, settle

HALF = b"GET / HTTP/1.1\r\nHo"


@on_clock
async def test_at_the_limit_the_connection_that_waited_longest_is_closed() -> None:
    server = Server(connections=3)
    wires: list[Wire] = []
    for begun in (b"", HALF, request("/"), HALF):
        wires.append(server.connect())
        if begun:
            await wires[-1].send(begun)
        await pass_time(1.0)
    assert [wire.open for wire in wires] == [False, True, True, True]
    await wires[1].send(b"st: x\r\n\r\n")
    for _ in range(2):
        wires.append(server.connect())
        await pass_time(1.0)
    assert [wire.open for wire in wires] == [False, True, False, False, True, True]
    assert wires[1].statuses == [200]


@on_clock
async def test_many_half_sent_connections_do_not_shut_out_a_new_client() -> None:
    server = Server(connections=50)
    for _ in range(10):
        for _ in range(50):
            await server.connect().send(HALF)
        await pass_time(0.1)
        client = server.connect()
        await pass_time(0.1)
        for _ in range(40):
            await server.connect().send(HALF)
        await client.send(request("/livez"))
        assert client.statuses == [200]


@on_clock
async def test_a_connection_with_a_request_in_work_is_spared() -> None:
    server = Server(connections=2)
    server.app.may_answer.clear()
    busy = [server.connect() for _ in range(2)]
    for wire in busy:
        await wire.send(request("/") + HALF)
    late = server.connect()
    await settle()
    assert late.closed
    server.app.may_answer.set()
    await settle()
    assert [wire.statuses for wire in busy] == [[200], [200]]
    await pass_time(1.0)
    assert server.connect().open


@on_clock
async def test_a_half_sent_body_is_given_up_and_the_app_is_told() -> None:
    server = Server(connections=2)
    wires = [server.connect() for _ in range(2)]
    await pass_time(1.0)
    await wires[0].send(request("/", method="POST", size=100))
    await pass_time(1.0)
    server.connect()
    await pass_time(1.0)
    assert [wire.open for wire in wires] == [True, False]
    server.connect()
    await settle()
    assert [wire.open for wire in wires] == [False, False]
    assert server.app.disconnects == 1


@pytest.mark.parametrize("seed", range(5))
@on_clock
async def test_whatever_clients_do_the_one_closed_is_the_one_that_waited_longest(seed: int) -> None:
    dice = random.Random(seed)
    server = Server(connections=8)
    wires = [server.connect() for _ in range(8)]
    for _ in range(200):
        await pass_time(dice.choice([0.01, 0.5]))
        wires = [wire for wire in wires if wire.open]
        for wire in dice.sample(wires, k=min(2, len(wires))):
            await wire.send(dice.choice([request("/"), b"GET / HTTP/1.1\r\n\r\n", b"\r\n"]))
        if dice.random() < 0.5:
            starts = {wire: wire.protocol.find_wait_start() for wire in wires}
            before = {wire: since for wire, since in starts.items() if since is not None}
            wires.append(server.connect())
            await settle()
            closed = [wire for wire in wires if wire.closed]
            assert len(wires) <= 8 or len(closed) == 1
            assert all(before[wire] == min(before.values()) for wire in closed)


@pytest.mark.parametrize(
    ("descriptors", "allowed"), [(256, 128), (64, 32), (1024, 896), (20_000, 19_872)]
)
def test_descriptors_are_kept_for_our_own_files(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, allowed: int
) -> None:
    limits = (descriptors, resource.RLIM_INFINITY)
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits)
    assert count_allowed_connections() == allowed


def test_without_a_limit_of_descriptors_there_is_none_of_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits)
    assert count_allowed_connections() > 1_000_000


def test_a_repeated_warning_is_written_once_a_minute_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    rare = RareLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(1001):
            rare.warn("refused")
        rare.warn("closed")
        now = LOG_EVERY_S
        rare.warn("refused")
        now = 3 * LOG_EVERY_S
        rare.warn("refused")
    assert [record.getMessage() for record in caplog.records] == [
        "refused",
        "closed",
        "refused (1,000 more in the meantime)",
        "refused",
    ]
