"""The servers that are compared, each a child process on one core with one thread to compute.

`mlflow models serve` comes with the project. LitServe and BentoML do not: each gets a virtual
environment of its own, which sees the project's packages, under ``.mlops/peers``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

from benchmarks.load import HOST, ROOT, on_core
from benchmarks.served import BatchFirst, Place
from mlops.settings import Settings

START_S = 120.0
STOP_S = 20.0
LOOK_S = 0.1
LOG_TAIL = 3_000
"""Characters of a failed server's log that are shown."""

PEERS_HOME = ROOT / ".mlops" / "peers"
INSTALL_S = 300.0


@dataclass(frozen=True, slots=True)
class Server:
    """A command that serves at ``{port}``, and a path that answers 200 when it does."""

    name: str
    command: Sequence[str]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers; its log goes to ``log``."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> bytes:
        """The body of a GET; raises where the status is no success."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=10) as answer:
            found: bytes = answer.read()
        return found


@contextmanager
def serving(server: Server, home: Path, *, core: int | None) -> Iterator[Served]:
    """The server, ready, on that core; it and its children are gone after the block.

    Raises:
        RuntimeError: when it ends or is not ready in time, with the end of its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home / f"{server.name}.log".replace(" ", "-")
    command = [part.format(port=port) for part in server.command]
    with log.open("wb") as out, on_core(core):
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=home,  # where no .env of the user's lies
            env=surroundings() | dict(server.environment),
            start_new_session=True,
        )
    try:
        served = Served(port, process, log)
        _await_ready(server, served)
        yield served
    finally:
        _end(process)


def _await_ready(server: Server, served: Served) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and served.process.poll() is None:
        try:
            served.get(server.ready)
        except (URLError, OSError):
            time.sleep(LOOK_S)
        else:
            return
    raise RuntimeError(
        f"{server.name} does not serve (exit status {served.process.poll()}):\n"
        + served.log.read_text(errors="replace")[-LOG_TAIL:]
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole session: `mlflow models serve` starts its server through a shell."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def surroundings() -> dict[str, str]:
    """The environment without any setting of the user's, one thread for every library."""
    ours = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return kept | {
        "PATH": own,  # MLflow starts uvicorn by its name
        "PYTHONPATH": path,
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "DO_NOT_TRACK": "true",
        "BENTOML_DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def replica(place: Place, *, batching: bool = True) -> Server:
    """Our replica, started by its usual command."""
    command = [sys.executable, "-m", "deployments.replica", "--host", HOST, "--port", "{port}"]
    return Server(
        name=f"ours, batching {'on' if batching else 'off'}",
        command=[*command, "--batching", "on" if batching else "off"],
        ready="/readyz",
        environment={"MLOPS_BASE_PATH": str(place.home.resolve())},
    )


def echo() -> Server:
    """A server that computes nothing."""
    command = [sys.executable, "-m", "benchmarks.echo", "{port}"]
    return Server(name="echo", command=command, ready="/")


def mlflow_network(place: Place, folder: Path) -> Server:
    """The same network as MLflow keeps torch models by default, served by MLflow."""
    import mlflow.pytorch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter, about the LSTM's own buffers
        mlflow.pytorch.save_model(
            BatchFirst(place.network),
            str(folder),
            # Of two windows: the exporter would take one for a size that never changes.
            input_example=place.features(2).numpy(),
            pip_requirements=["torch"],  # found out by a slow trial otherwise
        )
    return _mlflow("mlflow", folder)


def mlflow_bundle(place: Place) -> Server:
    """Our bundle, features and all, served by MLflow."""
    return _mlflow("mlflow of our bundle", place.logged)


def _mlflow(name: str, model: Path) -> Server:
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [str(mlflow), "models", "serve", "-m", str(model), "-p", "{port}", "-h", HOST]
    return Server(name=name, command=[*command, "--env-manager", "local"], ready="/ping")


def other_server(package: str, place: Place, folder: Path) -> Server | None:
    """LitServe or BentoML around the same network; None where it cannot be installed."""
    python = _installed(package)
    if python is None:
        return None
    weights = folder / f"{package}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    from safetensors.torch import save_model

    save_model(place.network, str(weights))
    started = {
        "litserve": [str(python), "-m", "benchmarks.litserve_app", "{port}"],
        "bentoml": [
            *(str(python), "-m", "bentoml", "serve", "benchmarks.bentoml_app:Lstm"),
            *("--port", "{port}", "--host", HOST, "--working-dir", str(ROOT)),
        ],
    }
    return Server(
        name=package,
        command=started[package],
        ready="/health" if package == "litserve" else "/readyz",
        environment={"SERVED_WEIGHTS": str(weights), "BENTOML_HOME": str(folder / "bentoml")},
    )


def _installed(package: str) -> Path | None:
    """The Python of the package's own environment, made on first use."""
    home = PEERS_HOME / package
    python, done = home / "bin" / "python", home / ".installed"
    if done.exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
        site_packages = next(home.glob("lib/python*/site-packages"))
        # What the project has already is used from there; only what is missing is installed.
        (site_packages / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", package],
            check=True, capture_output=True, timeout=INSTALL_S,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError, StopIteration):
        return None
    done.touch()
    return python
