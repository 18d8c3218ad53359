"""Bodies are read up to a cap; request ids are the client's own where they may be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mlops.errors import RequestRefused
from mlops.serving.http import Reply, RequestIds, read_body, send_reply

LIMIT = 10


def read(chunks: Sequence[bytes], stated: str | None = None) -> tuple[bytes, int]:
    """The body, and how many messages were taken for it."""
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        more = taken < len(chunks)
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": more}

    headers = {} if stated is None else {b"content-length": stated.encode()}
    return asyncio.run(read_body(receive, headers, LIMIT)), taken


@pytest.mark.parametrize("chunks", [[b"1234567890"], [b"12345", b"67890"], [b"", b"1", b""]])
def test_a_body_within_the_cap_is_read_whole(chunks: list[bytes]) -> None:
    assert read(chunks)[0] == b"".join(chunks)


@pytest.mark.parametrize(
    ("chunks", "stated"),
    [([b"x" * 11], None), ([b"x" * 6, b"x" * 6, b"x"], None), ([b""], "11")],
)
def test_a_larger_one_is_refused_as_413(chunks: list[bytes], stated: str | None) -> None:
    with pytest.raises(RequestRefused, match="at most 10 are read") as refused:
        read(chunks, stated)
    assert refused.value.status == 413


def test_a_client_that_disconnects_is_a_connection_error() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(ConnectionError):
        asyncio.run(read_body(receive, {}, LIMIT))


def test_ids_are_new_each_time() -> None:
    ids = RequestIds("abc")
    assert len({ids.choose({}) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("given", "kept"), [(b"mine-7", True), (b"x" * 129, False), (b"a\r\nset-cookie: b", False)]
)
def test_a_clients_own_id_is_kept_where_it_can_be_a_header(given: bytes, kept: bool) -> None:
    assert (RequestIds("abc").choose({b"x-request-id": given}) == given.decode()) is kept


@pytest.mark.parametrize("closing", [True, False])
def test_a_draining_replica_asks_the_connection_to_close(closing: bool) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(send_reply(send, Reply(200, b"{}"), request_id="r", closing=closing))
    headers = dict(sent[0]["headers"])
    assert headers[b"content-length"] == b"2"
    assert headers[b"x-request-id"] == b"r"
    assert (headers.get(b"connection") == b"close") is closing
