"""HTTP/1.1 as uvicorn reads it, with limits on what a client sends and how long it takes.

uvicorn's protocol bounds neither the header of a request nor the time that one takes, and its
parser reads a long header in quadratic time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.connections import OpenConnections

PIECE_BYTES = 8 * 1024
"""Bytes that the parser is fed at once: the limits are checked after each piece."""

LINGER_S = 1.0
"""Seconds that a refused client has to read why, before its connection is cut."""

LINGER_BYTES = 1024 * 1024
"""What it may go on sending meanwhile; closing at once would lose the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may send, and how long it may take.

    Args:
        header_bytes: Of request line and fields; also of a trailer, and of what else stands
            between two bytes of a body.
        fields: Of a header or a trailer.
        waiting: Requests sent ahead on one connection.
        progress_bytes: Of a body that must arrive within `progress_s`.
        progress_s: Also the time that a header may take.
        reply_s: Within which a client must read some of a reply.
    """

    header_bytes: int = 32 * 1024
    fields: int = 100
    waiting: int = 64
    progress_bytes: int = 64 * 1024
    progress_s: float = 10.0
    reply_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reply to a request that the app never sees whole."""

    status: int
    why: str


INVALID = Refusal(400, "Invalid HTTP request received.")
TOO_SLOW = Refusal(408, "The request took too long to arrive.")
TOO_MANY = Refusal(429, "Too many requests were sent ahead on this connection.")
TOO_LARGE = Refusal(431, "The header or trailer of the request is too large.")

