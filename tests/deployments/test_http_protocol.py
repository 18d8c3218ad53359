"""What one client sends, or does not send, is bounded in bytes, fields, requests and seconds."""

from __future__ import annotations

import logging

import pytest

from tests.deployments.wire import READ_BYTES, Server, on_clock, pass_time, request, settle

LIMIT = 32 * 1024
FED_AT_MOST = 64 * 1024
CHUNKED = "Transfer-Encoding: chunked"
ENDLESS = {
    "request line": b"GET /",
    "field name": b"GET / HTTP/1.1\r\n",
    "field value": b"GET / HTTP/1.1\r\na: ",
    "chunk size": request("/", CHUNKED, method="POST") + b"3\r\nabc\r\n0",
    "chunk extension": request("/", CHUNKED, method="POST") + b"3\r\nabc\r\n5;a=",
    "name in a trailer": request("/", CHUNKED, method="POST") + b"3\r\nabc\r\n0\r\n",
    "value in a trailer": request("/", CHUNKED, method="POST") + b"3\r\nabc\r\n0\r\na: ",
    "request line of a second request": request("/first") + b"GET /",
}


def header_of(size: int) -> bytes:
    """A request whose header has so many bytes, in one field."""
    plain = request("/", "a: ")
    return request("/", "a: " + "x" * (size - len(plain)))


# Size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [7, 1000, 8192, READ_BYTES])
@on_clock
async def test_a_header_up_to_the_limit_is_answered_however_it_arrives(at_once: int) -> None:
    wire = Server().connect()
    for _ in range(2):
        await wire.send(header_of(LIMIT), at_once=at_once)
    assert wire.statuses == [200, 200]
    assert wire.open


@pytest.mark.parametrize("at_once", [7, 1000, 8192, READ_BYTES])
@on_clock
async def test_a_header_of_one_byte_more_is_refused_however_it_arrives(at_once: int) -> None:
    wire = Server().connect()
    await wire.send(request("/first") + header_of(LIMIT + 1), at_once=at_once)
    assert wire.statuses == [200, 431]
    assert not wire.open


@pytest.mark.parametrize("begun", list(ENDLESS.values()), ids=list(ENDLESS))
@on_clock
async def test_no_endless_part_is_parsed_beyond_64_kb(begun: bytes) -> None:
    wire = Server().connect()
    digits = b"0" * 20_000_000
    await wire.send(begun + digits)
    assert wire.statuses[-1] == 431
    assert wire.closed
    assert wire.parser.fed - len(begun) < FED_AT_MOST


@pytest.mark.parametrize("line", [b"\r\n", b"a:b\r\n"])
@on_clock
async def test_endless_lines_are_no_way_around_the_limit(line: bytes) -> None:
    wire = Server().connect()
    begun = b"" if line == b"\r\n" else b"GET / HTTP/1.1\r\n"
    await wire.send(begun + line * 1_000_000)
    assert wire.statuses == [431]
    assert wire.closed
    assert wire.parser.fed < FED_AT_MOST


@on_clock
async def test_a_header_has_at_most_a_hundred_fields() -> None:
    wire = Server().connect()
    fields = [f"a{number}: 1" for number in range(99)]
    await wire.send(request("/", *fields))
    assert wire.statuses == [200]
    await wire.send(request("/", *fields, "one: more"))
    assert wire.statuses == [200, 431]


@on_clock
async def test_fields_of_a_trailer_are_bounded_and_reach_no_app() -> None:
    server = Server()
    wire = server.connect()
    begun = request("/", CHUNKED, method="POST") + b"3\r\nabc\r\n0\r\n"
    await wire.send(begun + b"x-session-id: 1\r\n" * 100 + b"\r\n")
    assert wire.statuses == [200]
    assert b"x-session-id" not in server.app.headers[0]
    assert server.app.bodies == [b"abc"]
    await wire.send(begun + b"x-session-id: 1\r\n" * 102)
    assert wire.statuses == [200, 431]


@on_clock
async def test_a_body_in_many_chunks_is_no_long_header() -> None:
    server = Server()
    wire = server.connect()
    chunks = b"1;a=b\r\nx\r\n" * 20_000
    await wire.send(request("/", CHUNKED, method="POST") + chunks + b"0\r\n\r\n")
    assert wire.statuses == [200]
    assert server.app.bodies == [b"x" * 20_000]


@on_clock
async def test_a_refused_client_is_told_why_before_its_connection_is_cut() -> None:
    wire = Server().connect()
    await wire.send(header_of(LIMIT + 1))
    head, _, text = wire.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close" in head
    assert text == b"The header or trailer of the request is too large."
    assert not wire.closed
    await pass_time(1.0)
    assert wire.closed


# Requests sent ahead -------------------------------------------------------------------------


@on_clock
async def test_requests_before_a_refused_one_are_answered_first() -> None:
    server = Server()
    wire = server.connect()
    server.app.may_answer.clear()
    await wire.send(request("/1") + request("/2") + b"GET / HTTP/9\r\n\r\n")
    assert wire.statuses == []
    assert wire.open
    server.app.may_answer.set()
    await settle()
    assert wire.statuses == [200, 200, 400]
    assert not wire.open


