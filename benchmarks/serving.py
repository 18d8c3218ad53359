"""One replica on one core beside `mlflow models serve`, LitServe and BentoML, same network.

Every server has core 0 to itself and one thread to compute; the clients, who check each answer,
have core 1.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import orjson
import pandas as pd
import torch
from rich.console import Console

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import Ask, Load, Report, measure, on_core
from benchmarks.peers import Served, Server, serving
from benchmarks.served import (
    FEATURES,
    SERVICE,
    STEPS,
    UNITS,
    Place,
    Questions,
    make_place,
    questions,
)
from mlops.models.devices import one_torch_thread

SERVER_CORE, CLIENT_CORE = 0, 1
CROWD = 32
BATCHES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3
"""Rounds in which each batch size of the bare network is timed; the fastest counts."""

BARS_AHEAD = 30
"""Bars that may close while forecasts are fetched: the sample is replayed, a minute a bar."""

FORECAST_S, LOOK_S = 30.0, 0.2

ON, OFF, MLFLOW, BUNDLE = "ours", "ours, batching off", "mlflow", "mlflow of our bundle"
OTHERS = ("litserve", "bentoml")


@dataclass(frozen=True, slots=True)
class Alone:
    """The reports of one client and of many clients, on one server."""

    one: Report
    crowd: Report

    @property
    def failed(self) -> int:
        return self.one.failed + self.crowd.failed


@dataclass(slots=True, kw_only=True)
class Measured:
    """The results of one run; ``servers`` by name."""

    window_bars: int
    bar_bytes: int
    feature_bytes: int
    network: float = 0.0
    batch: int = 0
    servers: dict[str, Alone] = field(default_factory=dict)
    newest: Report | None = None
    echo: Report | None = None


class Bench:
    """Starts one server after the other, in a folder of its own."""

    def __init__(self, home: Path, *, quick: bool) -> None:
        self.home = home
        self.seconds = 1.0 if quick else 8.0
        self.warm_up_s = 0.5 if quick else 2.0
        self.console = Console(stderr=True)
        self.place = make_place(home / "base")
        self.questions = questions(self.place)

    def run(self, *, others: Sequence[str] = OTHERS) -> Measured:
        """Measure everything, the bare network before and after ours."""
        found = _sizes(self.place, self.questions)
        self._bare(found)
        self._ours(found)
        self._bare(found)
        network = peers.mlflow_network(self.place, self.home / "network")
        self._compare(found, MLFLOW, network, self.questions.features)
        self._compare(found, BUNDLE, peers.mlflow_bundle(self.place), self.questions.frames)
        for package in others:
            server = peers.other_server(package, self.place, self.home / "others")
            if server is None:
                self.console.print(f"{package}: not installed here")
                continue
            self._compare(found, package, server, self.questions.features)
        self._echo(found)
        return found

    def _bare(self, found: Measured) -> None:
        rate, batch = bare_rate(self.place, seconds=self.seconds / 8)
        self.console.print(f"the network alone: {rate:,.0f} windows/s in batches of {batch}")
        if rate > found.network:
            found.network, found.batch = rate, batch

    def _ours(self, found: Measured) -> None:
        server = peers.replica(self.place, batching=False)
        self._compare(found, OFF, server, self.questions.bars)
        with self._serving(peers.replica(self.place)) as served:
            found.servers[ON] = self._both(ON, served, self.questions.bars)
            found.newest = self._load(served, [newest_ask(self.place, served)], CROWD)
            self._say("ours, GET forecast", CROWD, found.newest)

    def _echo(self, found: Measured) -> None:
        with self._serving(peers.echo()) as served:
            asks = [Ask(ask.text, (0.5,)) for ask in self.questions.bars]
            found.echo = self._load(served, asks, CROWD)
            self._say("a server that computes nothing", CROWD, found.echo)

    def _compare(self, found: Measured, name: str, server: Server, asks: Sequence[Ask]) -> None:
        with self._serving(server) as served:
            found.servers[name] = self._both(name, served, asks)

    def _both(self, name: str, served: Served, asks: Sequence[Ask]) -> Alone:
        one = self._load(served, asks, 1)
        self._say(name, 1, one)
        crowd = self._load(served, asks, CROWD)
        self._say(name, CROWD, crowd)
        return Alone(one, crowd)

    def _load(self, served: Served, asks: Sequence[Ask], connections: int) -> Report:
        return measure(
            Load(
                port=served.port,
                asks=asks,
                connections=connections,
                seconds=self.seconds,
                warm_up_s=self.warm_up_s,
                core=CLIENT_CORE,
            )
        )

    def _serving(self, server: Server) -> AbstractContextManager[Served]:
        return serving(server, self.home / "logs", core=SERVER_CORE)

    def _say(self, name: str, clients: int, report: Report) -> None:
        self.console.print(f"{name}, {clients} client{'s' * (clients > 1)}: {report}")


def bare_rate(place: Place, *, seconds: float) -> tuple[float, int]:
    """Windows a second of the network alone, one thread on the servers' core; the best batch."""
    windows = place.features(max(BATCHES)).transpose(0, 1).contiguous()
    best: dict[int, float] = {}
    with on_core(SERVER_CORE), one_torch_thread(), torch.inference_mode():
        for _ in range(ROUNDS):
            for size in BATCHES:
                batch, done = windows[:, :size].contiguous(), 0
                began = time.perf_counter()
                while (spent := time.perf_counter() - began) < seconds / ROUNDS:
                    place.network(batch)
                    done += size
                best[size] = max(best.get(size, 0.0), done / spent)
    size = max(best, key=lambda size: best[size])
    return best[size], size


