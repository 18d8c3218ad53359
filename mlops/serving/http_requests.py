"""Reads requests: their headers, and their bodies, each within a bound.

A small body is parsed in the event loop. A large one is parsed in a thread, one after the other,
because that takes milliseconds to seconds; while it is received and waits, its bytes count towards
a bound that all large bodies share. A body in gzip or deflate may have as many bytes unpacked as a
plain one.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from mlops.errors import BodiesFull, RequestRefused

T = TypeVar("T")

HEADER_BYTES = 256
"""Longest value of a header of our own: no service, version or session needs more."""

READ_AT_ONCE = 64 * 1024
"""Larger bodies are parsed in a thread: parsing would block the event loop for milliseconds."""

HELD_BODIES = 8
"""So many bodies of the largest size may be in memory together."""

PATIENCE_S = 5.0
"""Seconds that a large body waits for others to be done, before it is refused."""

_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_TAKEN = "gzip, deflate"


class HttpRequest(Request):
    """A request; where a header is sent several times, the last one counts."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        # Starlette walks through all headers for each name.
        self._values: dict[bytes, bytes] = dict(scope["headers"])
        self.body_is_left = b"content-length" in self._values

    def header(self, name: bytes) -> str | None:
        """A header as text, by its name in lower case; None where the client did not send it."""
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")

    def own_header(self, name: bytes) -> str | None:
        """A header that this project defines.

        Raises:
            RequestRefused: when it has more than `HEADER_BYTES`.
        """
        value = self.header(name)
        if value is not None and len(value) > HEADER_BYTES:
            raise RequestRefused(
                400,
                "INVALID_PARAMETER_VALUE",
                f"{name.decode()} has {len(value):,} bytes, at most {HEADER_BYTES} are read; send "
                "a shorter one",
            )
        return value


class RequestIds:
    """Chooses the id of each request.

    Args:
        prefix: Begins the ids that are made here; unique to this process.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._next = count()

    def choose(self, request: HttpRequest) -> str:
        """The client's ``x-request-id`` where it is short printable ASCII, else a new id."""
        given = request.header(b"x-request-id")
        if given is not None and len(given) <= 128 and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._next):x}"


