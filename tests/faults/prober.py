"""A client at a steady rate, and the simple balancer in front of it.

It holds keep-alive connections to every replica, alternates between those whose `/readyz`
answers 200, and tries a request that got no answer once more, on another replica. What became
of each request is one JSON line; so is each change of a replica's readiness, and each newest
forecast that a replica published.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECK_S = 0.1
FORECAST_S = 0.5
PATIENCE_S = 30.0
FLUSH_S = 0.1
MOST_UNDER_WAY = 64


class NoAnswer(Exception):
    """What a client sees of a process that is gone: refused, closed, or silent."""


@dataclass(slots=True)
class Answer:
    """A response; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        except OSError as error:
            raise NoAnswer("refused") from error

    async def ask(self, request: bytes) -> Answer:
        """Raises: NoAnswer: saying how it went wrong."""
        try:
            self.writer.write(request)
            async with asyncio.timeout(PATIENCE_S):
                return await self._read()
        except TimeoutError as error:
            raise NoAnswer("silent") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NoAnswer("closed") from error

    async def _read(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

    def close(self) -> None:
        self.writer.close()


def render(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """A request."""
    lines = [f"{method} {path} HTTP/1.1", "host: replica", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Target:
    """One replica as the balancer knows it."""

    name: str
    port: int
    ready: bool = False
    idle: list[Connection] = field(default_factory=list)

    async def ask(self, request: bytes) -> Answer:
        """On a connection that is open, or a new one.

        Raises:
            NoAnswer: saying how it went wrong.
        """
        connection = self._open() or await Connection.to(self.port)
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self.idle.append(connection)
        return answer

    def _open(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.reader.at_eof():
                return connection
            connection.close()
        return None

    def leave(self) -> None:
        """Send nothing more there, until it is ready again."""
        self.ready = False
        while self.idle:
            self.idle.pop().close()


class Prober:
    """Sends, watches and writes down until it is told to stop."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.service = str(given["service"])
        self.rate = float(given["rate"])
        self.sessions = int(given["sessions"])
        self.targets = [Target(name, port) for name, port in given["replicas"].items()]
        self.bodies: Sequence[bytes] = Path(given["bodies"]).read_bytes().splitlines()
        self.out = Path(given["results"]).open("a")  # noqa: SIM115 - open as long as we live
        self.stop = asyncio.Event()
        self.turn = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        beside = [asyncio.create_task(self._watch(target)) for target in self.targets]
        beside += [asyncio.create_task(self._follow(target)) for target in self.targets]
        beside.append(asyncio.create_task(self._flush()))
        await self._send()
        for task in beside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.out.close()

    async def _send(self) -> None:
        """At a steady rate, whatever becomes of the requests before: as many as are due."""
        under_way: set[asyncio.Task[None]] = set()
        while not any(target.ready for target in self.targets):
            await asyncio.sleep(CHECK_S)
        before, due, number = time.monotonic(), 0.0, 0
        while not self.stop.is_set():
            now = time.monotonic()
            due, before = due + (now - before) * self.rate, now
            room = MOST_UNDER_WAY - len(under_way)
            for _ in range(min(int(due), room)):
                task = asyncio.create_task(self._one(number))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                number += 1
            # What a starved machine does not manage to send is not sent later in a heap.
            due %= 1.0
            await asyncio.sleep(1 / self.rate)
        await asyncio.gather(*under_way)

    async def _one(self, number: int) -> None:
        key = f"session-{number % self.sessions}" if self.sessions else None
        headers = {"content-type": "application/json"} | ({"x-session-id": key} if key else {})
        request = render(
            "POST",
            f"/services/{self.service}/invocations",
            self.bodies[number % len(self.bodies)],
            headers,
        )
        first = self._next()
        line = {"kind": "request", "n": number, "key": key, **await self._tried(first, request)}
        if "failed" in line:
            others = [one for one in self.targets if one is not first]
            second = next((one for one in others if one.ready), others[0] if others else first)
            line["retry"] = await self._tried(second, request)
        self._write(line)

    def _next(self) -> Target:
        able = [one for one in self.targets if one.ready] or self.targets
        self.turn += 1
        return able[self.turn % len(able)]

    async def _tried(self, target: Target, request: bytes) -> dict[str, Any]:
        began = time.monotonic()
        told: dict[str, Any] = {"replica": target.name, "at": began}
        try:
            answer = await target.ask(request)
        except NoAnswer as error:
            target.leave()
            told["failed"] = str(error)
        else:
            told |= {"status": answer.status, **_named(answer)}
            if answer.status != 200:
                told["body"] = answer.body.decode(errors="replace")[:300]
        return told | {"until": time.monotonic()}

    async def _watch(self, target: Target) -> None:
        """In rotation while it says that it is ready."""
        request = render("GET", "/readyz")
        before = None
        while True:
            try:
                status = str((await target.ask(request)).status)
            except NoAnswer as error:
                status = str(error)
            if status == "200":
                target.ready = True
            else:
                target.leave()
            if status != before:
                self._write({"kind": "ready", "replica": target.name, "status": status,
                             "at": time.monotonic()})  # fmt: skip
            before = status
            await asyncio.sleep(CHECK_S)

    async def _follow(self, target: Target) -> None:
        """Write down every newest forecast that is published."""
        request = render("GET", f"/services/{self.service}/forecast")
        before = None
        while True:
            await asyncio.sleep(FORECAST_S)
            if not target.ready:
                continue
            try:
                answer = await target.ask(request)
            except NoAnswer:
                continue
            if answer.body != before:
                before = answer.body
                self._write({"kind": "forecast", "replica": target.name, "at": time.monotonic(),
                             "status": answer.status, **json.loads(answer.body)})  # fmt: skip

    async def _flush(self) -> None:
        while True:
            self.out.flush()
            await asyncio.sleep(FLUSH_S)

    def _write(self, line: Mapping[str, Any]) -> None:
        self.out.write(f"{json.dumps(line)}\n")


def _named(answer: Answer) -> dict[str, Any]:
    headers = answer.headers
    return {
        "version": headers.get("x-model-version"),
        "variant": headers.get("x-variant"),
        "generation": int(headers.get("x-route-generation", 0)),
    }


def main(given: Mapping[str, Any]) -> None:
    """Probe until SIGTERM."""
    asyncio.run(Prober(given).run())
