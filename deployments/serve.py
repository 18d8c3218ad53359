"""`make serve`: everything on one machine, one command, one Ctrl-C.

Prefect server and UI (4200) with a worker, the replica (8005), the MLflow UI (5000); loopback
only. A machine that serves nothing yet begins with the embedded sample: its baseline under a
labelled replay clock, so that a forecast can be asked for at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console

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
STOP_S = 20.0
RESTART_S = 2.0
LOOK_S = 0.5

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A run without a heartbeat for three of these is marked crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


@dataclass(slots=True)
class ServerProcess:
    """One process: how it is started, asked whether it is up, and told to stop."""

    name: str
    command: Sequence[str]
    url: str | None = None
    stop_with: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, environment: Mapping[str, str], log: Path) -> None:
        """Start it in a session of its own: Ctrl-C is this command's to hear, and to pass on."""
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                list(self.command),
                env=dict(environment),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def up(self) -> bool:
        """Whether it answers; a part without an address is up while it lives."""
        if self.url is None:
            return self.alive()
        try:
            with urlopen(self.url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def stop(self) -> None:
        """Ask it to end, and end it where it does not."""
        if self.process is None or not self.alive():
            return
        self.process.send_signal(self.stop_with)
        try:
            self.process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Supervisor:
    """Starts parts in order, starts again what dies, stops all in reverse."""

    def __init__(self, environment: Mapping[str, str], logs: Path, console: Console) -> None:
        self.environment = environment
        self.logs = logs
        self.console = console
        self.parts: list[ServerProcess] = []
        self.told = threading.Event()
        logs.mkdir(parents=True, exist_ok=True)

    def add(self, part: ServerProcess) -> None:
        """Start a part and wait until it answers.

        Raises:
            SystemExit: when it does not, naming its log.
        """
        log = self.logs / f"{part.name}.log"
        part.start(self.environment, log)
        self.parts.append(part)
        until = time.monotonic() + READY_S
        while not part.up():
            if not part.alive() or time.monotonic() > until:
                self.stop()
                raise SystemExit(f"{part.name} did not start; see {log}")
            if self.told.wait(LOOK_S):
                return

    def watch(self) -> None:
        """Until told to stop, start again what has died."""
        while not self.told.wait(LOOK_S):
            for part in self.parts:
                if not part.alive():
                    self.console.print(f"{part.name} ended; starting it again", style="yellow")
                    self.told.wait(RESTART_S)
                    part.start(self.environment, self.logs / f"{part.name}.log")

    def stop(self) -> None:
        """Stop what runs, last started first."""
        self.told.set()
        for part in reversed(self.parts):
            part.stop()


def start_sample_service(settings: Settings) -> None:
    """Where nothing is served yet, put the sample's service on its baseline."""
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
    """What to start, in order; each is made when the one before it is up."""
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
    """The worker, once its pool and what it may run are there."""
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
    """Start everything, say where it is, and stop it all on Ctrl-C."""
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
        signal.signal(number, lambda *_: supervisor.told.set())
    try:
        for make in list_processes(settings, given):
            if supervisor.told.is_set():
                break
            part = make()
            supervisor.add(part)
            console.print(f"{part.name:<15} {part.url or 'running'}", highlight=False)
        services = ", ".join(r.service for r in list_routes(open_installation(settings).store))
        console.print(f"serving {services}; logs in {supervisor.logs}; Ctrl-C stops everything")
        supervisor.watch()
    finally:
        supervisor.stop()


if __name__ == "__main__":
    main()
