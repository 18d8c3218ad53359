"""A second machine, set up by the recipe of docs/operations.md, serves, trains and registers.

Both machines share a Postgres store and an MLflow server, and nothing else: the first one's files
lie in a folder that belongs to another user, and the second one's processes lack the right to pass
over that. The market is a loopback exchange whose clock is the wall clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest

from deployments.processes import free_port, stop_process
from mlops.data.simulator import simulate_bars
from mlops.settings import Settings
from tests.mlops.data.exchange_replay import Replay, klines, serving
from tests.postgres import Server

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user"),
]

SERVICE = "binance.btc-usdt.1h.volatility.24"
NOBODY = 65_534
BARS = 2600
KEY = "keys/bundle.key"
TRAIN = """
import sys
from flows.train import train
from mlops import TrainingConfig
quick = TrainingConfig(refits=2, holdout_refits=2, features=("har_1", "har_24"), sequence_length=3,
                       trials=1, data_window_days=60, params={"alpha": float(sys.argv[1])},
                       start=sys.argv[2])
live = {"auto_deploy": True, "deployment_strategy": "blue_green"}
made = train("BTC/USDT", "linear", venue="binance", training=quick, deployment_config=live)
print("trained", made.model_id, made.status)
"""
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


class WallReplay(Replay):
    """An exchange whose clock is the wall clock."""

    def _now_ms(self) -> float:
        return time.time() * 1000


class Machine:
    """One machine's base path, environment and processes.

    Args:
        obeys_modes: Its processes may read only what the modes of files allow.
    """

    def __init__(self, base: Path, shared: dict[str, str], *, obeys_modes: bool) -> None:
        self.base, self.obeys_modes = base, obeys_modes
        self.base.mkdir(parents=True)
        self.port = free_port()
        plain = {
            name: value
            for name, value in os.environ.items()
            if name.lower() not in Settings.model_fields
        }
        self.environment = plain | shared | {"MLOPS_BASE_PATH": str(base)}

    def run(self, code: str, *arguments: str) -> str:
        """Run Python code as a process of this machine; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment,
            preexec_fn=_obey_modes if self.obeys_modes else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @contextmanager
    def replica(self) -> Iterator[None]:
        with (self.base / "replica.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.replica", "--port", str(self.port)],
                env=self.environment,
                preexec_fn=_obey_modes if self.obeys_modes else None,  # noqa: PLW1509
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield
            finally:
                stop_process(process, within_s=20.0)

    def forecast(self) -> dict[str, Any] | None:
        """The answer to `GET /services/{service}/forecast`; None while it is no 200."""
        address = f"http://127.0.0.1:{self.port}/services/{SERVICE}/forecast"
        try:
            with urlopen(address, timeout=5.0) as answer:
                return dict(json.load(answer))
        except (URLError, ConnectionError, TimeoutError):
            return None

    def log(self) -> str:
        return (self.base / "replica.log").read_text()[-3000:]


def test_a_second_machine_serves_trains_and_registers(
    tmp_path: Path, postgres: Server, prefect_template: Path
) -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2400)
    frame = simulate_bars(BARS, seed=4, start=start)
    exchange = WallReplay({"BTCUSDT": klines(frame)}, now=start)
    with ExitStack() as stack:
        stack.enter_context(serving(exchange))
        # The server belongs to an ordinary user, and its socket lies in that user's folder.
        postgres.folder.chmod(0o711)
        postgres.create("two_machines")
        stack.callback(postgres.drop, "two_machines")
        tracking = stack.enter_context(mlflow_server(tmp_path / "server"))
        shared = {
            "STORE_URL": postgres.url("two_machines"),
            "MLFLOW_TRACKING_URI": tracking,
            "EXCHANGE_BASE_URL": exchange.url,
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "OMP_NUM_THREADS": "1",
            "ROLLOUT_DWELL_SECONDS": "0.5",
            "ROLLOUT_BAKE_SECONDS": "0.5",
        }
        first, second = (
            Machine(
                tmp_path / name,
                shared | prefect_home(tmp_path / f"prefect-{name}", prefect_template),
                obeys_modes=name == "second",
            )
            for name in ("first", "second")
        )
        assert "trained" in first.run(TRAIN, "1.0", start.isoformat())

        (second.base / "keys").mkdir(mode=0o700)
        shutil.copy(first.base / KEY, second.base / KEY)
        (second.base / KEY).chmod(0o600)
        os.chown(first.base, NOBODY, NOBODY)
        first.base.chmod(0o700)
        with pytest.raises(AssertionError, match="PermissionError"):
            second.run("import os, sys; os.listdir(sys.argv[1])", str(first.base))

        stack.enter_context(first.replica())
        wait_for(first.forecast, first)
        stack.enter_context(second.replica())
        one, other = wait_for(lambda: forecast_one_bar(first, second), second)
        assert one["forecast"] == other["forecast"]

        assert "trained" in second.run(TRAIN, "3.0", start.isoformat())
        assert second.forecast() is not None
        assert rows_naming(first.base, postgres.url("two_machines")) == []
        assert str(first.base).encode() not in (tmp_path / "server" / "mlflow.db").read_bytes()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """An MLflow server that serves artifacts; yields its address."""
    folder.mkdir()
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            wait_for(lambda: is_up(f"http://127.0.0.1:{port}/health"), None)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop_process(process, within_s=20.0)


def prefect_home(folder: Path, template: Path) -> dict[str, str]:
    folder.mkdir()
    shutil.copy(template, folder / "prefect.db")
    return {"PREFECT_HOME": str(folder)}


def is_up(address: str) -> bool:
    try:
        with urlopen(address, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False


def wait_for(asked: Callable[[], Any], machine: Machine | None, *, within_s: float = 120.0) -> Any:
    """What ``asked`` gives once it gives anything."""
    end = time.monotonic() + within_s
    while not (given := asked()):
        assert time.monotonic() < end, "not in time" if machine is None else machine.log()
        time.sleep(0.5)
    return given


def forecast_one_bar(*machines: Machine) -> list[dict[str, Any]] | None:
    """What each machine forecasts; None while a bar has closed between their answers."""
    told = [machine.forecast() for machine in machines]
    answered = [answer for answer in told if answer is not None]
    same = len({answer["bar"] for answer in answered}) == 1
    return answered if same and len(answered) == len(machines) else None


def rows_naming(path: Path, url: str) -> list[str]:
    """Tables and columns of the store with a value that contains the path."""
    found = []
    with psycopg.connect(url) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type IN ('text', 'character varying')"
        ).fetchall()
        for table, column in columns:
            query = f"SELECT {column} FROM {table} WHERE {column} LIKE %s LIMIT 1"
            row = connection.execute(query, (f"%{path}%",)).fetchone()
            found += [] if row is None else [f"{table}.{column}: {row[0][:300]}"]
    return found


def _obey_modes() -> None:
    """Give up root's rights to pass over the modes of files, from the next `exec` on."""
    libc = ctypes.CDLL(None, use_errno=True)
    for right in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "the right could not be given up")
