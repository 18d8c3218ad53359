"""What the HTTP API costs: the data plane behind it, its reads beside a constant, long lists.

The replica has core 0 to itself and one thread to compute, the clients have core 1. What an API
read costs is CPU time of the process that answers it, without a network: the application is
called as the server calls it.
"""

from __future__ import annotations

import asyncio
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Scope

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import HOST, Ask, Load, Report, measure, on_core
from benchmarks.peers import Served, Server, serving
from benchmarks.served import make_place, questions
from benchmarks.serving import newest_ask
from mlops.api.app import build_api
from mlops.api.context import ApiContext
from mlops.manager import MLOpsManager
from mlops.settings import Settings
from mlops.store import ModelVersion, Status, Store, Why
from mlops.store.routes import begin_route
from mlops.store.versions import insert_version

SERVER_CORE, CLIENT_CORE = 0, 1
CROWD = 32
FEW, MANY = 200, 10_000
"""Versions of the two lists that are compared."""

SERVICES = 50
READS_PER_S, FORECASTS_PER_S = 100.0, 200.0
READS = ("monitoring/dashboard", "monitoring/live", "models?limit=50", "rollouts")
AT = datetime(2025, 1, 1, tzinfo=UTC)
NOTE = "x" * 5_800
"""As long as the JSON that a trained version has beside its own columns."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same load on a bare replica and on one with the API in front, round by round."""

    bare: Sequence[Report]
    behind: Sequence[Report]

    @property
    def ratio(self) -> float:
        """The median rate behind the API, as a share of the bare one."""
        return statistics.median(r.rate for r in self.behind) / statistics.median(
            r.rate for r in self.bare
        )

    @property
    def failed(self) -> int:
        return sum(report.failed for report in (*self.bare, *self.behind))


class Bench:
    """Starts one server after the other, in a folder of its own."""

    def __init__(self, home: Path, *, quick: bool) -> None:
        self.home = home
        self.rounds = 1 if quick else 5
        self.seconds = 1.0 if quick else 6.0
        self.place = make_place(home / "base")

    def compare_planes(self) -> list[Figure]:
        """Forecasts and inference with the API in front of the data plane and without it."""
        inference = questions(self.place).bars
        found: dict[str, tuple[list[Report], list[Report]]] = {
            "newest forecast": ([], []),
            "inference": ([], []),
        }
        for _ in range(self.rounds):
            for number, in_replica in enumerate((False, True)):
                with self._serve(in_replica) as served:
                    newest = [newest_ask(self.place, served)]
                    for what, asks in (("newest forecast", newest), ("inference", inference)):
                        found[what][number].append(self._load(served, asks))
        asked = {"newest forecast": 0.90, "inference": 0.95}
        return [judge_planes(what, Pair(*found[what]), least) for what, least in asked.items()]

    def forecast_beside_reads(self) -> Figure:
        """The median of the forecast route alone, and beside reads of the API."""
        with self._serve(True) as served:
            asks = [newest_ask(self.place, served)]
            alone, beside = [], []
            for _ in range(self.rounds):
                alone.append(self._load(served, asks, rate=FORECASTS_PER_S))
                with reading(served.port):
                    beside.append(self._load(served, asks, rate=FORECASTS_PER_S))
        before = statistics.median(report.p50 for report in alone)
        after = statistics.median(report.p50 for report in beside)
        failed = sum(report.failed for report in (*alone, *beside))
        return Figure(
            f"median of {FORECASTS_PER_S:g} forecasts/s beside {READS_PER_S:g} API reads/s : alone",
            f"{after / before:.2f}",
            "<= 1.5, none failed",
            after <= 1.5 * before and not failed,
            f"alone {before * 1e3:.2f} ms, beside {after * 1e3:.2f} ms",
        )

    @contextmanager
    def _serve(self, in_replica: bool) -> Iterator[Served]:
        usual = peers.replica(self.place)
        word = "true" if in_replica else "false"
        server: Server = replace(
            usual,
            name=f"replica, API {in_replica}",
            environment={**usual.environment, "API_IN_REPLICA": word},
        )
        with serving(server, self.home / "servers", core=SERVER_CORE) as served:
            yield served

    def _load(self, served: Served, asks: Sequence[Ask], *, rate: float | None = None) -> Report:
        return measure(
            Load(
                port=served.port,
                asks=asks,
                connections=CROWD if rate is None else 8,
                seconds=self.seconds,
                rate=rate,
                core=CLIENT_CORE,
            )
        )


@contextmanager
def reading(port: int) -> Iterator[None]:
    """Read the API `READS_PER_S` times a second from another thread while the block runs."""
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        with on_core(CLIENT_CORE):
            connection = http.client.HTTPConnection(HOST, port, timeout=10)
            began, number = time.monotonic(), 0
            while not stop.is_set():
                number += 1
                connection.request("GET", f"/mlops/api/{READS[number % len(READS)]}")
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    failures.append(f"{READS[number % len(READS)]}: {answer.status}")
                stop.wait(max(0.0, began + number / READS_PER_S - time.monotonic()))
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