@on_clock
async def test_a_refused_body_behind_other_requests_is_not_given_to_the_app() -> None:
    server = Server()
    wire = server.connect()
    server.app.may_answer.clear()
    started = request("/3", CHUNKED, method="POST")
    await wire.send(request("/1") + request("/2") + started + b"nonsense\r\n")
    server.app.may_answer.set()
    await settle()
    assert wire.statuses == [200, 200, 400]
    assert server.app.disconnects == 0


@on_clock
async def test_only_so_many_requests_wait_for_their_answer_on_one_connection() -> None:
    server = Server(waiting=3)
    wire = server.connect()
    server.app.may_answer.clear()
    await wire.send(request("/") * 1000)
    assert len(wire.protocol.pipeline) == 3
    server.app.may_answer.set()
    await settle()
    assert wire.statuses == [200] * 4 + [429]
    assert not wire.open


# Time ----------------------------------------------------------------------------------------


@on_clock
async def test_each_header_has_ten_seconds_from_its_first_byte() -> None:
    wire = Server().connect()
    await pass_time(30.0)
    for path in ("/1", "/2"):
        for byte in request(path):
            await wire.send(bytes([byte]))
            await pass_time(0.2)
        await pass_time(30.0)
    assert wire.statuses == [200, 200]
    for byte in b"GET /3 HTT":
        assert wire.open
        await wire.send(bytes([byte]))
        await pass_time(1.0)
    assert wire.statuses == [200, 200, 408]
    assert wire.last_reply == b"The request took too long to arrive."
    assert not wire.open


@on_clock
async def test_a_body_must_advance_by_64_kb_in_ten_seconds() -> None:
    server = Server()
    wire = server.connect()
    await wire.send(request("/", method="POST", size=10**6))
    for _ in range(3):
        await wire.send(b"x" * 65_536)
        await pass_time(9.0)
    assert wire.open
    for _ in range(10):
        await wire.send(b"x" * 6_500)
        await pass_time(1.0)
    assert wire.statuses == [408]
    assert not wire.open
    assert server.app.disconnects == 1


@on_clock
async def test_a_slow_upload_that_advances_is_answered() -> None:
    server = Server()
    wire = server.connect()
    body = b"x" * 500_000
    await wire.send(request("/", method="POST", body=body)[: -len(body)])
    for start in range(0, len(body), 8_000):
        await wire.send(body[start : start + 8_000])
        await pass_time(1.0)
    assert wire.statuses == [200]
    assert server.app.bodies == [body]
    assert wire.open


@on_clock
async def test_bytes_between_chunks_are_no_progress_of_a_body() -> None:
    wire = Server().connect()
    await wire.send(request("/", CHUNKED, method="POST"))
    for _ in range(10):
        assert wire.open
        await wire.send(b"1;" + b"a" * 20_000 + b"\r\nx\r\n")
        await pass_time(1.0)
    assert wire.statuses == [408]


@on_clock
async def test_a_client_that_is_kept_waiting_is_not_cut_off() -> None:
    server = Server()
    wire = server.connect()
    server.app.may_read.clear()
    body = b"x" * 200_000
    whole = request("/", method="POST", body=body)
    await wire.send(whole[:100_000])
    assert not wire.transport.reading
    await pass_time(35.0)
    server.app.may_read.set()
    await pass_time(9.0)
    await wire.send(whole[100_000:])
    assert wire.statuses == [200]
    assert server.app.bodies == [body]


@on_clock
async def test_a_client_that_asks_to_be_told_to_continue_may_wait_for_that() -> None:
    server = Server()
    wire = server.connect()
    server.app.may_read.clear()
    await wire.send(request("/", "Expect: 100-continue", method="POST", size=3))
    await pass_time(35.0)
    assert wire.statuses == []
    server.app.may_read.set()
    await settle()
    assert wire.statuses == [100]
    await wire.send(b"abc")
    assert wire.statuses == [100, 200]


@on_clock
async def test_a_client_that_is_told_to_continue_and_does_not_is_cut_off() -> None:
    wire = Server().connect()
    await wire.send(request("/", "Expect: 100-continue", method="POST", size=3))
    await pass_time(20.0)
    assert wire.statuses == [100, 408]
    assert not wire.open


@on_clock
async def test_a_request_that_is_being_answered_has_no_deadline() -> None:
    server = Server()
    wire = server.connect()
    server.app.may_answer.clear()
    await wire.send(request("/") + b"\r\n")
    await wire.send(b"\r\n")
    await pass_time(60.0)
    server.app.may_answer.set()
    await settle()
    assert wire.statuses == [200]


@on_clock
async def test_an_idle_connection_is_closed_without_a_word_after_the_keep_alive_time() -> None:
    server = Server()
    silent, served, endless = (server.connect() for _ in range(3))
    await served.send(request("/"))
    await pass_time(74.0)
    await endless.send(b"\r\n")
    assert silent.open
    assert served.open
    await pass_time(10.0)
    assert silent.closed
    assert served.closed
    assert endless.closed
    assert silent.transport.written == endless.transport.written == b""
    assert served.statuses == [200]


