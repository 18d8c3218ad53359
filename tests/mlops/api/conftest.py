"""A service whose champion, challenger and refused version the API tells of, and a client."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from mlops.api.app import build_api
from mlops.api.context import ApiContext
from mlops.arrays import naive_utc
from mlops.manager import MLOpsManager
from mlops.settings import Settings
from mlops.store import Phase, Status, Store, Why, get_version
from mlops.store.forecasts import ForecastRow, Role
from mlops.store.outcome_writes import OutcomeBatch, ServiceOutcomeChanges, write_outcomes
from mlops.store.routes import change_route, read_route
from mlops.store.schema import forecast, rollout
from mlops.store.versions import change_status, insert_version
from mlops.validation.report import GateReport, GateResult
from tests.conftest import mlflow_forgets
from tests.mlops.monitoring.ticker import forecast_row
from tests.mlops.registry.conftest import AT, SERVICE
from tests.mlops.serving.conftest import KEY, Library, library_once

__all__ = ["KEY", "Client", "World", "client", "library_once", "made_world", "own_world", "world"]

HOUR = timedelta(hours=1)
OUTCOMES = 48
"""Bars of the service that both versions forecast and whose outcome is known."""

FIRST_BAR = AT
REFUSED_REPORT = GateReport(
    candidate="linear",
    target="volatility",
    mode="skill",
    alpha=0.05,
    results=(
        GateResult(
            name="G2", title="skill", value=0.2, threshold=0.05, passed=False, reason="noise"
        ),
    ),
).to_dict()


class Client:
    """Asks an application as HTTP does; each call is answered before the next one."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8005")

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer to a path under ``/mlops/api``, or to one that begins with a slash."""
        address = path if path.startswith("/") else f"/mlops/api/{path}"
        return self._runner.run(self._http.request(method, address, **given))

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        return self.request("POST", path, **given)

    def close(self) -> None:
        self._runner.run(self._http.aclose())
        self._runner.close()


@dataclass(frozen=True)
class World:
    """A service on its champion, with outcomes of `OUTCOMES` bars since `FIRST_BAR`.

    Champion, challenger and baseline have real bundles; ``refused`` is a row alone, as are
    forecasts and outcomes. No test that shares the world changes what another one reads.
    """

    manager: MLOpsManager
    client: Client
    library: Library
    baseline: str
    champion: str
    challenger: str
    refused: str
    service: str = KEY

    @property
    def store(self) -> Store:
        return self.manager.store

    def end_rollouts(self) -> None:
        """Let every rollout have failed, with no replica to undo it."""
        with self.store.write() as connection:
            connection.execute(rollout.update().values(phase=Phase.FAILED, ended_at=AT))


@pytest.fixture(scope="module")
def world(library_once: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once for a file of tests, which mostly read it."""
    with made_world(library_once, tmp_path_factory.mktemp("api")) as made:
        yield made


@pytest.fixture(scope="module")
def client(world: World) -> Client:
    return world.client


@pytest.fixture
def own_world(library_once: Library, tmp_path: Path) -> Iterator[World]:
    """A world that a single test may change."""
    with made_world(library_once, tmp_path) as made:
        yield made


@contextmanager
def made_world(
    library: Library, folder: Path, *, context: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[World]:
    """A world of a test's own, with these settings.

    Args:
        folder: Empty; the store goes there.
        context: More fields of the API's context.
    """
    shutil.copy(library.folder / "store.db", folder / "store.db")
    values: dict[str, Any] = {
        "mlops_base_path": library.folder,
        "store_url": f"sqlite:///{folder / 'store.db'}",
        "mlflow_tracking_uri": f"file://{library.folder / 'mlruns'}",
    }
    manager = MLOpsManager(Settings(_env_file=None, **values | settings))
    champion, challenger = library.versions
    refused = _write_rows(manager.store, champion, challenger)
    api_context = ApiContext(manager, **context or {})
    client = Client(build_api(api_context))
    with mlflow_forgets():
        yield World(manager, client, library, library.baseline, champion, challenger, refused)
    api_context.close()
    client.close()
    manager.store.close()


def _write_rows(store: Store, champion: str, challenger: str) -> str:
    """Make the champion live, and add a refused version, forecasts and outcomes."""
    why = Why(AT, actor="anna", reason="it is better")
    model = get_version(store, challenger)
    refused = replace(
        model,
        model_id="linear_BTC_20250102_000000",
        mlflow_version=model.mlflow_version + 1,
        status=Status.REFUSED,
        report=REFUSED_REPORT,
        created_at=model.created_at + HOUR,
    )
    with store.write() as connection:
        insert_version(connection, refused, why)
        route = read_route(connection, KEY)
        assert route is not None
        after = replace(route, champion=champion, previous_champion=route.baseline)
        change_route(connection, route, after, "promote", why)
        change_status(connection, champion, Status.DEPLOYED, why)
        connection.execute(forecast.insert(), list(_list_forecasts(champion, challenger)))
    _write_outcomes(store)
    return refused.model_id


def _list_forecasts(champion: str, challenger: str) -> Iterator[dict[str, Any]]:
    for bar in range(OUTCOMES):
        opened = FIRST_BAR + bar * HOUR
        for model_id, role, error in (
            (champion, Role.RECORD, 0.1),
            (challenger, Role.SHADOW, 0.2),
        ):
            row = forecast_row(
                SERVICE, opened, value=outcome_of(bar) + error, model_id=model_id, role=role
            )
            yield {name: getattr(row, name) for name in ForecastRow.__slots__}


def outcome_of(bar: int) -> float:
    """The outcome of a bar, counted from `FIRST_BAR`."""
    return float(np.sin(bar / 3.0))


def _write_outcomes(store: Store) -> None:
    opened = np.array([naive_utc(FIRST_BAR + bar * HOUR, "us") for bar in range(OUTCOMES)])
    new = OutcomeBatch(
        bar=opened,
        known_at=opened + np.timedelta64(SERVICE.horizon + 1, "h"),
        value=np.array([outcome_of(bar) for bar in range(OUTCOMES)]),
        persistence=np.zeros(OUTCOMES),
        baseline=np.full(OUTCOMES, 0.5),
        next_return=np.full(OUTCOMES, 0.01),
    )
    none = OutcomeBatch(*(getattr(new, name)[:0] for name in OutcomeBatch.__slots__))
    changes = ServiceOutcomeChanges(
        service=KEY, new=new, arrived=none, revised=none,
        revisions=np.empty(0, dtype=np.int64), missing=opened[:0],
    )  # fmt: skip
    write_outcomes(store, [changes], at=datetime.now(UTC))
