"""`make serve`: starts every process on one machine and stops all of them on Ctrl-C.

The replica (8005), Prefect server and UI (4200) with a worker, the MLflow UI (5000); Prefect and
MLflow on loopback only. Where no service exists yet, the embedded sample's baseline goes live, with
a replay clock that is labelled as such, so that a forecast can be requested at once.

Nothing starts where a port is taken or the folder is served already. The replica is up first, and
no forecast waits for the others. It stops last, so that no rollout sees its replica go; the next
start carries a rollout on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deployments import prefect_server
from deployments.ports import check_ports
from deployments.processes import ServerProcess, hold_folder
from mlops import logs
from mlops.data.calendar import calendar_for
from mlops.data.load import load_bars
from mlops.errors import SettingsError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import open_installation
from mlops.registry.baseline import ensure_service
from mlops.service import Service
from mlops.settings import Settings, current_settings
from mlops.store import Why, list_routes

LOOPBACK = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
FIRST_SERVICE = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
LATE_S = 120.0
"""Seconds after which a process that is not up is told as late."""

RESTART_S, LONGEST_RESTART_S = 2.0, 60.0
"""Seconds before the first restart and the longest wait; doubled by each that does not last."""

LASTING_S = 60.0
"""Seconds after which a process has lasted."""

POLL_S = 0.5

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A run without a heartbeat for three of these is marked crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


@dataclass(slots=True)
class Part:
    """A process of `make serve` and how it fares.

    Args:
        page: The address that people open; empty where it has none.
        after: The part that must be up before this one starts.
        is_needed: Nothing else makes sense where this one cannot start.
        start_at: A second of `time.monotonic`.
    """

    process: ServerProcess
    page: str = ""
    after: Part | None = None
    is_needed: bool = False
    is_up: bool = False
    is_started: bool = False
    is_told_late: bool = False
    started_at: float = 0.0
    start_at: float = 0.0
    delay_s: float = RESTART_S


class Supervisor:
    """Starts parts in order, restarts those that end, and stops all in reverse order."""

    def __init__(
        self, parts: Sequence[Part], environment: Mapping[str, str], logs: Path, console: Console
    ) -> None:
        self.parts = parts
        self.environment = environment
        self.logs = logs
        self.console = console
        self.stopping = threading.Event()
        logs.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Keep all parts running until `stopping` is set, then stop them.

        Raises:
            SystemExit: when a part that is needed ends before it was up, naming its log.
        """
        try:
            while not self.stopping.wait(POLL_S):
                for part in self.parts:
                    self._look_after(part)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all parts, the first one last."""
        for part in reversed(self.parts):
            part.process.stop()

    def _look_after(self, part: Part) -> None:
        if not part.is_started:
            if (part.after is None or part.after.is_up) and time.monotonic() >= part.start_at:
                self._start(part)
        elif not part.process.is_alive():
            self._plan_restart(part)
        elif not part.is_up:
            self._look_whether_up(part)

    def _start(self, part: Part) -> None:
        part.process.start(self.environment, self.logs / f"{part.process.name}.log")
        part.is_started, part.started_at = True, time.monotonic()

    def _plan_restart(self, part: Part) -> None:
        """Have it started again later; a part that does not last waits twice as long."""
        name, log = part.process.name, part.process.log
        if part.is_needed and not part.is_up:
            raise SystemExit(f"{name} did not start; see {log}")
        # What is left of its session would hold its port.
        part.process.stop()
        lasted = time.monotonic() - part.started_at >= LASTING_S
        part.delay_s = RESTART_S if lasted else min(part.delay_s * 2, LONGEST_RESTART_S)
        part.start_at = time.monotonic() + part.delay_s
        part.is_started = part.is_told_late = False
        self.console.print(
            f"{name} ended; starting it again in {part.delay_s:.0f} s; see {log}", style="yellow"
        )

    def _look_whether_up(self, part: Part) -> None:
        name = part.process.name
        if part.process.is_up():
            part.is_up = True
            self.console.print(f"{name:<15} {part.page or 'running'}", highlight=False)
        elif not part.is_told_late and time.monotonic() - part.started_at > LATE_S:
            part.is_told_late = True
            self.console.print(
                f"still waiting for {name} at {part.process.url}; see {part.process.log}",
                style="yellow",
            )


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


def list_parts(settings: Settings, given: argparse.Namespace) -> list[Part]:
    """What to start, in order."""
    page = f"http://{settings.api_host}:{given.port}"
    command = [sys.executable, "-m", "deployments.replica", "--port", str(given.port)]
    replica = Part(ServerProcess("replica", command, f"{page}/readyz"), page, is_needed=True)
    if given.only_replica:
        return [replica]
    server = Part(
        prefect_server.make_server(Path(os.environ["PREFECT_HOME"]), given.prefect_port),
        f"http://{LOOPBACK}:{given.prefect_port}",
        after=replica,
    )
    worker = Part(
        ServerProcess(
            "prefect-worker",
            [sys.executable, "-m", "deployments.setup", "--then-work"],
            stop_with=signal.SIGINT,
        ),
        after=server,
    )
    parts = [replica, server, worker]
    tracking_uri = open_installation(settings).registry.tracking.uri
    if not is_server(tracking_uri):
        parts.append(make_mlflow(tracking_uri, given.mlflow_port, after=replica))
    return parts


def is_server(tracking_uri: str) -> bool:
    """Whether MLflow's records are kept by a server, which has pages of its own."""
    return tracking_uri.startswith(("http://", "https://"))


