"""An installation that the code of commit 9ae3cdf left opens, loads and serves with today's.

`make_store.py` says what is in it and how it was made.
"""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from filelock import FileLock

from mlops.data.bars import COLUMNS
from mlops.manager import MLOpsManager
from mlops.models.bundle import Trust, trust_in_process
from mlops.models.golden import RELATIVE_TOLERANCE, deviation
from mlops.registry import load
from mlops.serving.runtime import headless_replica
from mlops.settings import Settings
from mlops.store import Phase, Status, get_route, list_forecasts
from mlops.store.alerts import list_alerts
from mlops.store.migrations import HEAD, current_revision
from mlops.store.monitor_runs import list_watches
from mlops.store.triggers import Cause, list_triggers
from tests.conftest import mlflow_forgets

ARCHIVE = Path(__file__).parent / "store-9ae3cdf.tar.xz"
HOME = Path("/tmp/mlops-9ae3cdf")
"""URIs of bundles and MLflow's artifact locations are absolute."""
LOCK = HOME.with_suffix(".lock")
LOAD_S = 60
SERVICE = "simulator.btc-usd.1h.volatility.24"
BASELINE, LINEAR, LSTM, ENSEMBLE = VERSIONS = tuple(
    f"{model_type}_BTC_20250310_000000"
    for model_type in ("persistence", "linear", "lstm", "ensemble")
)


@pytest.fixture
def manager() -> Iterator[MLOpsManager]:
    """The installation as it was left; one process at a time, because its path is fixed."""
    with FileLock(LOCK), mlflow_forgets():
        if HOME.exists():
            shutil.rmtree(HOME)
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(HOME.parent, filter="data")
        (HOME / "keys" / "bundle.key").chmod(0o600)
        try:
            opened = MLOpsManager(Settings(_env_file=None, mlops_base_path=HOME))
            # The next test's file may get the number of this one, and is not the same store.
            with closing(opened.installation):
                yield opened
        finally:
            trust_in_process(Trust())
            shutil.rmtree(HOME)


def test_it_opens_at_todays_schema_and_keeps_every_row(manager: MLOpsManager) -> None:
    with manager.store.read() as connection:
        assert current_revision(connection) == HEAD
    assert {version.model_id: version.status for version in manager.list_models()} == {
        BASELINE: Status.RETIRED,
        LINEAR: Status.DEPLOYED,
        LSTM: Status.CHALLENGER,
        ENSEMBLE: Status.REFUSED,
    }
    route = get_route(manager.store, SERVICE)
    assert route is not None
    assert (route.champion, route.previous_champion, route.baseline) == (LINEAR, BASELINE, BASELINE)
    (rollout,) = manager.rollouts()
    assert (rollout.phase, rollout.to_version) == (Phase.DONE, LINEAR)
    assert [reign.champion for reign in manager.live_history(SERVICE)][-1] == LINEAR
    assert len(list_forecasts(manager.store, SERVICE)) > 99
    assert [row.subject for row in list_alerts(manager.store)] == [LINEAR]
    assert [row.cause for row in list_triggers(manager.store)] == [Cause.PERSON]
    assert [row.model_id for row in list_watches(manager.store)] == [LSTM]


@pytest.mark.parametrize("model_id", VERSIONS)
def test_every_bundle_is_verified_and_reproduces_its_examples(
    manager: MLOpsManager, model_id: str
) -> None:
    bundle = load(manager.registry, model_id)
    assert bundle.check_examples() <= RELATIVE_TOLERANCE


def test_mlflow_loads_the_champion_by_its_alias(manager: MLOpsManager) -> None:
    import mlflow

    examples = load(manager.registry, LINEAR).examples()
    model = mlflow.pyfunc.load_model(f"models:/{SERVICE}@champion")
    forecast = model.predict(examples[0].bars)["forecast"].iloc[-1]
    assert forecast == pytest.approx(examples[0].expected, rel=RELATIVE_TOLERANCE)


def test_a_replica_serves_the_champions_golden_forecasts(manager: MLOpsManager) -> None:
    bundle = load(manager.registry, LINEAR)
    spread = float(bundle.config["spread"])
    with headless_replica(
        manager.store,
        home=HOME,
        trust=manager.trust,
        bundles=manager.registry.bundles,
        bars_root=HOME / "bars",
        on_demand=True,
    ) as replica:
        for example in bundle.examples():
            sending = ask_until_champion_answers(replica.runtime.app, example.bars)
            answer = asyncio.run_coroutine_threadsafe(sending, replica.loop).result()
            got = answer.json()["predictions"][-1]["forecast"]
            assert deviation(got, example.expected, spread) <= RELATIVE_TOLERANCE


async def ask_until_champion_answers(app: Any, bars: pd.DataFrame) -> httpx.Response:
    """The champion's answer; before it has loaded, the baseline answers, or nobody does."""
    async with asyncio.timeout(LOAD_S):
        while (answer := await ask(app, bars)).headers.get("x-model-version") != LINEAR:
            await asyncio.sleep(0.05)
    assert answer.status_code == 200, answer.text
    return answer


async def ask(app: Any, bars: pd.DataFrame) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
        return await client.post(
            f"/services/{SERVICE}/invocations",
            json={"instances": bars[list(COLUMNS)].to_numpy().tolist()},
        )
