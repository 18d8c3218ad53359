"""What the HTTP API costs the forecasts of its replica: the same replica with it and without.

Rounds with and without alternate, each on a replica of its own, so that a machine that slows down
slows both. The best round of each counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import Ask, Load, Report, measure
from benchmarks.peers import Served, Server, serving
from benchmarks.served import Place, make_place, questions
from benchmarks.serving import newest_ask

LEAST_NEWEST, LEAST_INFERENCE = 0.90, 0.95
"""Shares of the bare replica's rate that are promised."""

SERVER_CORE, CLIENT_CORE = 0, 1
CROWD = 8


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


def load_of(served: Served, asks: Sequence[Ask], *, connections: int, seconds: float) -> Load:
    return Load(
        port=served.port,
        asks=asks,
        connections=connections,
        seconds=seconds,
        warm_up_s=seconds / 4,
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
                    measure(load_of(served, newest, connections=CROWD, seconds=seconds)),
                    measure(load_of(served, bars, connections=CROWD, seconds=seconds)),
                )
    return rates


def figures(*, quick: bool = False) -> list[Figure]:
    """Both rates behind the API as a share of those without it."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="http-api-")))
        rates = compare(
            make_place(home / "base"), home, rounds=1 if quick else 3, seconds=1 if quick else 6
        )
    behind, bare = rates[True], rates[False]
    failed = behind.failed + bare.failed
    return [
        judge("newest forecast", behind.newest, bare.newest, LEAST_NEWEST, failed),
        judge("inference", behind.inference, bare.inference, LEAST_INFERENCE, failed),
    ]


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
