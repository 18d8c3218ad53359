"""On a real server and worker the break of November 2018 leads to another champion, link by link.

Nothing is injected: the bars are those of the sample, the monitor is asked at two moments of it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from prefect.client.schemas.objects import FlowRun

from mlops.backup.restore import restore_backup
from mlops.backup.take import take_backup
from mlops.installation import Installation
from mlops.manager import MLOpsManager
from mlops.registry.version_history import trace
from mlops.serving.runtime import headless_replica
from mlops.settings import Settings, load_settings
from mlops.store import ModelVersion, Phase, Store, get_route, list_versions, open_store
from mlops.store.monitor_runs import list_checks
from mlops.store.schema import alert_notice, lease
from mlops.store.triggers import Answer, Cause, TriggerRow, TriggerState, list_triggers
from tests.conftest import mlflow_forgets
from tests.prefect_server import ROOT, PrefectServer, running, runs, until
from tests.project import seeded

SERVICE = "sample.btc-usd.1h.volatility.6"
BROKEN = "2018-11-15T03:00:00+00:00"
"""Nineteen hours into the break the demonstration, which looks every hour, raises the alarm."""
LATER = "2018-11-15T10:00:00+00:00"
"""When the cooldown after a training that died has passed."""

SWIFT = {
    "ROLLOUT_DWELL_SECONDS": "0.5",
    "ROLLOUT_BAKE_SECONDS": "0.5",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "OMP_NUM_THREADS": "1",
}
CHAMPION = """
import asyncio
from datetime import UTC, datetime
from flows.train import train
from mlops import MLOpsManager, mlops_config
from mlops.search.config import TrainingConfig
known = TrainingConfig(end=datetime(2018, 10, 14, tzinfo=UTC))
made = train("BTC/USD", "linear", venue="sample", horizon=6, training=known)
assert asyncio.run(MLOpsManager(mlops_config).deploy_model(made.model_id, "blue_green"))
"""
MONITOR = """
import sys
from datetime import datetime
from flows.monitor import monitor
monitor(now=datetime.fromisoformat(sys.argv[1]))
"""
VERDICT_ALONE = """
import sys
from datetime import datetime
from tasks import monitoring
run = monitoring.open_monitor_run(datetime.fromisoformat(sys.argv[1]))
for look in run.monitor.look(datetime.fromisoformat(sys.argv[1])):
    for _, cause in look.triggers:
        monitoring.emit_trigger_event(look.service, cause)
"""
RECONCILE = """
from flows.reconcile import reconcile
reconcile(carry_s=1.0)
"""
SOON_S = 120.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prefect_template: Path
) -> Iterator[PrefectServer]:
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in SWIFT.items():
            patch.setenv(name, value)
        with running(tmp_path_factory.mktemp("prefect"), prefect_template) as started:
            started.deploy_all()
            yield started


@pytest.fixture(scope="module")
def championed(
    server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Path:
    """A copy of a project whose champion was trained on what was known on 14 October 2018."""
    folder = tmp_path_factory.mktemp("championed")
    base = seeded(folder / "mlops", mlflow_template)
    server.run("-c", CHAMPION, env={"MLOPS_BASE_PATH": str(base)})
    with mlflow_forgets(), closing(Installation(Settings(mlops_base_path=base))) as installation:
        taken, _ = take_backup(installation, folder / "copies")
    return taken


@pytest.fixture
def base(championed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That project, restored in a place of the test's own."""
    base = tmp_path / "mlops"
    with mlflow_forgets(), closing(Installation(Settings(mlops_base_path=base))) as installation:
        restore_backup(installation, championed)
    monkeypatch.setenv("MLOPS_BASE_PATH", str(base))
    return base


