"""ASGI without a framework: the request, the reply, and what moves them over the wire.

There is no framework because its routing and models cost more than a network's forecast.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

from mlops.errors import RequestRefused

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request with its whole body; header names are in lower case."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    id: str

    def header(self, name: bytes) -> str | None:
        """A header as text; None where the client did not send it."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    Args:
        service: Label of the metrics, as is ``variant``.
        noted: Fields of the request log; without any the request is not logged.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()
    service: str = "-"
    variant: str = "-"
    noted: dict[str, Any] = field(default_factory=dict)


class RequestIds:
    """Chooses the id of each request.

    Args:
        prefix: Begins the ids that are made here; unique to this process.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._next = count()

    def choose(self, headers: dict[bytes, bytes]) -> str:
        """The client's ``x-request-id`` where it is short printable ASCII, else a new id."""
        given = headers.get(b"x-request-id")
        if given is not None and len(given) <= 128:
            text = given.decode("latin-1")
            if text.isascii() and text.isprintable():
                return text
        return f"{self._prefix}-{next(self._next):x}"


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """Read the whole body of a request.

    Args:
        limit: Bytes that a body may have.

    Raises:
        RequestRefused: 413 for a larger body; where ``content-length`` says so, nothing is read.
        ConnectionError: when the client has disconnected.
    """
    stated = headers.get(b"content-length")
    if stated is not None and stated.isdigit() and int(stated) > limit:
        raise _too_large(int(stated), limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ConnectionError("the client has gone")
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(len(body), limit)
        return body
    chunks = [message.get("body", b"")]
    size = len(chunks[0])
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has gone")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise _too_large(size, limit)
    return b"".join(chunks)


async def send_reply(send: Send, reply: Reply, *, request_id: str, closing: bool) -> None:
    """Send status, headers and body.

    Args:
        closing: Ask the client to close the connection, because this replica is ending.
    """
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request_id.encode("latin-1")),
        *reply.headers,
    ]
    if closing:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _too_large(size: int, limit: int) -> RequestRefused:
    return RequestRefused(
        413,
        "INVALID_PARAMETER_VALUE",
        f"the body has {size:,} bytes or more, at most {limit:,} are read; send fewer windows a "
        "request (SERVING_MAX_BODY_MB sets the limit)",
    )