def make_mlflow(tracking_uri: str, port: int, *, after: Part) -> Part:
    """The MLflow UI over these records."""
    page = f"http://{LOOPBACK}:{port}"
    command = ["-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    environment = {
        # It may hold a password, which a command would show to every user.
        "MLFLOW_BACKEND_STORE_URI": tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    process = ServerProcess(
        "mlflow", [sys.executable, *command], f"{page}/health", environment=environment
    )
    return Part(process, page, after=after)


def list_ports(settings: Settings, given: argparse.Namespace) -> dict[str, tuple[str, int]]:
    """Host and port of each part that listens, by the flag or setting that chooses the port."""
    ports = {"API_PORT or --port": (settings.api_host, given.port)}
    if not given.only_replica:
        ports["--prefect-port"] = (LOOPBACK, given.prefect_port)
        if not is_server(settings.tracking_uri):
            ports["--mlflow-port"] = (LOOPBACK, given.mlflow_port)
    return ports


def set_environment(settings: Settings, given: argparse.Namespace, home: Path) -> None:
    """Tell this process and all that it starts where Prefect and MLflow are."""
    os.environ.update(QUIET)
    if given.only_replica:
        return
    os.environ["PREFECT_API_URL"] = f"http://{LOOPBACK}:{given.prefect_port}/api"
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    prefect_server.copy_empty_database(Path(os.environ["PREFECT_HOME"]))
    if "mlflow_ui_url" not in settings.model_fields_set:
        os.environ["MLFLOW_UI_URL"] = f"http://{LOOPBACK}:{given.mlflow_port}"


def describe_use(services: Sequence[str], page: str) -> str:
    """What people do with what runs here."""
    lines = [f"serving {', '.join(services)}; ask it:", f"  curl -s {page}/services"]
    lines += [f"  curl -s {page}/services/{shlex.quote(name)}/forecast" for name in services[:1]]
    if "PREFECT_API_URL" in os.environ:
        lines.append("for notebooks and `prefect` commands:")
        lines.append(f"  export PREFECT_API_URL={os.environ['PREFECT_API_URL']}")
    return "\n".join(lines)


def parse_arguments(settings: Settings) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make serve", description=__doc__)
    parser.add_argument("--port", type=int, default=settings.api_port)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--only-replica", action="store_true", help="no Prefect, no MLflow UI")
    return parser.parse_args()


def serve(settings: Settings, given: argparse.Namespace, home: Path) -> None:
    """Run all parts until Ctrl-C."""
    check_ports(list_ports(settings, given))
    set_environment(settings, given, home)
    start_sample_service(settings)
    console = Console()
    parts = list_parts(settings, given)
    supervisor = Supervisor(parts, os.environ, home / "logs", console)
    # A closed terminal sends SIGHUP.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stopping.set())
    services = sorted(route.service for route in list_routes(open_installation(settings).store))
    console.print(describe_use(services, parts[0].page), highlight=False, soft_wrap=True)
    console.print(f"logs in {supervisor.logs}; Ctrl-C stops everything", highlight=False)
    supervisor.run()


def main() -> None:
    """Start all processes, print their addresses, and stop all on Ctrl-C."""
    settings = current_settings()
    given = parse_arguments(settings)
    logs.configure(settings.log_format, settings.log_level)
    home = settings.mlops_base_path.resolve()
    try:
        with hold_folder(home):
            serve(settings, given, home)
    except SettingsError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
