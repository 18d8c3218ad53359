"""Headers and bodies are read within bounds, and a packed body is one of the plain size."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from mlops.errors import BodiesFull, RequestRefused
from mlops.serving import http_requests
from mlops.serving.http_requests import READ_AT_ONCE, HttpRequest, RequestBodies, RequestIds

LIMIT = 1_000_000
Receive = Callable[[], Awaitable[dict[str, Any]]]


def request_of(receive: Receive, **headers: str) -> HttpRequest:
    """A request whose headers are named with ``_`` for ``-``."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HttpRequest({"type": "http", "method": "POST", "headers": raw}, receive)  # type: ignore[arg-type]


class Client:
    """Sends the chunks of a body, one each time it is asked; counts how often it was."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = list(chunks)
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        body = self.chunks[self.asked - 1]
        return {"type": "http.request", "body": body, "more_body": self.asked < len(self.chunks)}


def read(*chunks: bytes, limit: int = LIMIT, **headers: str) -> bytes:
    request = request_of(Client(chunks).receive, **headers)
    return asyncio.run(RequestBodies(limit).parse(request, lambda body: body))


def refusal_of(*chunks: bytes, limit: int = LIMIT, **headers: str) -> RequestRefused:
    with pytest.raises(RequestRefused) as refused:
        read(*chunks, limit=limit, **headers)
    return refused.value


# Size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[b"1234567890"], [b"12345", b"67890"], [b"", b"1", b""]])
def test_a_body_within_the_limit_is_read_whole(chunks: list[bytes]) -> None:
    assert read(*chunks, limit=10) == b"".join(chunks)


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 6, b"x" * 6, b"x"]])
def test_a_larger_body_is_refused_as_413(chunks: list[bytes]) -> None:
    refused = refusal_of(*chunks, limit=10)
    assert refused.status == 413
    assert "at most 10 are read" in str(refused)


def test_a_larger_stated_length_is_refused_before_the_body_is_asked_for() -> None:
    client = Client([b""])
    request = request_of(client.receive, content_length="11")
    with pytest.raises(RequestRefused):
        asyncio.run(RequestBodies(10).parse(request, lambda body: body))
    # The server sends `100 Continue` when it is first asked for the body.
    assert client.asked == 0


def test_a_client_that_disconnects_ends_the_request() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        asyncio.run(RequestBodies(LIMIT).parse(request_of(receive), lambda body: body))


def test_a_body_in_small_chunks_takes_memory_like_a_whole_one() -> None:
    chunks, asked = 30_000, 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {
            "type": "http.request",
            "body": b"%02d" % (asked % 100),
            "more_body": asked < chunks,
        }

    async def peak_bytes() -> int:
        tracemalloc.start()
        body = await RequestBodies(LIMIT).parse(request_of(receive), lambda body: body)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(body) == 2 * chunks
        return peak

    assert asyncio.run(peak_bytes()) < 5 * 2 * chunks


# Codings -----------------------------------------------------------------------------------------


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "x-gzip": gzip.compress,
    "identity, gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("size", [0, 10, READ_AT_ONCE, READ_AT_ONCE + 1, LIMIT])
@pytest.mark.parametrize("coding", PACKERS)
def test_a_packed_body_of_any_size_is_unpacked(coding: str, size: int) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    assert read(PACKERS[coding](body), content_encoding=coding) == body


def test_deflate_without_its_header_is_unpacked() -> None:
    assert read(raw_deflate(b"some bars"), content_encoding="deflate") == b"some bars"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "br, gzip", "x" * 300])
def test_another_coding_is_a_415_that_names_what_is_taken(coding: str) -> None:
    client = Client([b"body"])
    request = request_of(client.receive, content_encoding=coding)
    with pytest.raises(RequestRefused, match="gzip, deflate") as refused:
        asyncio.run(RequestBodies(LIMIT).parse(request, lambda body: body))
    assert refused.value.status == 415
    assert refused.value.headers == ((b"accept-encoding", b"gzip, deflate"),)
    assert len(str(refused.value)) < 300
    assert client.asked == 0


def test_codings_in_two_headers_are_one_list() -> None:
    request = request_of(Client([b""]).receive)
    request.scope["headers"] = [(b"content-encoding", b"br"), (b"content-encoding", b"gzip")]
    request = HttpRequest(request.scope, request.receive)
    with pytest.raises(RequestRefused, match="'br,gzip' is not unpacked"):
        http_requests.find_coding(request)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[: len(packed) // 2], "ends too early"),
        (lambda packed: packed + b"more", "4 bytes follow its end"),
        (lambda packed: packed[:-4] + bytes(4), "incorrect data check|incorrect length check"),
        (lambda packed: b"\xff" * 20, "invalid|incorrect header check"),
    ],
)
def test_a_damaged_body_is_a_400(
    coding: str, damage: Callable[[bytes], bytes], message: str, large: bool
) -> None:
    packed = PACKERS[coding](bytes(range(256)) * (1_000 if large else 1))
    refused = refusal_of(damage(packed), content_encoding=coding)
    assert refused.status == 400
    assert f"cannot be unpacked as {coding}" in str(refused)
    assert any(part in str(refused) for part in message.split("|"))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_costs_no_more_than_the_limit(coding: str) -> None:
    bomb = PACKERS[coding](bytes(100 * LIMIT))
    tracemalloc.start()
    refused = refusal_of(bomb, content_encoding=coding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (refused.status, str(refused)[:17]) == (413, "the unpacked body")
    assert peak < 4 * LIMIT


def test_a_packed_body_over_the_limit_is_refused_before_it_is_unpacked() -> None:
    refused = refusal_of(bytes(11), limit=10, content_encoding="gzip")
    assert str(refused).startswith("the body has 11 bytes")


# Many bodies at once -----------------------------------------------------------------------------


def test_one_large_body_is_parsed_at_a_time_and_small_ones_pass() -> None:
    running, most, passed = 0, 0, []
    lock, gate = threading.Lock(), threading.Event()

    def parse(body: bytes) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(10)
        with lock:
            running -= 1
        return len(body)

    async def serve() -> list[int]:
        bodies = RequestBodies(LIMIT)
        large = [
            asyncio.ensure_future(
                bodies.parse(request_of(Client([bytes(READ_AT_ONCE + 1)]).receive), parse)
            )
            for _ in range(6)
        ]
        while running < 1:
            await asyncio.sleep(0.001)
        for _ in range(3):
            passed.append(await bodies.parse(request_of(Client([b"small"]).receive), len))
            # Threads that others ask for are not taken by the bodies that wait.
            await asyncio.to_thread(time.sleep, 0)
        gate.set()
        return await asyncio.gather(*large)

    assert asyncio.run(serve()) == [READ_AT_ONCE + 1] * 6
    assert (most, passed) == (1, [5, 5, 5])


def test_between_two_large_bodies_others_have_the_interpreter_for_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, rests = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        rests.append(seconds)
        now += seconds

    def parse(body: bytes) -> None:
        nonlocal now
        now += 0.5

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr("mlops.serving.http_requests.time", clock)

    async def serve() -> None:
        nonlocal now
        bodies = RequestBodies(LIMIT)
        for pause in (0.0, 0.2, 3.0):
            await bodies.parse(request_of(Client([bytes(READ_AT_ONCE + 1)]).receive), parse)
            now += pause

    asyncio.run(serve())
    assert rests == pytest.approx([0.0, 0.5, 0.3])


def test_a_small_body_that_nobody_reads_is_taken_before_the_reply() -> None:
    client = Client([b"a", b"b"])
    request = request_of(client.receive, **{"content-length": "2"})
    assert request.body_is_left
    asyncio.run(RequestBodies(LIMIT).skip_small(request))
    assert not request.body_is_left


@pytest.mark.parametrize(
    "headers",
    [{"content-length": str(READ_AT_ONCE + 1)}, {"content-length": "2", "expect": "100-continue"}],
)
def test_a_large_body_or_one_that_was_not_sent_is_not_waited_for(headers: dict[str, str]) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    asyncio.run(RequestBodies(LIMIT).skip_small(request_of(receive, **headers)))


class Stalled:
    """Sends so many bytes, then the rest when it is told to."""

    def __init__(self, at_once: int, rest: int) -> None:
        self.bodies = [bytes(at_once), bytes(rest)]
        self.go_on = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if len(self.bodies) == 1:
            await self.go_on.wait()
        return {
            "type": "http.request",
            "body": self.bodies.pop(0),
            "more_body": bool(self.bodies),
        }


def test_slow_bodies_hold_a_bounded_memory_and_the_oldest_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_requests, "PATIENCE_S", 0.2)
    half = LIMIT // 2

    async def serve() -> tuple[list[Any], int, list[Any]]:
        bodies = RequestBodies(LIMIT)
        clients = [Stalled(half, half) for _ in range(40)]
        tasks = [
            asyncio.ensure_future(bodies.parse(request_of(client.receive), len))
            for client in clients
        ]
        small = await bodies.parse(request_of(Client([b"small"]).receive), len)
        waiting = await asyncio.gather(*tasks[15:], return_exceptions=True)
        held = bodies._held_bytes
        for client in clients:
            client.go_on.set()
        return waiting, held, [small, *await asyncio.gather(*tasks[:15])]

    refused, held, answered = asyncio.run(serve())
    assert {type(error) for error in refused} == {BodiesFull}
    assert held == 15 * half < http_requests.HELD_BODIES * LIMIT
    assert answered == [5, *[LIMIT] * 15]


def test_a_body_that_waits_goes_on_when_another_is_done() -> None:
    async def serve() -> list[int]:
        bodies = RequestBodies(LIMIT)
        clients = [Stalled(LIMIT - 1, 1) for _ in range(http_requests.HELD_BODIES + 4)]
        tasks = [
            asyncio.ensure_future(bodies.parse(request_of(client.receive), len))
            for client in clients
        ]
        for client in clients:
            await asyncio.sleep(0)
            client.go_on.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(serve()) == [LIMIT] * (http_requests.HELD_BODIES + 4)


def test_nothing_is_held_after_a_body_was_refused_or_its_client_has_gone() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def serve() -> int:
        bodies = RequestBodies(READ_AT_ONCE + 10)
        large = Client([bytes(READ_AT_ONCE + 1), bytes(20)])
        with pytest.raises(RequestRefused):
            await bodies.parse(request_of(large.receive), len)
        stalled = Stalled(READ_AT_ONCE + 1, 1)
        stalled.go_on.set()
        with pytest.raises(ZeroDivisionError):
            await bodies.parse(request_of(stalled.receive), lambda body: 1 // 0)
        with pytest.raises(ClientDisconnect):
            await bodies.parse(request_of(gone), len)
        return bodies._held_bytes

    assert asyncio.run(serve()) == 0


# Headers -----------------------------------------------------------------------------------------


def test_ids_are_new_each_time() -> None:
    ids, request = RequestIds("abc"), request_of(Client([b""]).receive)
    assert len({ids.choose(request) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("given", "kept"),
    [("mine-7", True), ("x" * 128, True), ("x" * 129, False), ("a\r\nset-cookie: b", False)],
)
def test_a_clients_own_id_is_kept_where_it_can_be_a_header(given: str, kept: bool) -> None:
    request = request_of(Client([b""]).receive, x_request_id=given)
    assert (RequestIds("abc").choose(request) == given) is kept


def test_a_header_of_our_own_may_have_256_bytes() -> None:
    fits = request_of(Client([b""]).receive, x_session_id="s" * 256)
    assert fits.own_header(b"x-session-id") == "s" * 256
    assert fits.own_header(b"x-service") is None
    longer = request_of(Client([b""]).receive, x_session_id="s" * 257)
    with pytest.raises(RequestRefused, match="x-session-id has 257 bytes, at most 256") as refused:
        longer.own_header(b"x-session-id")
    assert refused.value.status == 400
