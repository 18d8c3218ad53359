"""On a real server what `prefect deploy --all` makes of prefect.yaml turns an event into a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from mlops.store.triggers import Cause
from tests.prefect_server import PrefectServer, running, runs, until

pytestmark = pytest.mark.slow
SERVICE = "sample.btc-usd.1h.volatility.24"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prefect_template: Path
) -> Iterator[PrefectServer]:
    with running(tmp_path_factory.mktemp("prefect"), prefect_template) as started:
        started.deploy_all()
        yield started


@pytest.fixture
def client(server: PrefectServer) -> Iterator[SyncPrefectClient]:
    with server.client() as opened:
        yield opened


RING = """
import sys
from mlops.store.triggers import Cause
from tasks.events import emit_trigger_event
for _ in range(int(sys.argv[3])):
    emit_trigger_event(sys.argv[1], Cause(sys.argv[2]))
"""


def ring(server: PrefectServer, service: str, cause: Cause, times: int = 1) -> None:
    """From a process of its own, as the monitor does it: events leave when it ends."""
    server.run("-c", RING, service, cause, str(times))


def test_a_doorbell_starts_one_retraining_of_its_service(
    client: SyncPrefectClient, server: PrefectServer
) -> None:
    ring(server, SERVICE, Cause.DRIFT, times=5)
    [run] = until(lambda: runs(client, "retrain/on-event"))
    assert run.parameters == {"service": SERVICE}
    ring(server, SERVICE.replace("btc", "eth"), Cause.PERFORMANCE)
    until(lambda: len(runs(client, "retrain/on-event")) == 2)


def test_what_watches_and_repairs_is_scheduled(client: SyncPrefectClient) -> None:
    for deployment, times in (("monitor/hourly", {":07"}), ("reconcile/every-5-minutes", None)):
        found = until(lambda name=deployment: runs(client, name))
        starts = {run.expected_start_time.strftime(":%M") for run in found}
        assert times is None or starts == times
