"""What the HTTP API costs the forecasts of its replica: with it, without it, and beside its reads.

Rounds with and without alternate, each on a replica of its own, so that a machine that slows down
slows both. The best round of each counts.
"""

from __future__ import annotations

import http.client
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import HOST, Ask, Load, Report, measure, on_core
from benchmarks.peers import Served, Server, serving
from benchmarks.served import Place, make_place, questions
from benchmarks.serving import newest_ask

LEAST_NEWEST, LEAST_INFERENCE = 0.90, 0.95
"""Shares of the bare replica's rate that are promised."""

SERVER_CORE, CLIENT_CORE = 0, 1
CROWD = 8

MOST_BESIDE = 1.5
"""Times its own that the forecast's median may be beside reads."""

READS_PER_S, FORECASTS_PER_S = 100.0, 200.0
READS = ("monitoring/dashboard", "monitoring/live", "models?limit=50", "rollouts")


@dataclass(slots=True)
class Rates:
    """Best rates of the newest forecast and of inference, requests a second."""

    newest: float = 0.0
    inference: float = 0.0
    failed: int = 0

    def add(self, newest: Report, inference: Report) -> None:
        self.newest = max(self.newest, newest.rate)
        self.inference = max(self.inference, inference.rate)
        self.failed += newest.failed + inference.failed


def name_replica(place: Place, *, with_api: bool) -> Server:
    """A replica that answers the API too, or does not."""
    server = peers.replica(place)
    setting = {"API_IN_REPLICA": str(with_api).lower()}
    name = f"ours, {'with' if with_api else 'without'} API"
    return replace(server, name=name, environment={**server.environment, **setting})


def load_of(
    served: Served, asks: Sequence[Ask], *, seconds: float, rate: float | None = None
) -> Load:
    return Load(
        port=served.port,
        asks=asks,
        connections=CROWD,
        seconds=seconds,
        warm_up_s=seconds / 4,
        rate=rate,
        core=CLIENT_CORE,
    )


def compare(place: Place, home: Path, *, rounds: int, seconds: float) -> dict[bool, Rates]:
    """The rates with the API and without."""
    rates, bars = {True: Rates(), False: Rates()}, questions(place).bars
    for _ in range(rounds):
        for with_api, found in rates.items():
            server = name_replica(place, with_api=with_api)
            with serving(server, home / "logs", core=SERVER_CORE) as served:
                newest = [newest_ask(place, served)]
                found.add(
                    measure(load_of(served, newest, seconds=seconds)),
                    measure(load_of(served, bars, seconds=seconds)),
                )
    return rates


def measure_beside_reads(
    place: Place, home: Path, *, rounds: int, seconds: float
) -> tuple[Report, Report]:
    """The best rounds of the newest forecast, alone and beside reads of the API."""
    alone, beside = [], []
    server = name_replica(place, with_api=True)
    with serving(server, home / "logs", core=SERVER_CORE) as served:
        asks = [newest_ask(place, served)]
        for _ in range(rounds):
            load = load_of(served, asks, seconds=seconds, rate=FORECASTS_PER_S)
            alone.append(measure(load))
            with reading(served.port):
                beside.append(measure(load))
    return min(alone, key=lambda found: found.p50), min(beside, key=lambda found: found.p50)


@contextmanager
def reading(port: int) -> Iterator[None]:
    """Read the API `READS_PER_S` times a second while the block runs.

    Raises:
        RuntimeError: when a read was not answered with 200.
    """
    stop, failures = threading.Event(), list[str]()

    def read() -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        began, number = time.monotonic(), 0
        with on_core(CLIENT_CORE):
            while not stop.wait(max(0.0, began + number / READS_PER_S - time.monotonic())):
                path = READS[number % len(READS)]
                connection.request("GET", f"/mlops/api/{path}")
                with connection.getresponse() as answer:
                    answer.read()
                    if answer.status != 200:
                        failures.append(f"{path}: {answer.status}")
                number += 1
        connection.close()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise RuntimeError(f"{len(failures)} reads failed, such as {failures[0]}")


def figures(*, quick: bool = False) -> list[Figure]:
    """Both rates behind the API as a share of those without it, and the median beside reads."""
    rounds, seconds = (1, 1.0) if quick else (3, 6.0)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="http-api-")))
        place = make_place(home / "base")
        rates = compare(place, home, rounds=rounds, seconds=seconds)
        alone, beside = measure_beside_reads(place, home, rounds=rounds, seconds=seconds)
    behind, bare = rates[True], rates[False]
    failed = behind.failed + bare.failed
    return [
        judge("newest forecast", behind.newest, bare.newest, LEAST_NEWEST, failed),
        judge("inference", behind.inference, bare.inference, LEAST_INFERENCE, failed),
        judge_beside(alone, beside),
    ]


def judge_beside(alone: Report, beside: Report) -> Figure:
    """The figure of the forecast route beside reads."""
    ratio, failed = beside.p50 / alone.p50, alone.failed + beside.failed
    wrong = f", {failed} failed" if failed else ""
    return Figure(
        what=f"median of {FORECASTS_PER_S:g} newest forecasts/s beside {READS_PER_S:g} reads/s of "
        "the API, times its own",
        measured=f"{ratio:.2f} ({beside.p50 * 1e3:.2f} ms){wrong}",
        asked=f"at most {MOST_BESIDE:g}",
        holds=ratio <= MOST_BESIDE and not failed,
        peer=f"alone: {alone.p50 * 1e3:.2f} ms",
    )


def judge(what: str, behind: float, bare: float, least: float, failed: int) -> Figure:
    """The figure of one kind of request; a wrong answer fails it."""
    share = behind / bare if bare else 0.0
    return Figure(
        what=f"{what} behind the API, of the rate without it",
        measured=f"{share:.1%} ({behind:,.0f}/s)" + (f", {failed} failed" if failed else ""),
        asked=f"at least {least:.0%}",
        holds=share >= least and not failed,
        peer=f"the same replica without the API: {bare:,.0f}/s",
    )
