"""What clients that send batches of many windows cost one that sends single windows."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from rich.console import Console

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import HOST, Ask, Load, Report, measure, on_core
from benchmarks.peers import serving
from benchmarks.served import SERVICE, make_place, questions
from benchmarks.serving import CLIENT_CORE, SERVER_CORE

WINDOWS = 512
CONNECTIONS = 4
PATIENCE_S = 60.0
TIMES = 20.0
"""Most by which the median may rise: a request may meet the reading of one large body."""


@dataclass(slots=True)
class Batches:
    """What became of the batches, by status."""

    answered: int = 0
    turned_away: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One client's requests without and beside the batches."""

    alone: Report
    beside: Report
    batches: Batches


def batch_body(asks: list[Ask]) -> bytes:
    """One request of `WINDOWS` windows."""
    windows = [json.loads(ask.text.partition("\r\n\r\n")[2])["instances"][0] for ask in asks]
    every = [windows[number % len(windows)] for number in range(WINDOWS)]
    return json.dumps({"instances": every}, separators=(",", ":")).encode()


@contextmanager
def sending_batches(port: int, body: bytes) -> Iterator[Batches]:
    """`CONNECTIONS` clients, each of which sends a batch as soon as it is answered."""
    batches, over = Batches(), Event()

    def send() -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
        while not over.is_set():
            connection.request("POST", f"/services/{SERVICE}/invocations", body)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200 and len(json.loads(text)["predictions"]) == WINDOWS:
                batches.answered += 1
            elif answer.status == 503:
                batches.turned_away += 1
                time.sleep(0.1)
            else:
                batches.failed.append(f"{answer.status}: {text[:200]!r}")
        connection.close()

    threads = [Thread(target=send) for _ in range(CONNECTIONS)]
    with on_core(CLIENT_CORE):
        for thread in threads:
            thread.start()
    try:
        yield batches
    finally:
        over.set()
        for thread in threads:
            thread.join()


def run(home: Path, *, seconds: float) -> Measured:
    """Measure one client alone, then beside the batches."""
    console = Console(stderr=True)
    place = make_place(home / "base")
    asks = questions(place).bars
    with ExitStack() as stack:
        served = stack.enter_context(serving(peers.replica(place), home / "logs", core=SERVER_CORE))
        load = Load(port=served.port, asks=asks, connections=1, seconds=seconds, core=CLIENT_CORE)
        alone = measure(load)
        console.print(f"alone: {alone}")
        batches = stack.enter_context(sending_batches(served.port, batch_body(asks)))
        beside = measure(load)
        console.print(f"beside {CONNECTIONS} x {WINDOWS} windows: {beside}")
    console.print(str(batches))
    return Measured(alone=alone, beside=beside, batches=batches)


def judged(found: Measured) -> list[Figure]:
    """The promised figure."""
    times = found.beside.p50 / found.alone.p50
    failed = found.alone.failed + found.beside.failed + len(found.batches.failed)
    return [
        Figure(
            f"median of one client beside {CONNECTIONS} connections of {WINDOWS}-window batches",
            f"{found.beside.p50 * 1e3:.1f} ms, p99 {found.beside.p99 * 1e3:.0f} ms; "
            f"{times:.1f} times alone; {failed} failures "
            f"{found.batches.failed[:1] or ''}",
            f"<= {TIMES:g} times alone, no failure, batches go on",
            times <= TIMES and not failed and found.batches.answered > 0,
            f"alone: {found.alone.p50 * 1e3:.1f} ms; batches: {found.batches.answered} answered, "
            f"{found.batches.turned_away} turned away",
        )
    ]


def figures(*, quick: bool = False) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return judged(run(Path(folder), seconds=2.0 if quick else 6.0))
