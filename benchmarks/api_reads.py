"""What reads over the HTTP API cost: pages that are polled, and lists of many versions.

Answers are asked of the application in this process, without a socket, which would hide part of
the difference. CPU seconds of the best of a few runs count.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from benchmarks.figure import Figure, best_seconds
from mlops.api.app import build_api
from mlops.api.context import ApiContext
from mlops.manager import MLOpsManager
from mlops.settings import Settings
from mlops.store import Store
from mlops.store.schema import forecast, outcome, route, version

MOST_OF_CONSTANT, MOST_OF_FEW = 4.0, 1.5
SERVICES, FEW_SERVICES, BARS = 500, 50, 168
MANY, FEW = 10_000, 200
START = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TEXT = "x" * 3_000
"""Report and notes of a version are together as long as real ones."""


def open_manager(folder: Path) -> MLOpsManager:
    """A manager of an empty installation."""
    return MLOpsManager(Settings(_env_file=None, mlops_base_path=folder))


def insert_versions(store: Store, count: int, *, services: int) -> None:
    """Versions an hour apart; the first of each service is deployed."""
    rows = [
        {
            "model_id": f"linear_S_{number}",
            "service": name_service(number % services),
            "mlflow_version": number + 1,
            "run_id": "run",
            "model_type": "linear",
            "symbol": "S/USD",
            "status": "deployed" if number < services else "refused",
            "digest": "",
            "bundle_uri": "",
            "watermark": "",
            "recipe_digest": "",
            "claims_only": False,
            "report": {"text": TEXT},
            "metrics": {"mse": 0.1},
            "notes": {"text": TEXT},
            "code_version": "1",
            "created_at": START + number * HOUR,
        }
        for number in range(count)
    ]
    with store.write() as connection:
        connection.execute(version.insert(), rows)


def insert_services(store: Store, count: int) -> None:
    """Services on their first versions, with forecasts and outcomes of a week of hours."""
    with store.write() as connection:
        for number in range(count):
            service, model_id = name_service(number), f"linear_S_{number}"
            usual = {"weight_bp": 0, "mirror_bp": 0, "salt": "", "generation": 1}
            times = {"created_at": START, "updated_at": START}
            live = {"service": service, "champion": model_id, "baseline": model_id}
            connection.execute(route.insert().values(**live, **usual, **times))
            bars = [START + bar * HOUR for bar in range(BARS)]
            made = {"model_id": model_id, "role": "record", "made_at": START, "generation": 1,
                    "replica_id": "r", "bars_digest": ""}  # fmt: skip
            connection.execute(
                forecast.insert(),
                [{"service": service, "bar": bar, "value": bar.hour / 7, **made} for bar in bars],
            )
            connection.execute(
                outcome.insert(),
                [
                    {"service": service, "bar": bar, "value": bar.hour / 6, "persistence": 1.0,
                     "revisions": 0}
                    for bar in bars
                ],
            )  # fmt: skip


def name_service(number: int) -> str:
    return f"sample.s{number:04}-usd.1h.volatility.24"


def make_constant() -> FastAPI:
    """The peer: a route of FastAPI that returns a constant."""
    plain = FastAPI()

    @plain.get("/constant")
    async def get_constant() -> dict[str, int]:
        return {"value": 1}

    return plain


class Asker:
    """Asks applications for paths, one after the other, in one event loop."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def close(self) -> None:
        self.runner.close()

    def seconds(self, app: ASGIApp, path: str, *, times: int) -> float:
        """CPU seconds of one answer; the first one, which may be built, does not count."""
        self.runner.run(self._ask(app, path, 1))

        def work() -> None:
            self.runner.run(self._ask(app, path, times))

        return best_seconds(work, runs=5) / times

    def size(self, app: ASGIApp, path: str) -> int:
        """Bytes of an answer."""
        return self.runner.run(self._ask(app, path, 1))

    async def _ask(self, app: ASGIApp, path: str, times: int) -> int:
        size = 0
        for _ in range(times):
            size = await ask(app, path)
        return size


async def ask(app: ASGIApp, target: str) -> int:
    """Bytes of the answer of an application to a path with its query; it must be a 200."""
    path, _, query = target.partition("?")
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "root_path": "", "headers": [(b"host", b"127.0.0.1:8005")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8005),
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    return sum(len(message.get("body", b"")) for message in sent)


def figures(*, quick: bool = False) -> list[Figure]:
    """Polled answers beside a constant one, and lists and overviews of many beside few."""
    times = 30 if quick else 300
    with closing(Asker()) as asker:
        return [
            *measure_polled(asker, times=times, services=20 if quick else FEW_SERVICES),
            measure_list(asker, times=times // 10, many=1_000 if quick else MANY),
            measure_services(asker, many=60 if quick else SERVICES),
        ]


def measure_polled(asker: Asker, *, times: int, services: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="api-reads-") as folder:
        manager = open_manager(Path(folder))
        insert_versions(manager.store, services, services=services)
        insert_services(manager.store, services)
        api = build_api(ApiContext(manager))
        constant = asker.seconds(make_constant(), "/constant", times=times)
        found = [
            judge_ratio(
                f"CPU of an answer of {name}, times that of a constant",
                asker.seconds(api, f"/mlops/api/monitoring/{name}", times=times),
                constant,
                MOST_OF_CONSTANT,
                "a route of FastAPI that returns a constant",
            )
            for name in ("dashboard", "live")
        ]
        manager.store.close()
    return found


def measure_list(asker: Asker, *, times: int, many: int) -> Figure:
    def read(count: int, folder: Path) -> float:
        manager = open_manager(folder)
        insert_versions(manager.store, count, services=20)
        api = build_api(ApiContext(manager))
        seconds = asker.seconds(api, "/mlops/api/models?limit=50", times=times)
        manager.store.close()
        return seconds

    many_s, few_s = _compare(read, many)
    return judge_ratio(
        f"CPU of models?limit=50 of {many:,} versions, times that of {FEW}",
        many_s, few_s, MOST_OF_FEW, f"the same list of {FEW} versions",
    )  # fmt: skip


def measure_services(asker: Asker, *, many: int) -> Figure:
    def read(count: int, folder: Path) -> float:
        manager = open_manager(folder)
        insert_versions(manager.store, count, services=count)
        insert_services(manager.store, count)
        api = build_api(ApiContext(manager))
        size = asker.size(api, "/mlops/api/monitoring/live")
        manager.store.close()
        return float(size)

    many_bytes, few_bytes = _compare(read, many, few=FEW_SERVICES)
    return judge_ratio(
        f"bytes of live of {many} services, times those of {FEW_SERVICES}",
        many_bytes, few_bytes, MOST_OF_FEW, f"{few_bytes / 1024:.0f} KiB of {FEW_SERVICES}",
        unit=1024.0, named="KiB",
    )  # fmt: skip


def _compare(
    read: Callable[[int, Path], float], many: int, *, few: int = FEW
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="api-reads-") as folder:
        return read(many, Path(folder) / "many"), read(few, Path(folder) / "few")


def judge_ratio(
    what: str,
    measured: float,
    peer: float,
    most: float,
    beside: str,
    *,
    unit: float = 1e-6,
    named: str = "µs",
) -> Figure:
    """The figure of a ratio that is promised to be small."""
    ratio = measured / peer
    return Figure(
        what=what,
        measured=f"{ratio:.2f} ({measured / unit:,.0f} {named})",
        asked=f"at most {most:g}",
        holds=ratio <= most,
        peer=f"{beside}: {peer / unit:,.0f} {named}",
    )
