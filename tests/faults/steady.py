"""Clients in the test's own process: one asks for each request once, one over and over."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from itertools import cycle

from tests.bar_forms import Form
from tests.faults.prober import Answer, Connection, NoAnswer, render

PAUSE_S = 0.005


def request_of(form: Form, service: str) -> bytes:
    """The bytes of a request."""
    return render("POST", form.path(service), form.body, form.headers)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection that is closed when the block ends."""
    connection = await Connection.to(port)
    try:
        yield connection
    finally:
        connection.close()
        with suppress(OSError):
            await connection.writer.wait_closed()


def ask_each(port: int, requests: Sequence[bytes], *, connections: int = 16) -> list[Answer]:
    """Ask for each request over a few connections; the answers in their order."""
    waiting = list(enumerate(requests))[::-1]
    answers: dict[int, Answer] = {}

    async def client() -> None:
        while waiting:
            async with connected(port) as connection:
                while waiting:
                    number, request = waiting.pop()
                    answers[number] = answer = await connection.ask(request)
                    if answer.headers.get("connection") == "close":
                        break

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(min(connections, len(requests)))))

    asyncio.run(clients())
    return [answers[number] for number in range(len(requests))]


class Steady:
    """Asks while the block of `asking` lasts; ``seen`` counts name, status and version."""

    def __init__(self, ports: Sequence[int], requests: Mapping[str, bytes]) -> None:
        self.ports = ports
        self.requests = requests
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self._stop = threading.Event()

    @contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=lambda: asyncio.run(self._ask()))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    async def _ask(self) -> None:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connected(port)) for port in self.ports]
            for connection, name in zip(cycle(connections), cycle(self.requests), strict=False):
                if self._stop.is_set():
                    return
                try:
                    answer = await connection.ask(self.requests[name])
                except NoAnswer as error:
                    self.seen[name, str(error), ""] += 1
                    return
                version = answer.headers.get("x-model-version", answer.body.decode()[:200])
                self.seen[name, str(answer.status), version] += 1
                await asyncio.sleep(PAUSE_S)