def newest_ask(place: Place, served: Served) -> Ask:
    """GET the newest forecast; right are what the network makes of this bar and the next ones."""
    path = f"/services/{SERVICE}/forecast"
    answer = _first_forecast(served, path)
    opens = place.dataset.frame.index
    [first] = np.flatnonzero(opens == pd.Timestamp(answer["bar"])).tolist()
    rows = np.arange(first, min(first + BARS_AHEAD, len(opens)))
    return Ask.get(path, *place.forecaster.predict(place.dataset, rows).tolist())


def _first_forecast(served: Served, path: str) -> dict[str, Any]:
    """The newest forecast, as soon as there is one.

    Raises:
        RuntimeError: when there is none within `FORECAST_S`.
    """
    until = time.monotonic() + FORECAST_S
    while time.monotonic() < until:
        try:
            found: dict[str, Any] = orjson.loads(served.get(path))
        except HTTPError as error:
            why = error.read().decode(errors="replace")
            time.sleep(LOOK_S)
        else:
            return found
    raise RuntimeError(f"no forecast after {FORECAST_S:g} s: {why}")


def _sizes(place: Place, asked: Questions) -> Measured:
    def mean_bytes(asks: Sequence[Ask]) -> int:
        return round(sum(len(ask.text.encode()) for ask in asks) / len(asks))

    return Measured(
        window_bars=place.window_bars,
        bar_bytes=mean_bytes(asked.bars),
        feature_bytes=mean_bytes(asked.features),
    )


def judged(found: Measured) -> list[Figure]:
    """The promised figures; with a wrong or missing answer none of them holds."""
    assert found.newest is not None
    assert found.echo is not None
    ours, off, mlflow = (found.servers[name] for name in (ON, OFF, MLFLOW))
    right = not (ours.failed or off.failed or mlflow.failed)
    times = ours.crowd.rate / mlflow.crowd.rate
    share = ours.crowd.rate / found.network
    beside = [f"{name}: {found.servers[name].crowd}" for name in _beside(found)]
    missing = [f"{name}: not installed here" for name in OTHERS if name not in found.servers]
    load = os.getloadavg()[0]
    return [
        Figure(
            f"LSTM of {'-'.join(map(str, UNITS))} over {STEPS} steps, {CROWD} clients, one core",
            f"{times:.1f} times mlflow: {ours.crowd}",
            ">= 8 times",
            right and times >= 8,
            "; ".join([*beside, *missing]) + f". Ours is sent {found.window_bars} bars "
            f"({found.bar_bytes:,} bytes) and makes the features; the others {STEPS} x "
            f"{len(FEATURES)} finished features ({found.feature_bytes:,} bytes)",
        ),
        Figure(
            "its median latency for one client",
            f"{ours.one.p50 * 1e3:.2f} ms, batching off {off.one.p50 * 1e3:.2f} ms",
            "less than mlflow's",
            right and max(ours.one.p50, off.one.p50) < mlflow.one.p50,
            "; ".join(f"{n}: {found.servers[n].one.p50 * 1e3:.2f} ms" for n in _beside(found)),
        ),
        Figure(
            f"its share of the bare network's rate, {CROWD} clients",
            f"{share:.0%}, batching off {off.crowd.rate / found.network:.0%}",
            ">= 50 %",
            right and share >= 0.5,
            f"{found.network:,.0f} windows/s in batches of {found.batch}, alone on the core; "
            f"load average {load:.1f} on {os.cpu_count()} cores",
        ),
        Figure(
            f"GET forecast, {CROWD} clients",
            str(found.newest),
            ">= 10,000/s",
            not found.newest.failed and found.newest.rate >= 10_000,
            f"the load generator on a server that computes nothing: {found.echo}",
        ),
    ]


def _beside(found: Measured) -> list[str]:
    return [name for name in found.servers if name != ON]


def figures(*, quick: bool = False) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return judged(Bench(Path(folder), quick=quick).run())