def judge_planes(what: str, pair: Pair, least: float) -> Figure:
    """The promised share of the bare replica's rate."""
    return Figure(
        f"{what}, {CROWD} clients, behind the API : bare",
        f"{pair.ratio:.3f}",
        f">= {least:.2f}, none failed",
        pair.ratio >= least and not pair.failed,
        f"bare {pair.bare[0]}; behind {pair.behind[0]}",
    )


# Reads -------------------------------------------------------------------------------------------


def make_constant() -> FastAPI:
    """The peer: a route that returns a constant."""
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @api.get("/constant")
    async def read_constant() -> dict[str, int]:
        return {"total_models": 15}

    return api


async def call(app: ASGIApp, path: str) -> int:
    """One GET as the server hands it over; returns the status."""
    plain, _, query = path.partition("?")
    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": plain, "raw_path": plain.encode(), "query_string": query.encode(),
        "root_path": "", "headers": [(b"host", b"127.0.0.1:8005")],
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8005), "state": {},
    }  # fmt: skip
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(scope, receive, send)
    return status


def cpu_of_call(app: ASGIApp, path: str, times: int) -> float:
    """CPU seconds of this process for one GET, on average over so many."""

    async def call_often() -> float:
        await call(app, path)
        began = time.process_time()
        for _ in range(times):
            status = await call(app, path)
            if status != 200:
                raise RuntimeError(f"{path} answers {status}")
        return (time.process_time() - began) / times

    return asyncio.run(call_often())


@contextmanager
def open_world(home: Path, versions: int) -> Iterator[MLOpsManager]:
    """An installation of `SERVICES` services with so many versions, all in rows alone."""
    settings = Settings(mlops_base_path=home, mlflow_tracking_uri="", store_url="", _env_file=None)
    manager = MLOpsManager(settings)
    fill_store(manager.store, versions)
    yield manager
    manager.store.close()


def fill_store(store: Store, versions: int) -> None:
    """Write versions, an equal number for each service; the first of a service is its baseline."""
    why = Why(AT, actor="bench", reason="rows to list")
    with store.write() as connection:
        for number in range(versions):
            symbol = f"C{number % SERVICES:02d}"
            key = f"sample.{symbol.lower()}-usd.1h.volatility.24"
            row = ModelVersion(
                model_id=f"linear_{symbol}_{number:06d}", service=key,
                mlflow_version=number // SERVICES + 1, run_id="run", model_type="linear",
                symbol=f"{symbol}/USD", status=Status.CHALLENGER, digest="0" * 64, bundle_uri="",
                watermark="0" * 64, trained_until=AT, recipe_digest="0" * 64, claims_only=False,
                code_version="bench", created_at=AT + timedelta(minutes=number),
                report={"text": NOTE}, metrics={"mse": 0.1}, notes={"text": NOTE},
            )  # fmt: skip
            insert_version(connection, row, why)
            if number < SERVICES:
                begin_route(connection, key, row.model_id, why)


def compare_reads(home: Path, *, quick: bool) -> list[Figure]:
    """CPU of dashboard and live beside a constant, and of a page of few and many versions."""
    times = 200 if quick else 3_000
    with open_world(home / "few", FEW) as few:
        api = build_api(ApiContext(few))
        constant = make_constant()
        figures = [judge_read(path, lambda: api, constant, times) for path in READS[:2]]
        few_cost = min(cpu_of_call(api, f"/mlops/api/{READS[2]}", times // 20) for _ in range(3))
    many = 2_000 if quick else MANY
    with open_world(home / "many", many) as long:
        api = build_api(ApiContext(long))
        many_cost = min(cpu_of_call(api, f"/mlops/api/{READS[2]}", times // 20) for _ in range(3))
    ratio = many_cost / few_cost
    return [
        *figures,
        Figure(
            f"{READS[2]} of {many:,} versions : of {FEW}, CPU",
            f"{ratio:.2f}",
            "<= 1.5",
            ratio <= 1.5,
            f"{many_cost * 1e3:.2f} ms and {few_cost * 1e3:.2f} ms",
        ),
    ]


def judge_read(path: str, open_api: Callable[[], ASGIApp], constant: ASGIApp, times: int) -> Figure:
    """CPU of a read beside that of a route which returns a constant, the rounds in turn."""
    api = open_api()
    costs: dict[str, list[float]] = {"ours": [], "constant": []}
    for _ in range(3):
        costs["constant"].append(cpu_of_call(constant, "/constant", times))
        costs["ours"].append(cpu_of_call(api, f"/mlops/api/{path}", times))
    ours, peer = min(costs["ours"]), min(costs["constant"])
    return Figure(
        f"{path}, {SERVICES} services : a FastAPI route that returns a constant, CPU",
        f"{ours / peer:.2f}",
        "<= 4",
        ours <= 4 * peer,
        f"{ours * 1e6:.0f} and {peer * 1e6:.0f} us",
    )


def figures(*, quick: bool = False) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        reads = compare_reads(home, quick=quick)
        bench = Bench(home, quick=quick)
        return [*bench.compare_planes(), *reads, bench.forecast_beside_reads()]
