"""`make serve`: starts every process on one machine and stops all of them on Ctrl-C.

Prefect server and UI (4200) with a worker, the replica (8005), the MLflow UI (5000); on loopback
only. Where no service exists yet, the embedded sample's baseline goes live, with a replay clock
that is labelled as such, so that a forecast can be requested at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deployments.processes import ServerProcess
from mlops import logs
from mlops.data.calendar import calendar_for
from mlops.data.load import load_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import open_installation
from mlops.registry.baseline import ensure_service
from mlops.service import Service
from mlops.settings import Settings, current_settings
from mlops.store import Why, list_routes

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
FIRST_SERVICE = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
READY_S = 120.0
RESTART_S = 2.0
POLL_S = 0.5

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A run without a heartbeat for three of these is marked crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


class Supervisor:
    """Starts processes in order, restarts those that die, stops all in reverse order."""

    def __init__(self, environment: Mapping[str, str], logs: Path, console: Console) -> None:
        self.environment = environment
        self.logs = logs
        self.console = console
        self.processes: list[ServerProcess] = []
        self.stopping = threading.Event()
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, process: ServerProcess) -> None:
        """Start a process and wait until it is up.

        Raises:
            SystemExit: when it is not up within `READY_S`, naming its log.
        """
        process.start(self.environment, self.logs / f"{process.name}.log")
        self.processes.append(process)
        try:
            process.wait_until_up(within_s=READY_S, stopping=self.stopping)
        except SystemExit:
            self.stop()
            raise

    def watch(self) -> None:
        """Restart processes that die, until `stopping` is set."""
        while not self.stopping.wait(POLL_S):
            for process in self.processes:
                if not process.is_alive():
                    self.console.print(f"{process.name} ended; starting it again", style="yellow")
                    self.stopping.wait(RESTART_S)
                    process.start(self.environment, self.logs / f"{process.name}.log")

    def stop(self) -> None:
        """Stop all processes, the last one started first."""
        self.stopping.set()
        for process in reversed(self.processes):
            process.stop()


def start_sample_service(settings: Settings) -> None:
    """Where there is no service yet, make the baseline of the sample's service live."""
    registry = open_installation(settings).registry
    if list_routes(registry.store):
        return
    bars = load_bars(FIRST_SERVICE, cache_root=settings.bars_path)
    dataset = Dataset(
        bars.frame,
        timeframe=FIRST_SERVICE.timeframe,
        target=TargetSpec(FIRST_SERVICE.target, FIRST_SERVICE.horizon),
        calendar=calendar_for(FIRST_SERVICE.venue, FIRST_SERVICE.symbol),
        provenance=bars.provenance,
    )
    why = Why(datetime.now(UTC), actor="serve", reason="the first service of this machine")
    ensure_service(registry, FIRST_SERVICE, dataset, why)


def list_processes(
    settings: Settings, given: argparse.Namespace
) -> list[Callable[[], ServerProcess]]:
    """What to start, in order; each function is called when the process before it is up."""
    python, host = sys.executable, settings.api_host
    replica = ServerProcess(
        "replica",
        [python, "-m", "deployments.replica", "--port", str(given.port)],
        f"http://{host}:{given.port}/readyz",
    )
    if given.only_replica:
        return [lambda: replica]
    prefect, loopback = [python, "-m", "prefect"], "127.0.0.1"
    server = ServerProcess(
        "prefect-server",
        [*prefect, "server", "start", "--host", loopback, "--port", str(given.prefect_port)],
        f"http://{loopback}:{given.prefect_port}/api/health",
    )
    worker = ServerProcess(
        "prefect-worker",
        [*prefect, "worker", "start", "--pool", "mlops-pool"],
        stop_with=signal.SIGINT,
    )
    mlflow = ServerProcess(
        "mlflow",
        [python, "-m", "mlflow", "server", "--host", loopback, "--port", str(given.mlflow_port),
         "--backend-store-uri", open_installation(settings).registry.tracking.uri],
        f"http://{loopback}:{given.mlflow_port}/health",
    )  # fmt: skip
    return [lambda: replica, lambda: server, lambda: deploy_flows(worker), lambda: mlflow]


def deploy_flows(worker: ServerProcess) -> ServerProcess:
    """Make the work pool and the deployments on the Prefect server; returns the worker."""
    environment = {**os.environ, "MLOPS_PROJECT_DIR": str(Path.cwd())}
    for command in (
        ["-m", "deployments.setup"],
        ["-m", "prefect", "--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return worker


def main() -> None:
    """Start all processes, print their URLs, and stop all on Ctrl-C."""
    settings = current_settings()
    parser = argparse.ArgumentParser(prog="make serve", description=__doc__)
    parser.add_argument("--port", type=int, default=settings.api_port)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--only-replica", action="store_true", help="no Prefect, no MLflow UI")
    given = parser.parse_args()
    logs.configure(settings.log_format, settings.log_level)
    home = settings.mlops_base_path.resolve()
    os.environ.update(QUIET)
    if not given.only_replica:
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{given.prefect_port}/api"
        os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    console = Console()
    start_sample_service(settings)
    supervisor = Supervisor(os.environ, home / "logs", console)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stopping.set())
    try:
        for make_process in list_processes(settings, given):
            if supervisor.stopping.is_set():
                break
            process = make_process()
            supervisor.start(process)
            console.print(f"{process.name:<15} {process.url or 'running'}", highlight=False)
        services = ", ".join(r.service for r in list_routes(open_installation(settings).store))
        console.print(f"serving {services}; logs in {supervisor.logs}; Ctrl-C stops everything")
        supervisor.watch()
    finally:
        supervisor.stop()


if __name__ == "__main__":
    main()
