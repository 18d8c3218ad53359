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
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deployments import prefect_server
from deployments.ports import check_ports
from deployments.processes import ServerProcess, hold_folder
from deployments.supervisor import Part, Supervisor
from mlops import logs
from mlops.api.browsers import is_loopback
from mlops.data.calendar import calendar_for
from mlops.data.load import load_bars
from mlops.errors import SettingsError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import Installation, open_installation
from mlops.paths import expand_path
from mlops.registry.baseline import ensure_service
from mlops.registry.tracking import resolve_tracking_uri
from mlops.service import Service
from mlops.settings import Settings, current_settings
from mlops.store import Why, list_routes

LOOPBACK = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
FIRST_SERVICE = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A run without a heartbeat for three of these is marked crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


def start_sample_service(settings: Settings) -> None:
    """Where there is no service yet, make the baseline of the sample's service live."""
    installation = open_installation(settings)
    if list_routes(installation.store):
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
    ensure_service(installation.registry, FIRST_SERVICE, dataset, why)


def list_parts(settings: Settings, given: argparse.Namespace) -> list[Part]:
    """What to start, in order."""
    page = f"http://{settings.api_host}:{given.port}"
    command = [sys.executable, "-m", "deployments.replica", "--port", str(given.port)]
    use = describe_use(page, open_installation(settings))
    replica = Part(ServerProcess("replica", command, f"{page}/readyz"), page, use, is_needed=True)
    if given.only_replica:
        return [replica]
    server = Part(
        prefect_server.make_server(Path(os.environ["PREFECT_HOME"]), given.prefect_port, settings),
        f"http://{LOOPBACK}:{given.prefect_port}",
        f"\nfor notebooks and `prefect` commands: export PREFECT_API_URL={prefect_api(given)}",
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
    if is_server(settings.tracking_uri):
        return [replica, server, worker]
    return [replica, server, worker, make_mlflow(settings, given.mlflow_port, after=replica)]


def is_server(tracking_uri: str) -> bool:
    """Whether MLflow's records are kept by a server, which has pages of its own."""
    return tracking_uri.startswith(("http://", "https://"))


def make_mlflow(settings: Settings, port: int, *, after: Part) -> Part:
    """The MLflow UI over this installation's records."""
    records = resolve_tracking_uri(settings.tracking_uri)
    if records.artifacts is not None:
        records.artifacts.mkdir(parents=True, exist_ok=True)
    page = f"http://{LOOPBACK}:{port}"
    command = ["-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    environment = {
        # It may hold a password, which a command would show to every user.
        "MLFLOW_BACKEND_STORE_URI": records.uri,
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


def prefect_api(given: argparse.Namespace) -> str:
    return f"http://{LOOPBACK}:{given.prefect_port}/api"


def set_environment(settings: Settings, given: argparse.Namespace, home: Path) -> None:
    """Tell this process and all that it starts where Prefect and MLflow are."""
    os.environ.update(QUIET)
    if given.only_replica:
        return
    os.environ["PREFECT_API_URL"] = prefect_api(given)
    prefect_home = find_prefect_home(home)
    os.environ["PREFECT_HOME"] = str(prefect_home)
    os.environ.update(prefect_server.name_database(prefect_home, os.environ))
    prefect_server.copy_empty_database(prefect_home)
    if "mlflow_ui_url" not in settings.model_fields_set:
        os.environ["MLFLOW_UI_URL"] = f"http://{LOOPBACK}:{given.mlflow_port}"


def find_prefect_home(home: Path) -> Path:
    """The folder of Prefect's server: PREFECT_HOME, or one under the base path.

    Raises:
        SettingsError: when PREFECT_HOME names a user or variable that there is not.
    """
    given = os.environ.get("PREFECT_HOME")
    if not given:
        return home / "prefect"
    try:
        return Path(expand_path(given, os.environ))
    except ValueError as error:
        raise SettingsError(f"PREFECT_HOME={given!r}: {error}") from error


def describe_use(page: str, installation: Installation) -> str:
    """How a replica is asked for the forecasts of its services, as lines of a shell."""
    services = sorted(route.service for route in list_routes(installation.store))
    return f"""{describe_api(page, installation.settings)}
serving {", ".join(services)}; ask for forecasts:
  curl -s {page}/services
  curl -s {page}/services/{services[0]}/forecast"""


def describe_api(page: str, settings: Settings) -> str:
    """Where the HTTP API is; empty where the replica does not answer it."""
    if not (settings.api_in_replica and is_loopback(settings.api_host)):
        return ""
    return f"""
HTTP API {page}/mlops/api, its paths {page}/mlops/api/docs; ask it:
  curl -s {page}/mlops/api/models"""


def parse_arguments(settings: Settings) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make serve", description=__doc__)
    parser.add_argument("--port", type=int, default=settings.api_port)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--only-replica", action="store_true", help="no Prefect, no MLflow UI")
    return parser.parse_args()


def make_supervisor(
    settings: Settings, parts: Sequence[Part], home: Path, console: Console
) -> Supervisor:
    """A supervisor of these parts, whose logs are as large as the settings allow."""
    log_bytes = int(settings.serve_log_mb * 1024**2)
    return Supervisor(parts, os.environ, home / "logs", console, log_bytes=log_bytes)


def serve(settings: Settings, given: argparse.Namespace, home: Path) -> None:
    """Run all parts until Ctrl-C."""
    check_ports(list_ports(settings, given))
    set_environment(settings, given, home)
    start_sample_service(settings)
    console = Console()
    parts = list_parts(settings, given)
    supervisor = make_supervisor(settings, parts, home, console)
    # A closed terminal sends SIGHUP.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stopping.set())
    console.print(
        f"logs in {supervisor.logs}; Ctrl-C stops everything", highlight=False, soft_wrap=True
    )
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