@pytest.fixture
def store(base: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{base / 'store.db'}")) as opened:
        yield opened


class Worker:
    """A Prefect worker in a process of its own, that can be killed with all it started."""

    def __init__(self, server: PrefectServer) -> None:
        self.log = (server.home / "worker.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "mlops-pool"],
            cwd=ROOT,
            env=server.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def kill(self) -> None:
        """As when the machine loses its power."""
        family = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        for one in family:
            one.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.log.close()


@contextmanager
def working(server: PrefectServer) -> Iterator[Worker]:
    worker = Worker(server)
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def serving(base: Path) -> Iterator[None]:
    """A replica that carries rollouts, as in production."""
    manager = MLOpsManager(load_settings())
    with headless_replica(
        manager.store,
        home=base,
        trust=manager.trust,
        bundles=manager.registry.bundles,
        bars_root=manager.config.bars_path,
    ):
        yield
    manager.store.close()


def answered(store: Store) -> TriggerRow | None:
    """The drift trigger, once a version has answered it."""
    rows = [row for row in list_triggers(store, SERVICE) if row.cause is Cause.DRIFT]
    return next((row for row in rows if row.state is TriggerState.ANSWERED), None)


def live(store: Store, model_id: str) -> bool:
    route = get_route(store, SERVICE)
    return route is not None and route.champion == model_id


def new_version(store: Store) -> ModelVersion:
    """The one that the triggers led to."""
    [found] = [one for one in list_versions(store, service=SERVICE) if one.notes.get("triggers")]
    return found


def assert_every_link_holds(store: Store, retraining: FlowRun) -> None:
    """From the route back to the look, each row names the one before it."""
    version = new_version(store)
    path = trace(store, version.model_id)
    looks, triggers = path.looks, path.triggers
    assert {one.id for one in looks} <= {check.id for check in list_checks(store, SERVICE)}
    assert {one.verdict for one in triggers} == {one.id for one in looks}
    assert version.notes["triggers"] == [one.id for one in triggers]
    assert {one.model_id for one in triggers} == {version.model_id}
    assert {one.answer for one in triggers} == {Answer.CHALLENGER}
    assert path.flow_run == str(retraining.id)
    assert version.report is not None
    assert version.report["passed"]
    assert path.rollout is not None
    assert (path.rollout.to_version, path.rollout.phase) == (version.model_id, Phase.DONE)
    assert path.live_period is not None
    route = get_route(store, SERVICE)
    assert route is not None
    assert (route.champion, route.previous_champion) == (version.model_id, looks[0].model_id)


@pytest.mark.slow
def test_the_break_is_alarmed_retrained_on_judged_and_rolled_out(
    server: PrefectServer, base: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with working(server), serving(base), server.client() as client:
        before = {run.id for run in runs(client, "retrain/on-event")}
        server.run("-c", MONITOR, BROKEN)
        # On a slow machine two events of one look start two runs: one of them finds nothing to do.
        row = until(lambda: answered(store), SOON_S)
        new = [one for one in runs(client, "retrain/on-event") if one.id not in before]
        [retraining] = [one for one in new if str(one.id) == row.claimed_by]
        until(lambda: live(store, new_version(store).model_id), SOON_S)
        until(lambda: trace(store, new_version(store).model_id).rollout.phase.final, SOON_S)
        run = client.read_flow_run(retraining.id)
    assert run.created_by.type == "AUTOMATION"
    assert_every_link_holds(store, run)
    assert run.start_time is not None
    seconds = run.start_time.timestamp() - verdict_at(store)
    with capsys.disabled():
        print(f"\nfrom the verdict to the run that answers it: {seconds:.1f} s")


@pytest.mark.faults
def test_a_server_that_was_down_and_a_worker_that_was_killed_only_delay_it(
    server: PrefectServer, base: Path, store: Store
) -> None:
    server.stop()
    server.run("-c", VERDICT_ALONE, BROKEN)
    assert [row.state for row in list_triggers(store, SERVICE)] == [TriggerState.WAITING]
    server.start()
    with serving(base), server.client() as client:
        before = {run.id for run in runs(client, "retrain/on-event")}
        with working(server) as worker:
            ring_until_tried(server, store, times=1)
            worker.kill()
        assert not any(one.notes.get("triggers") for one in list_versions(store, service=SERVICE))
        let_leases_run_out(store)
        with working(server):
            server.run("-c", MONITOR, LATER)
            ring_until_tried(server, store, times=2)
            until(lambda: answered(store), SOON_S)
            until(lambda: live(store, new_version(store).model_id), SOON_S)
            until(lambda: trace(store, new_version(store).model_id).rollout.phase.final, SOON_S)
        row = answered(store)
        assert row is not None
        after = [run for run in runs(client, "retrain/on-event") if run.id not in before]
        [retraining] = [run for run in after if str(run.id) == row.claimed_by]
    assert row.attempts == 2
    assert_every_link_holds(store, retraining)


def verdict_at(store: Store) -> float:
    """When the verdict was written: its alert is in the same transaction."""
    with store.read() as connection:
        return float(
            connection.execute(sa.select(sa.func.max(alert_notice.c.written_at))).scalar_one()
        )


def ring_until_tried(server: PrefectServer, store: Store, *, times: int) -> None:
    """As the schedule does every five minutes: of rings close to one another one is heard.

    It ends as soon as a training has begun, and does not wait for who rang.
    """
    end = time.monotonic() + SOON_S
    while not tried(store, times):
        with ringing(server) as process:
            while process.poll() is None and not tried(store, times):
                assert time.monotonic() < end, f"nobody came within {SOON_S:g} s"
                time.sleep(0.1)


def tried(store: Store, times: int) -> bool:
    return max(row.attempts for row in list_triggers(store, SERVICE)) >= times


@contextmanager
def ringing(server: PrefectServer) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", RECONCILE]
    with (server.home / "reconcile.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=server.environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def let_leases_run_out(store: Store) -> None:
    """A minute and a half in which the dead process renews nothing."""
    with store.write() as connection:
        connection.execute(
            lease.update().where(lease.c.name == f"training:{SERVICE}").values(until=0.0)
        )