async def refuse_before_the_body(scope: object, receive: object, send: object) -> None:
    """An app that answers at once."""
    assert callable(send)
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@on_clock
async def test_a_body_that_is_answered_before_its_end_must_still_end() -> None:
    wire = Server(refuse_before_the_body).connect()
    await wire.send(request("/", method="POST", size=100))
    for _ in range(20):
        await wire.send(b"x")
        await pass_time(1.0)
    assert wire.statuses == [413], "a second reply would be taken for that of the next request"
    assert not wire.open


@on_clock
async def test_after_a_body_that_was_answered_early_the_connection_is_idle_again() -> None:
    wire = Server(refuse_before_the_body).connect()
    await wire.send(request("/", method="POST", size=100))
    await wire.send(b"x" * 100)
    await pass_time(70.0)
    assert wire.open
    await wire.send(request("/", method="POST", size=100) + b"x" * 100)
    assert wire.statuses == [413, 413]
    await pass_time(80.0)
    assert wire.closed


# Replies that nobody reads -------------------------------------------------------------------


@on_clock
async def test_some_of_a_reply_must_be_read_within_a_minute() -> None:
    wire = Server().connect()
    wire.transport.unread = 1_000_000
    wire.protocol.pause_writing()
    for _ in range(5):
        await pass_time(59.0)
        assert not wire.transport.aborted
        wire.transport.unread -= 1
    await pass_time(121.0)
    assert wire.transport.aborted


@on_clock
async def test_a_reply_that_is_read_in_the_end_has_no_deadline() -> None:
    wire = Server().connect()
    await wire.send(request("/"))
    wire.transport.unread = 100_000
    wire.protocol.pause_writing()
    await pass_time(59.0)
    wire.transport.unread = 0
    wire.protocol.resume_writing()
    await pass_time(10.0)
    assert wire.open


@pytest.mark.parametrize(
    "sent", [request("/"), request("/", "Connection: close"), request("/") + b"nonsense\r\n\r\n"]
)
@on_clock
async def test_no_connection_outlives_a_client_that_never_reads(sent: bytes) -> None:
    wire = Server().connect()
    wire.transport.unread = 50_000
    await wire.send(sent)
    assert wire.statuses[0] == 200
    await pass_time(30.0)
    assert not wire.transport.aborted, "a slow client still reads"
    await pass_time(120.0)
    assert wire.transport.aborted


# Upgrades and nonsense -----------------------------------------------------------------------

WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
HTTP_2 = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQC")


@pytest.mark.parametrize("fields", [WEBSOCKET, HTTP_2], ids=["websocket", "h2c"])
@pytest.mark.parametrize("at_once", [1, READ_BYTES])
@on_clock
async def test_an_upgrade_is_passed_over_and_the_request_is_answered(
    fields: tuple[str, ...], at_once: int
) -> None:
    server = Server()
    wire = server.connect()
    body = b"x" * 20_000
    asked = [
        request("/1", *fields),
        request("/2", *fields, method="POST", body=body),
        request("/3", *fields, CHUNKED, method="POST") + b"3\r\nabc\r\n0\r\n\r\n",
        request("/4", method="POST", body=b"z"),
    ]
    await wire.send(b"".join(asked), at_once=at_once)
    assert wire.statuses == [200] * 4
    assert server.app.bodies == [b"", body, b"abc", b"z"]
    assert wire.open


@on_clock
async def test_many_upgrades_sent_ahead_are_all_answered() -> None:
    wire = Server().connect()
    await wire.send(request("/", "Connection: upgrade", "Upgrade: h2c") * 64)
    await settle(1000)
    assert wire.statuses == [200] * 64
    await wire.send(request("/", "Connection: upgrade", "Upgrade: h2c") * 1000)
    await settle(1000)
    assert wire.statuses[-1] == 429


@on_clock
async def test_an_upgrade_with_a_long_header_is_refused() -> None:
    wire = Server().connect()
    await wire.send(request("/", *WEBSOCKET, "a: " + "x" * LIMIT))
    assert wire.statuses == [431]


@pytest.mark.parametrize(
    "sent",
    [b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03"],
)
@on_clock
async def test_what_is_no_request_is_400(sent: bytes) -> None:
    wire = Server().connect()
    await wire.send(sent)
    assert wire.transport.written == (
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 30\r\nconnection: close\r\n\r\nInvalid HTTP request received."
    )
    assert not wire.open


@on_clock
async def test_refusals_are_logged_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(connections=1000)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            await server.connect().send(b"nonsense\r\n\r\n")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a request: Invalid HTTP request received."
    ]


@on_clock
async def test_a_flood_after_a_refusal_is_cut_off() -> None:
    wire = Server().connect()
    await wire.send(header_of(LIMIT + 1))
    await wire.send(b"x" * 1_000_000)
    assert not wire.closed, "the reply is on its way"
    await wire.send(b"x" * 1_000_000)
    assert wire.closed
