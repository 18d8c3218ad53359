"""Mutated bytes at a real serving process: heads, chunks and bodies, whole, cut and garbled."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from deployments.processes import ServerProcess, free_port
from tests.fuzz.answers import find_fault
from tests.fuzz.mutations import Mutator
from tests.fuzz.requests import RequestMaker
from tests.mlops.serving.asgi_client import split_body
from tests.mlops.serving.stored_requests import StoredRequest

AT_ONCE = 16
"""Connections that are open at the same time."""

PATIENCE_S = 20.0
"""Seconds in which a whole request is answered; far above any answer on a busy machine."""

LINGER_S = 0.3
"""Seconds that a connection with half a request is kept open."""

MEMORY_MB = 300.0
"""The process may have grown by this at the end."""

ODD_HEADS: Sequence[bytes] = (
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"X-Folded: a\r\n b\r\n",
    b"X-Bare: a\n",
    b"X Space: a\r\n",
    b": empty\r\n",
    b"X-Nul: \x00\r\n",
    b"Host: a\r\nHost: b\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"
    b"Sec-WebSocket-Version: 13\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP\r\n",
    b"X-Long: " + b"a" * 9000 + b"\r\n",
    b"X-Many: 1\r\n" * 90,
)


@dataclass
class WireResults:
    """What came back; ``findings`` says what must not."""

    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RawRequest:
    """Bytes for one connection; ``whole`` where they are a right request that asks to close."""

    pieces: Sequence[bytes]
    whole: bool


@contextmanager
def serve(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[ServerProcess, int]]:
    """A serving process of a template's installation, ready to answer, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "deployments.replica", "--port", str(port)]
    server = ServerProcess("replica", command, f"http://127.0.0.1:{port}/readyz")
    environment = {**os.environ, "MLOPS_BASE_PATH": str(folder), **settings}
    server.start(environment, folder / "replica.log")
    try:
        server.wait_until_up(within_s=120.0)
        yield server, port
    finally:
        server.stop()


def fuzz_server(port: int, maker: RequestMaker, numbers: range) -> WireResults:
    """Send the raw requests of these numbers, `AT_ONCE` at a time."""
    results, waiting = WireResults(), iter(numbers)

    async def work() -> None:
        for number in waiting:
            fault = await _send(port, make_raw(maker, number), results)
            if fault is not None:
                results.findings.append(f"raw {number}: {fault}")

    async def send_all() -> None:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    asyncio.run(send_all())
    return results


def look_at_process(server: ServerProcess, before_mb: float) -> list[str]:
    """What does not hold when all is sent: the process lives, answers, and has not grown."""
    assert server.process is not None
    assert server.log is not None
    if not server.is_up():
        return [f"the process has ended or is not ready any more; see {server.log}"]
    findings, after_mb = [], resident_mb(server.process.pid)
    if after_mb - before_mb > MEMORY_MB:
        findings.append(f"the process grew from {before_mb:.0f} to {after_mb:.0f} MB")
    text = server.log.read_text(errors="replace")
    if "Traceback" in text:
        last = text[text.rindex("Traceback") :][:3000]
        findings.append(f"{text.count('Traceback')} tracebacks in the log, the last: {last}")
    return findings


def resident_mb(pid: int) -> float:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_raw(maker: RequestMaker, number: int) -> RawRequest:
    """The raw request of a number."""
    random = Random(f"{maker.seed}:raw:{number}")
    mutator = Mutator(random)
    request = maker.make(number)
    kind = random.randrange(10)
    if kind < 5:
        pieces = _cut(random, write_http(request))
        # An answer that is sent before the body has come may be lost by a reset.
        return RawRequest(pieces, whole=_is_plain(request) and len(pieces) == 1)
    if kind == 5:
        return RawRequest([random.randbytes(random.choice((1, 100, 5000)))], whole=False)
    if kind == 6:
        odd = random.choice(ODD_HEADS)
        raw = write_http(request).replace(b"\r\n", b"\r\n" + odd, 1)
        return RawRequest(_cut(random, raw), whole=False)
    raw = write_http(request)
    if kind == 7:
        return RawRequest([raw[: random.randrange(len(raw))]], whole=False)
    if kind == 8:
        return RawRequest([raw.replace(b"Connection: close\r\n", b"", 1) * 5], whole=False)
    return RawRequest(_cut(random, mutator.mutate_bytes(raw)), whole=False)


def _is_plain(request: StoredRequest) -> bool:
    """Whether a parser of HTTP must understand it."""
    texts = [request.path, *request.headers.values(), request.content_type or ""]
    return (
        request.method in ("GET", "POST")
        and all(text.isascii() and text.isprintable() for text in texts)
        and " " not in request.path
        and not {"expect", "content-length"} & request.headers.keys()
    )


def _cut(random: Random, raw: bytes) -> list[bytes]:
    places = sorted(random.randrange(len(raw) + 1) for _ in range(random.choice((0, 1, 3))))
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


def write_http(request: StoredRequest) -> bytes:
    """A request as it goes over the wire; chunked where it names chunks."""
    lines = [
        f"{request.method} {request.path} HTTP/1.1".encode("latin-1", "replace"),
        b"Host: replica",
        b"Connection: close",
    ]
    headers = dict(request.headers)
    if request.content_type is not None:
        headers["content-type"] = request.content_type
    lines += [f"{name}: {value}".encode("latin-1", "replace") for name, value in headers.items()]
    if not request.chunks:
        if "content-length" not in headers:
            lines.append(b"Content-Length: %d" % len(request.body))
        return b"\r\n".join([*lines, b"", request.body])
    lines.append(b"Transfer-Encoding: chunked")
    chunks = [chunk for chunk in split_body(request) if chunk]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"\r\n".join([*lines, b"", framed + b"0\r\n\r\n"])


async def _send(port: int, raw: RawRequest, results: WireResults) -> str | None:
    """Send one connection's bytes, and say what is wrong with what came back."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()
    try:
        with suppress(ConnectionError):
            for piece in raw.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        patience = PATIENCE_S if raw.whole else LINGER_S
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(patience):
                while part := await reader.read(65_536):
                    got += part
    finally:
        writer.close()
    if raw.whole and not got:
        return f"no answer to a whole request in {time.monotonic() - began:.1f} s"
    return _judge(bytes(got), results)


def _judge(got: bytes, results: WireResults) -> str | None:
    """Look at each answer that came back on a connection."""
    while got:
        head, separator, rest = got.partition(b"\r\n\r\n")
        if not separator:
            return f"half a head: {head[:200]!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if status == 100:
            got = rest
            continue
        length = int(headers.get("content-length", len(rest)))
        results.statuses[status] += 1
        # An answer to HEAD has a length and no body.
        body = b"" if rest[:5] == b"HTTP/" else rest[:length]
        fault = find_fault(status, headers, body) if len(body) == length else None
        if fault is not None or (status >= 500 and status not in (501, 503)):
            return fault or f"{status}"
        got = rest[len(body) :]
    return None
