"""What clients that send a long header, or hold idle connections, cost the others.

Each figure is that of a real replica, beside one with uvicorn's own protocol in the same run.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import HOST, ROOT, Ask, Load, Report, measure
from benchmarks.peers import Served, Server, serving
from benchmarks.replica_variants import FED
from benchmarks.served import Place, make_place, questions
from benchmarks.serving import CLIENT_CORE, CROWD, SERVER_CORE, newest_ask

MB = 1_000_000
HEADER_MB, PLAIN_HEADER_MB = 200, 20
"""uvicorn's own protocol would take minutes over the longer one."""

FED_AT_MOST = 64 * 1024
IDLE = 20_000
HOLDERS = 2
"""Processes that hold them: each has no more descriptors than the replica."""

ROUNDS = 7
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_S = 300.0
ASKED_EVERY_S = 0.005


@dataclass(slots=True)
class Livez:
    """How long another client waited for `/livez`, in seconds."""

    waits: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return max(self.waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongHeader:
    """What became of one long header: bytes parsed (0: not counted), and the worst `/livez`."""

    size_mb: int
    fed: int
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowded:
    """Inference without and beside idle connections."""

    asked: int
    descriptors: int
    opened: int
    before: Report
    beside: Report
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One load on ours and one on plain uvicorn, with the CPU that a request took (us)."""

    ours: Report
    plain: Report
    our_cpu: float
    plain_cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Rounds on ours and on plain uvicorn by turns."""

    what: str
    rounds: Sequence[Round]

    @property
    def ratio(self) -> float:
        return statistics.median(one.ours.rate / one.plain.rate for one in self.rounds)

    @property
    def failed(self) -> int:
        return sum(one.ours.failed + one.plain.failed for one in self.rounds)

    def __str__(self) -> str:
        plain = statistics.median(one.plain.rate for one in self.rounds)
        ours_us, plain_us = (
            min(times)
            for times in zip(*((one.our_cpu, one.plain_cpu) for one in self.rounds), strict=True)
        )
        return (
            f"plain uvicorn {plain:,.0f}/s; the process took {ours_us:.1f} us of CPU a request, "
            f"plain uvicorn {plain_us:.1f} us (least of {len(self.rounds)} rounds by turns)"
        )


class Bench:
    """Starts one replica after the other, in a folder of its own."""

    def __init__(self, home: Path, *, quick: bool) -> None:
        self.home = home
        self.seconds = 0.5 if quick else 4.0
        self.rounds = 3 if quick else ROUNDS
        self.shrink = 10 if quick else 1
        self.place = make_place(home / "base")
        self.asks = questions(self.place).bars
        self.console = Console(stderr=True)

    def send_long_header(self, variant: str, size_mb: int) -> LongHeader:
        """Send one endless header while another client asks for `/livez`."""
        with self._serving(variant) as served, asking_livez(served.port) as livez:
            with socket.create_connection((HOST, served.port), timeout=PATIENCE_S) as sending:
                send_all_that_is_taken(sending, size_mb)
            time.sleep(0.5)
        counts = [
            int(line.removeprefix(FED))
            for line in served.log.read_text().splitlines()
            if line.startswith(FED)
        ]
        found = LongHeader(size_mb=size_mb, fed=max(counts, default=0), worst=livez.worst)
        self.console.print(f"{variant}: {found}")
        return found

    def hold_idle_connections(self, count: int) -> Crowded:
        """Measure inference before and while others hold idle connections."""
        with ExitStack() as stack:
            descriptors = stack.enter_context(most_descriptors())
            served = stack.enter_context(self._serving(None))
            before = self._load(served, self.asks)
            livez = stack.enter_context(asking_livez(served.port))
            opened = stack.enter_context(holding(served.port, count))
            beside = self._load(served, self.asks)
        return Crowded(
            asked=count,
            descriptors=descriptors,
            opened=opened,
            before=before,
            beside=beside,
            worst=livez.worst,
        )

    def compare(self) -> list[Compared]:
        """Load ours and plain uvicorn by turns: requests of 4 KB, and newest forecasts."""
        with self._serving(None) as ours, self._serving("plain") as plain:
            newest = [newest_ask(self.place, ours)]
            newest_ask(self.place, plain)
            found = []
            for what, asks in (("inference", self.asks), ("GET forecast", newest)):
                rounds = [self._run_round(ours, plain, asks) for _ in range(self.rounds)]
                found.append(Compared(what=what, rounds=rounds))
                self.console.print(f"{what}: {found[-1].ratio:.3f} of plain uvicorn; {found[-1]}")
        return found

    def _run_round(self, ours: Served, plain: Served, asks: Sequence[Ask]) -> Round:
        our_cpu, our_report = self._load_and_time(ours, asks)
        plain_cpu, plain_report = self._load_and_time(plain, asks)
        return Round(ours=our_report, plain=plain_report, our_cpu=our_cpu, plain_cpu=plain_cpu)

    def _load_and_time(self, served: Served, asks: Sequence[Ask]) -> tuple[float, Report]:
        """CPU (us) of the replica for each request, and the report."""
        before = read_cpu_seconds(served.process.pid)
        report = self._load(served, asks)
        spent = read_cpu_seconds(served.process.pid) - before
        return spent / max(report.answered, 1) * 1e6, report

    def _load(self, served: Served, asks: Sequence[Ask]) -> Report:
        return measure(
            Load(
                port=served.port,
                asks=asks,
                connections=CROWD,
                seconds=self.seconds,
                warm_up_s=0.0,
                core=CLIENT_CORE,
            )
        )

    @contextmanager
    def _serving(self, variant: str | None) -> Iterator[Served]:
        with serving(variant_of(self.place, variant), self.home / "logs", core=SERVER_CORE) as made:
            yield made


def read_cpu_seconds(pid: int) -> float:
    """CPU that a process has used, by its record under `/proc`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def variant_of(place: Place, variant: str | None) -> Server:
    """The usual replica, or a variant of `benchmarks.replica_variants`."""
    usual = peers.replica(place)
    if variant is None:
        return usual
    python, _, _, *options = usual.command
    command = [python, "-m", "benchmarks.replica_variants", variant, *options]
    return replace(usual, name=variant, command=command)


@contextmanager
def asking_livez(port: int) -> Iterator[Livez]:
    """Ask for `/livez` on a connection of its own until the block ends."""
    livez, stop = Livez(), threading.Event()

    def ask() -> None:
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as connection:
            while not stop.wait(ASKED_EVERY_S):
                began = time.perf_counter()
                connection.sendall(LIVEZ)
                answer = connection.recv(4096)
                livez.waits.append(time.perf_counter() - began)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    livez.waits.append(float("inf"))
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield livez
    finally:
        stop.set()
        thread.join()


def send_all_that_is_taken(connection: socket.socket, size_mb: int) -> None:
    """Send one header field of so many megabytes, or up to where the server ends it."""
    block = b"x" * MB
    with suppress(ConnectionError):
        connection.sendall(b"GET /livez HTTP/1.1\r\na: ")
        for _ in range(size_mb):
            connection.sendall(block)
        connection.sendall(b"\r\n\r\n")
        connection.recv(4096)


@contextmanager
def most_descriptors() -> Iterator[int]:
    """Let this process, and those it starts, open as many descriptors as the system allows."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1], usual[1]))
    try:
        yield usual[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


HOLD = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [socket.create_connection((host, port), timeout=60) for _ in range(count)]
print(len(held), flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(port: int, count: int) -> Iterator[int]:
    """Idle connections from processes of their own; how many were opened."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, HOST, str(port), str(count // HOLDERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(HOLDERS)
    ]
    try:
        yield sum(int(process.stdout.readline() or 0) for process in processes if process.stdout)
    finally:
        for process in processes:
            process.communicate("")


def judged(
    ours: LongHeader, plain: LongHeader, crowded: Crowded, compared: Sequence[Compared]
) -> list[Figure]:
    """The promised figures."""
    return [
        Figure(
            f"a header of {ours.size_mb} MB",
            f"closed after the parser was fed {ours.fed:,} bytes; /livez of another client took "
            f"at most {ours.worst * 1e3:.0f} ms",
            f"fed less than {FED_AT_MOST:,} bytes, /livez within 1 s",
            0 < ours.fed < FED_AT_MOST and ours.worst <= 1.0,
            f"plain uvicorn, a header of {plain.size_mb} MB: {plain.worst * 1e3:,.0f} ms",
        ),
        Figure(
            f"{crowded.asked:,} idle connections, {crowded.descriptors:,} descriptors",
            f"{crowded.opened:,} opened; inference {crowded.beside}; /livez took at most "
            f"{crowded.worst * 1e3:.0f} ms",
            "no failed request, /livez within 1 s",
            crowded.opened == crowded.asked
            and crowded.beside.answered > 0
            and not crowded.beside.failed
            and crowded.worst <= 1.0,
            f"without them: {crowded.before}",
        ),
        *(
            Figure(
                f"{found.what}, {CROWD} clients, ours : plain uvicorn",
                f"{found.ratio:.3f}",
                ">= 0.95",
                found.ratio >= 0.95 and not found.failed,
                f"{found}; load average {os.getloadavg()[0]:.1f}",
            )
            for found in compared
        ),
    ]


def figures(*, quick: bool = False) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), quick=quick)
        return judged(
            bench.send_long_header("counting", HEADER_MB),
            bench.send_long_header("plain", PLAIN_HEADER_MB // bench.shrink),
            bench.hold_idle_connections(IDLE // bench.shrink),
            bench.compare(),
        )