class RequestBodies:
    """Reads and parses the bodies of all requests of a replica.

    Args:
        limit: Bytes that a body may have, received and unpacked.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="parse-body")
        self._rest_until = 0.0
        self._held: dict[HttpRequest, int] = {}
        self._held_bytes = 0
        self._released = asyncio.Event()

    async def parse(self, request: HttpRequest, parse: Callable[[bytes], T]) -> T:
        """Read the body of a request, unpack it, and return what ``parse`` makes of it.

        Raises:
            RequestRefused: 413 for a body over the limit; where ``content-length`` says so, nothing
                is read. 415 for a coding that is not unpacked here, 400 for a damaged body, and
                what ``parse`` raises.
            BodiesFull: when large bodies fill the memory that they may have.
            ClientDisconnect: when the client has disconnected.
        """
        coding = find_coding(request)
        try:
            body = await self._read(request)
            if len(body) <= READ_AT_ONCE:
                plain = unpack(body, coding, READ_AT_ONCE)
                if len(plain) <= READ_AT_ONCE:
                    return parse(plain)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._parser, self._parse_large, body, coding, parse)
        finally:
            self._release(request)

    async def skip_small(self, request: HttpRequest) -> None:
        """Read a small body that no handler has read.

        A reply that is sent before the body has come may be lost: where the connection is closed
        after it, what the client goes on sending resets the connection.

        Raises:
            ClientDisconnect: when the client has disconnected.
        """
        stated = request.header(b"content-length") or ""
        small = stated.isdecimal() and 0 < int(stated) <= min(READ_AT_ONCE, self.limit)
        # A client that expects 100 has not sent its body, and need not.
        if small and request.header(b"expect") is None:
            await self._read(request)

    def _parse_large(self, body: bytes, coding: str | None, parse: Callable[[bytes], T]) -> T:
        # Decoding keeps the interpreter from all other requests. After each body they have it for
        # as long as that one did.
        time.sleep(max(0.0, self._rest_until - time.monotonic()))
        began = time.monotonic()
        try:
            plain = unpack(body, coding, self.limit)
            if len(plain) > self.limit:
                raise _too_large("the unpacked body", len(plain), self.limit)
            return parse(plain)
        finally:
            ended = time.monotonic()
            self._rest_until = ended + (ended - began)

    async def _read(self, request: HttpRequest) -> bytes:
        stated = request.header(b"content-length")
        if stated is not None and stated.isdecimal() and int(stated) > self.limit:
            raise _too_large("the body", int(stated), self.limit)
        # An array, because a list of chunks of one byte takes 40 times their size.
        body = bytearray()
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                raise _too_large("the body", len(body), self.limit)
            if len(body) > READ_AT_ONCE:
                await self._hold(request, len(body))
        request.body_is_left = False
        return bytes(body)

    async def _hold(self, request: HttpRequest, size: int) -> None:
        """Note how large a body is, and wait until there is room for more of it.

        Without room only the oldest body may grow, so that one always ends.
        """
        self._held_bytes += size - self._held.get(request, 0)
        self._held[request] = size
        room = HELD_BODIES * self.limit
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._held_bytes >= room and request is not next(iter(self._held)):
                    await self._released.wait()
        except TimeoutError:
            raise BodiesFull(held=self._held_bytes, limit=room) from None

    def _release(self, request: HttpRequest) -> None:
        size = self._held.pop(request, None)
        if size is not None:
            self._held_bytes -= size
            self._released.set()
            self._released = asyncio.Event()


def find_coding(request: HttpRequest) -> str | None:
    """How the body of a request is packed; None for a plain one.

    Raises:
        RequestRefused: 415 for a coding, or several, that are not unpacked here.
    """
    if request.header(b"content-encoding") is None:
        return None
    given = ",".join(request.headers.getlist("content-encoding"))
    codings = [name for part in given.split(",") if (name := part.strip().lower())]
    packed = [name for name in codings if name != "identity"]
    if not packed:
        return None
    if len(packed) > 1 or packed[0] not in _CODINGS:
        raise RequestRefused(
            415,
            "BAD_REQUEST",
            f"content-encoding {given[:100]!r} is not unpacked here; send one of {_TAKEN}, or the "
            "plain body without this header",
            headers=((b"accept-encoding", _TAKEN.encode()),),
        )
    return packed[0]


def unpack(body: bytes, coding: str | None, limit: int) -> bytes:
    """The plain body: whole, or its first ``limit + 1`` bytes or more where it is larger.

    Raises:
        RequestRefused: when the body is damaged.
    """
    if coding is None:
        return body
    bits = _CODINGS[coding]
    if bits == _ZLIB and not _has_zlib_header(body):
        # Some clients send deflate without the header that RFC 9110 asks for.
        bits = _RAW
    unpacker = zlib.decompressobj(bits)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise _damaged(coding, str(error).rpartition(": ")[2]) from error
    if len(plain) <= limit:
        if not unpacker.eof:
            raise _damaged(coding, "it ends too early")
        if unpacker.unused_data:
            raise _damaged(coding, f"{len(unpacker.unused_data):,} bytes follow its end")
    return plain


def _has_zlib_header(body: bytes) -> bool:
    """Whether the first two bytes are those of RFC 1950: method 8, and a multiple of 31."""
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _damaged(coding: str, why: str) -> RequestRefused:
    return RequestRefused(
        400,
        "BAD_REQUEST",
        f"the body cannot be unpacked as {coding} ({why}); send it whole, as its content-encoding "
        "says",
    )


def _too_large(what: str, size: int, limit: int) -> RequestRefused:
    return RequestRefused(
        413,
        "INVALID_PARAMETER_VALUE",
        f"{what} has {size:,} bytes or more, at most {limit:,} are read; send fewer windows a "
        "request (SERVING_MAX_BODY_MB sets the limit)",
    )
