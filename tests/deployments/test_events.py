"""On a real server what `prefect deploy --all` makes of prefect.yaml turns an event into a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import setup
from deployments.golive import free_port
from mlops.store.triggers import Cause

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SERVICE = "sample.btc-usd.1h.volatility.24"
START_S, SOON_S = 120.0, 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of its own with every service it has; its API's address."""
    port, home = free_port(), tmp_path_factory.mktemp("prefect")
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: answers(f"{url}/health"), START_S)
            yield url
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[SyncPrefectClient]:
    with using(server), get_client(sync_client=True) as opened:
        setup.set_up(opened)
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": server, "MLOPS_PROJECT_DIR": str(ROOT)},
            check=True,
            capture_output=True,
        )
        yield opened


@contextmanager
def using(server: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: server}):
        yield


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except (URLError, OSError):
        return False


def until(seen: Callable[[], Any], seconds: float = SOON_S) -> Any:
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.2)
    return found


def runs(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    wanted = client.read_deployment_by_name(deployment).id
    return [run for run in client.read_flow_runs(limit=200) if run.deployment_id == wanted]


def ring(server: str, service: str, cause: Cause) -> None:
    """From a process of its own, as the monitor does it: events leave when it ends."""
    code = (
        "import sys; from mlops.store.triggers import Cause; from tasks.triggers import ring; "
        "ring(sys.argv[1], Cause(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, service, cause],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": server},
        check=True,
    )


def test_a_doorbell_starts_one_retraining_of_its_service(
    client: SyncPrefectClient, server: str
) -> None:
    for _ in range(5):
        ring(server, SERVICE, Cause.DRIFT)
    [run] = until(lambda: runs(client, "retrain/on-event"))
    assert run.parameters == {"service": SERVICE}
    ring(server, SERVICE.replace("btc", "eth"), Cause.PERFORMANCE)
    until(lambda: len(runs(client, "retrain/on-event")) == 2)


def test_what_watches_and_repairs_is_scheduled(client: SyncPrefectClient) -> None:
    for deployment, times in (("monitor/hourly", {":07"}), ("reconcile/every-5-minutes", None)):
        found = until(lambda name=deployment: runs(client, name))
        starts = {run.expected_start_time.strftime(":%M") for run in found}
        assert times is None or starts == times