REQUEST_LINE, HEADER, BODY = range(3)
"""What the parser reads next; numbers, because an `Enum` costs each request half a microsecond."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools within `Limits`; it declines every protocol upgrade.

    A request that arrives whole costs it no timer. Callbacks of the parser name the parent, because
    `super` costs each request half a microsecond.
    """

    def __init__(
        self, *given: Any, limits: Limits, open_connections: OpenConnections, **named: Any
    ) -> None:
        super().__init__(*given, **named)
        self.limits = limits
        self.open_connections = open_connections
        self.headers: list[tuple[bytes, bytes]] = []
        self._part = REQUEST_LINE
        self._bytes_between = 0
        """Fed since the last byte of a body, or since the message began or ended.

        The piece in which that happened is not counted.
        """
        self._body_bytes = 0
        """Of the body since the deadline was set."""
        self._has_advanced = False
        """The deadline is due anew."""
        self._client_waited = False
        """Reading was paused since the deadline was set."""
        self._deadline: asyncio.TimerHandle | None = None
        self._reply_deadline: asyncio.TimerHandle | None = None
        self._breach = INVALID
        """What the parser's failure means."""
        self._refusal: Refusal | None = None
        self._bytes_after_refusal = 0

    # Connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_idle_time()
        self.open_connections.make_room(self.connections)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._stop_deadline()
        self._stop_reply_deadline()

    def find_wait_start(self) -> float | None:
        """Since when the client has kept us waiting, by the clock of the event loop."""
        if self._reply_deadline is not None:
            return self._reply_deadline.when() - self.limits.reply_s
        if self._deadline is not None and (self._part == BODY or not self._is_answering()):
            return self._deadline.when() - self.limits.progress_s
        if self.timeout_keep_alive_task is not None:
            return self.timeout_keep_alive_task.when() - self.timeout_keep_alive
        return None

    def timeout_keep_alive_handler(self) -> None:
        self.transport.close()
        self._watch_reply()

    def _start_idle_time(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _is_answering(self) -> bool:
        """Whether a request has no whole reply yet; the newest is answered last."""
        return self.cycle is not None and not self.cycle.response_complete

    # Reading ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if len(data) <= PIECE_BYTES:
            self._read_piece(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), PIECE_BYTES):
                self._read_piece(view[start : start + PIECE_BYTES])
        if self._refusal is not None:
            return
        if self._part != REQUEST_LINE or self._bytes_between:
            self._watch_progress()
            return
        if self._deadline is not None:
            self._stop_deadline()
        if self.cycle.response_complete:
            # The reply came before the body had ended.
            self._start_idle_time()

    def _read_piece(self, piece: bytes | memoryview) -> None:
        if self._refusal is not None:
            self._drop_piece(len(piece))
            return
        self._bytes_between += len(piece)
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            # The parser leaves the body unread: it reads the request once more without the upgrade.
            self._read_piece(self._write_header_without_upgrade() + bytes(piece[upgrade.args[0] :]))
        except HttpParserError:
            self._refuse(self._breach)
        else:
            if self._bytes_between > self.limits.header_bytes or (
                len(self.headers) > self.limits.fields
            ):
                self._refuse(TOO_LARGE)

    def _write_header_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        HttpToolsProtocol.on_message_begin(self)
        self._part = HEADER
        self._bytes_between = 0
        self._has_advanced = True

    def on_headers_complete(self) -> None:
        if (
            self._bytes_between + PIECE_BYTES > self.limits.header_bytes
            or len(self.headers) > self.limits.fields
            or len(self.pipeline) >= self.limits.waiting
        ):
            self._check_header()
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            # `_read_piece` has the request read once more.
            return
        HttpToolsProtocol.on_headers_complete(self)
        # Fields of a trailer are no header of the request.
        self.headers = []
        self._part = BODY
        self._bytes_between = 0
        self._has_advanced = True

    def _check_header(self) -> None:
        if len(self.pipeline) >= self.limits.waiting:
            self._breach = TOO_MANY
        elif (
            len(self.headers) > self.limits.fields
            or self._count_header_bytes() > self.limits.header_bytes
        ):
            self._breach = TOO_LARGE
        else:
            return
        raise ValueError(self._breach.why)

    def _count_header_bytes(self) -> int:
        """As the fields are usually written; blanks that may stand around a value do not count."""
        line = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n")
        fields = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return line + fields + len(b"\r\n")

    def on_body(self, body: bytes) -> None:
        HttpToolsProtocol.on_body(self, body)
        self._bytes_between = 0
        self._body_bytes += len(body)
        if self._body_bytes >= self.limits.progress_bytes:
            self._has_advanced = True

    def on_message_complete(self) -> None:
        if self._part == HEADER:
            # It asks for an upgrade, and is read again.
            return
        HttpToolsProtocol.on_message_complete(self)
        self.headers = []
        self._part = REQUEST_LINE
        self._bytes_between = 0

    # Deadlines of requests -------------------------------------------------------------------

    def _watch_progress(self) -> None:
        if self.flow.read_paused:
            self._client_waited = True
        if self._has_advanced or self._deadline is None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        self._stop_deadline()
        self._has_advanced = False
        self._client_waited = self.flow.read_paused
        self._body_bytes = 0
        self._deadline = self.loop.call_later(self.limits.progress_s, self._end_wait)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_wait(self) -> None:
        self._deadline = None
        if self._client_waits():
            self._set_deadline()
        elif self._part == REQUEST_LINE:
            self.transport.abort()
        else:
            self._refuse(TOO_SLOW)

    def _client_waits(self) -> bool:
        """Whether it is we who must act before the client can."""
        if self._client_waited:
            return True
        if not self._is_answering():
            return False
        if self._part == BODY:
            return self.cycle.waiting_for_100_continue
        # Line ends may come after a whole request.
        return self._part == REQUEST_LINE

    # Refusals --------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal) -> None:
        """Read no more from this client, and say why when earlier requests are answered."""
        self._refusal = refusal
        self._stop_deadline()
        self.open_connections.log_refusal(refusal.why)
        if not self._is_answering():
            self._close_with_reply(refusal, answered=self._part == BODY)
        elif self._part != BODY:
            self.flow.pause_reading()
        elif self.pipeline:
            self.pipeline.popleft()
            self.flow.pause_reading()
        elif self.cycle.response_started:
            self.transport.abort()
        else:
            # The app waits for a body that will not come.
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
            self._close_with_reply(refusal)

    def _close_with_reply(self, refusal: Refusal, *, answered: bool = False) -> None:
        """Write the reply unless the request was ``answered``, and cut the connection later."""
        if self.transport.is_closing():
            return
        if not answered:
            self.transport.write(self._write_reply(refusal))
        self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_S, self.timeout_keep_alive_handler)

    def _write_reply(self, refusal: Refusal) -> bytes:
        text = refusal.why.encode()
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        head = STATUS_LINE[refusal.status] + b"".join(b"%b: %b\r\n" % field for field in fields)
        return head + b"\r\n" + text

    def _drop_piece(self, size: int) -> None:
        self._bytes_after_refusal += size
        if self._bytes_after_refusal > LINGER_BYTES:
            self.transport.abort()

    # Replies ---------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        HttpToolsProtocol.on_response_complete(self)
        if self.timeout_keep_alive_task is None:
            if self.transport.is_closing():
                self._watch_reply()
        elif self._refusal is not None:
            self._unset_keepalive_if_required()
            self._close_with_reply(self._refusal)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reply()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reply_deadline()

    def _watch_reply(self) -> None:
        """Cut the connection where its client reads none of what is left to read."""
        self._stop_reply_deadline()
        unread = self.transport.get_write_buffer_size()
        if unread:
            self._reply_deadline = self.loop.call_later(
                self.limits.reply_s, self._check_reply, unread
            )

    def _check_reply(self, unread_before: int) -> None:
        if self.transport.get_write_buffer_size() < unread_before:
            self._watch_reply()
        else:
            self.transport.abort()

    def _stop_reply_deadline(self) -> None:
        if self._reply_deadline is not None:
            self._reply_deadline.cancel()
            self._reply_deadline = None
