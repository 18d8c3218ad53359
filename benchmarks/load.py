"""Many clients in one process, each on a kept-alive connection; they check every answer.

``python -m benchmarks.load`` reads one `Load` as JSON and prints its `Report`. Without a rate a
client asks again as soon as it is answered (a closed loop). With one, requests are due at even
times whether or not the server keeps up, and their latency counts from when they were due.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
TOLERANCE = 1e-6
"""Allowed difference from the expected number, relative where that is above one."""

READ_BYTES = 65_536
LOOK_S = 0.05
"""Longest time between two looks at the clock while no answer arrives."""

REST_S = 0.05
"""Seconds that a client waits after its connection failed."""

KNOWN_BODIES = 10_000
"""Bodies kept as checked, so that equal ones are not parsed again."""

NAMES = ("predictions", "forecast", "output")
"""Names under which servers put the forecast."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A whole HTTP request, and the numbers that are right answers."""

    text: str
    right: tuple[float, ...]

    @classmethod
    def post(cls, path: str, body: Any, *right: float) -> Ask:
        """A POST of JSON on a kept-alive connection."""
        text = json.dumps(body, separators=(",", ":"))
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        return cls(f"{head}Content-Length: {len(text.encode())}\r\n\r\n{text}", right)

    @classmethod
    def get(cls, path: str, *right: float) -> Ask:
        return cls(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who asks what, how often and how long.

    ``seconds`` are counted after ``warm_up_s``; ``rate`` is in requests a second over all
    connections (None: a closed loop); ``core`` is where the clients run (None: anywhere).
    """

    port: int
    asks: Sequence[Ask]
    connections: int
    seconds: float
    warm_up_s: float = 1.0
    rate: float | None = None
    core: int | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it; latencies in seconds.

    ``answered`` counts the right answers that came in the counted seconds. ``failures`` counts by
    reason everything that was no right answer, warm-up included; ``first`` has an example of each.
    ``busy`` is the share of a core that the clients took.
    """

    answered: int
    rate: float
    p50: float
    p99: float
    worst: float
    busy: float
    failures: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def __str__(self) -> str:
        examples = "; ".join(
            f"{n} {reason}: {self.first[reason]}" for reason, n in self.failures.items()
        )
        wrong = f", {self.failed} FAILED ({examples})" if self.failed else ""
        if not self.answered:
            return f"no right answer in time{wrong}"
        return f"{self.rate:,.0f}/s, median {self.p50 * 1e3:.2f} ms{wrong}"


class Running:
    """The process in which the clients run."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdin is not None
        with self._process.stdin as given:
            given.write(json.dumps(asdict(load)))
        self._process.stdin = None

    def report(self) -> Report:
        """Wait for the end of the load.

        Raises:
            RuntimeError: when the clients themselves died.
        """
        said, _ = self._process.communicate()
        if self._process.wait():
            raise RuntimeError(f"the load generator ended with {self._process.returncode}")
        return Report(**json.loads(said))

    def stop(self) -> None:
        """Kill the process before the load ends."""
        self._process.kill()


def measure(load: Load) -> Report:
    """Put a load on a server and wait for the report."""
    return Running(load).report()


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run the block, and what it starts, on one core; anywhere on a system that cannot."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core} if core in before else before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def number_in(answer: Any) -> float:
    """The one number that an answer is about, however a server wraps it.

    Raises:
        ValueError: when there is none, or more than one.
    """
    if isinstance(answer, dict):
        named = [answer[name] for name in NAMES if name in answer]
        if len(named) == 1:
            return number_in(named[0])
    elif isinstance(answer, list):
        if len(answer) == 1:
            return number_in(answer[0])
    elif isinstance(answer, int | float):
        return float(answer)
    raise ValueError(f"not one number: {str(answer)[:200]}")


class _Client:
    __slots__ = ("began", "busy", "number", "received", "socket")

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.busy = False
        self.began = 0.0
        self.number = 0
        self.received = b""


class Clients:
    """The event loop: reads answers, checks them, and sends the next requests."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests = [ask.text.encode() for ask in load.asks]
        self.known: list[set[bytes]] = [set() for _ in load.asks]
        self.failures: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.latencies = array("d")
        # epoll rounds a wait up to a whole millisecond, which a steady rate would show.
        self.selector = (
            selectors.DefaultSelector() if load.rate is None else selectors.SelectSelector()
        )
        self.clients = [_Client() for _ in range(load.connections)]
        self.idle = deque(self.clients)
        self.resting: deque[tuple[float, _Client]] = deque()
        self.asked = 0
        self.due = 0.0
        self.counted_from = 0.0

    def run(self) -> Report:
        load = self.load
        began = self.due = perf_counter()
        spent = os.times()
        self.counted_from = began + load.warm_up_s
        until = self.counted_from + load.seconds
        looked = began
        while (now := perf_counter()) < until:
            self._ask_what_is_due(now)
            for key, _ in self.selector.select(self._patience(now)):
                self._read(key.data)
            if now - looked > 1.0:
                looked = now
                self._give_up(now)
        took = os.times()
        busy = (took.user + took.system - spent.user - spent.system) / (perf_counter() - began)
        return self._report(busy)

    def _patience(self, now: float) -> float:
        if self.load.rate is None or not self.idle:
            return LOOK_S
        return min(LOOK_S, max(0.0, self.due - now))

    def _ask_what_is_due(self, now: float) -> None:
        rate = self.load.rate
        while self.resting and self.resting[0][0] <= now:
            self.idle.append(self.resting.popleft()[1])
        while self.idle:
            if rate is None:
                self._ask(self.idle.popleft(), perf_counter())
            elif self.due <= now:
                self._ask(self.idle.popleft(), self.due)
                self.due += 1.0 / rate
            else:
                return

    def _ask(self, client: _Client, began: float) -> None:
        client.began, client.busy, client.received = began, True, b""
        client.number = self.asked % len(self.requests)
        self.asked += 1
        request = self.requests[client.number]
        try:
            if client.socket is None:
                self._connect(client)
            assert client.socket is not None
            if client.socket.send(request) != len(request):
                raise OSError("a request larger than the socket takes at once")
        except OSError as error:
            self._fail(client, type(error).__name__, str(error))

    def _connect(self, client: _Client) -> None:
        made = socket.create_connection((HOST, self.load.port), timeout=self.load.timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket = made
        self.selector.register(made, selectors.EVENT_READ, client)

    def _disconnect(self, client: _Client) -> None:
        if client.socket is not None:
            self.selector.unregister(client.socket)
            client.socket.close()
            client.socket = None

    def _read(self, client: _Client) -> None:
        assert client.socket is not None
        try:
            came = client.socket.recv(READ_BYTES)
        except OSError as error:
            self._fail(client, type(error).__name__, str(error))
            return
        if not came:
            if client.busy:
                self._fail(client, "closed", "the connection was closed before the answer")
            else:
                self._disconnect(client)
            return
        client.received += came
        head_ends = client.received.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        head = client.received[:head_ends].lower()
        at = head.find(b"content-length:")
        if at < 0:
            self._fail(client, "unsized", head.decode("latin1"))
            return
        line_ends = head.find(b"\r\n", at)
        size = int(head[at + 15 : line_ends if line_ends > 0 else None])
        body = client.received[head_ends + 4 :]
        if len(body) < size:
            return
        self._answered(client, head, body)

    def _answered(self, client: _Client, head: bytes, body: bytes) -> None:
        now = perf_counter()
        if head[9:12] != b"200":
            self._count(head[9:12].decode(), body.decode("utf-8", "replace"))
        elif self._right(client.number, body) and now >= self.counted_from:
            self.latencies.append(now - client.began)
        client.busy = False
        self.idle.append(client)
        if b"connection: close" in head:
            self._disconnect(client)

    def _right(self, number: int, body: bytes) -> bool:
        known = self.known[number]
        if body in known:
            return True
        right = self.load.asks[number].right
        try:
            got = number_in(json.loads(body))
        except ValueError as error:
            self._count("unreadable", str(error))
            return False
        if not any(abs(got - one) <= TOLERANCE * max(1.0, abs(one)) for one in right):
            self._count("wrong", f"{got!r} is none of {right}")
            return False
        if len(known) < KNOWN_BODIES:
            known.add(body)
        return True

    def _fail(self, client: _Client, reason: str, example: str) -> None:
        self._count(reason, example)
        self._disconnect(client)
        client.busy = False
        self.resting.append((perf_counter() + REST_S, client))

    def _count(self, reason: str, example: str) -> None:
        self.failures[reason] += 1
        self.first.setdefault(reason, example[:500])

    def _give_up(self, now: float) -> None:
        for client in self.clients:
            if client.busy and now - client.began > self.load.timeout_s:
                self._fail(client, "timeout", f"no answer within {self.load.timeout_s:g} s")

    def _report(self, busy: float) -> Report:
        latencies = np.array(self.latencies)
        found = np.quantile(latencies, (0.5, 0.99, 1.0)) if len(latencies) else [np.inf] * 3
        p50, p99, worst = map(float, found)
        return Report(
            answered=len(latencies),
            rate=len(latencies) / self.load.seconds,
            p50=p50,
            p99=p99,
            worst=worst,
            busy=busy,
            failures=dict(self.failures),
            first=self.first,
        )


def main() -> None:
    given = json.load(sys.stdin)
    load = Load(**{**given, "asks": [Ask(**ask) for ask in given["asks"]]})
    with on_core(load.core):
        report = Clients(load).run()
    json.dump(asdict(report), sys.stdout)


if __name__ == "__main__":
    main()
