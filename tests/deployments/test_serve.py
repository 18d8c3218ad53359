"""`make serve` answers real clients: the README's curl, MLflow's own, an Open Inference client."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from deployments import serve
from deployments.processes import ServerProcess, answers, free_port
from deployments.supervisor import Part
from mlops.data.bars import COLUMNS
from mlops.data.sources.samples import SampleSource
from mlops.errors import SettingsError
from mlops.registry.tracking import _import_quietly
from mlops.service import Timeframe
from mlops.settings import Settings
from tests.awkward import COMBINED
from tests.deployments.demo.test_main import processes_naming
from tests.project import seeded

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SERVICE = "sample.btc-usd.1h.volatility.24"
BARS = 24


@dataclass(frozen=True)
class Served:
    """A running `deployments.serve`, and where it answers."""

    process: subprocess.Popen[str]
    port: int
    home: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Served]:
    home, port = tmp_path_factory.mktemp("serve"), free_port()
    seeded(home / "mlops", mlflow_template)
    with (home / "out.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.serve", "--only-replica", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "MLOPS_BASE_PATH": str(home / "mlops")},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for_a_forecast(process, port, home)
            yield Served(process, port, home)
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """By SIGTERM: one that is killed cannot end its replica."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_a_forecast(process: subprocess.Popen[str], port: int, home: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            for path in (f"/services/{SERVICE}/forecast", "/readyz"):
                urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).close()
            return
        except (URLError, OSError):
            time.sleep(0.2)
    pytest.fail((home / "out.log").read_text()[-3000:])


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    frame = SampleSource().fetch("BTC/USD", Timeframe("1h"))
    return frame[list(COLUMNS)].iloc[-BARS:]


def expected(bars: pd.DataFrame) -> float:
    """Persistence of the last day, written out once more (Parkinson 1980)."""
    spread = np.log(bars["high"] / bars["low"]) ** 2 / (4 * np.log(2))
    return float(np.mean(0.5 * np.log(np.maximum(spread, 1e-10))))


def curls() -> list[str]:
    """The commands of the README that ask a running replica."""
    return re.findall(r"^curl .*$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("line", curls())
def test_the_readmes_curl_is_answered(served: Served, line: str) -> None:
    command = shlex.split(line.replace("localhost:8005", f"127.0.0.1:{served.port}"))
    done = subprocess.run(
        [*command, "--fail-with-body"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_has_curls() -> None:
    assert len(curls()) >= 2


CALLS = {
    "services": 200,
    "models?status=deployed": 200,
    "models?model_type": 200,
    "models/register": 422,
    "models/deploy": 200,
    "experiments/ab-test": 422,
    "evaluate": 404,
    "monitoring/start-continuous": 409,
    "monitoring/dashboard": 200,
    "jobs": 503,
}
"""Status of each printed call where a baseline serves alone, without Prefect, and every id is its
own: it is live already, no test of it with itself can be, and nobody watches it."""


def printed_calls() -> list[str]:
    """The commands of the page of the API, but for those that a first child works on, which takes
    long: test_api_round.py has them."""
    page = (ROOT / "docs" / "api.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in re.split(r"\n(?=\S)", block.strip())]
    return [
        line
        for line in commands
        if line.startswith("curl") and not re.search("/judge|/file|/drift", line)
    ]


@pytest.mark.parametrize("line", printed_calls())
def test_a_printed_call_of_the_api_is_answered(served: Served, line: str) -> None:
    with urlopen(f"http://127.0.0.1:{served.port}/mlops/api/models") as answer:
        (model,) = json.load(answer)["models"]
    own = re.sub(r"(lstm|transformer)_BTC_\d+_\d+", model["model_id"], line)
    # A backslash at the end of a line joins it with the next one, as in a shell.
    joined = own.replace("\\\n", " ").replace("127.0.0.1:8005", f"127.0.0.1:{served.port}")
    command = shlex.split(joined)
    done = subprocess.run(
        [*command, "--write-out", "\n%{http_code}"], capture_output=True, text=True, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    (expected_status,) = [code for words, code in CALLS.items() if matches(words, line)]
    assert int(status) == expected_status, body
    json.loads(body)


def matches(words: str, line: str) -> bool:
    """Whether a command asks the path of these words."""
    return re.search(rf"(/mlops/api|ab-3f9c)/{re.escape(words)}(?=['&=? \n]|$)", line) is not None


def test_the_printed_calls_are_those_of_the_platform() -> None:
    asked = [words for line in printed_calls() for words in CALLS if matches(words, line)]
    assert sorted(asked) == sorted(CALLS)


def test_the_address_of_the_api_is_printed(served: Served) -> None:
    printed = (served.home / "out.log").read_text()
    page = f"http://127.0.0.1:{served.port}/mlops/api"
    assert f"HTTP API {page}, its paths {page}/docs" in printed
    with urlopen(f"{page}/docs") as answer:
        assert answer.status == 200


def test_the_forecast_of_the_newest_bar_says_where_its_data_are_from(served: Served) -> None:
    with urlopen(f"http://127.0.0.1:{served.port}/services/{SERVICE}/forecast") as answer:
        said = json.load(answer)
        assert answer.headers["x-variant"] == "champion"
    assert said["data"] == "BTC/USD sample, 2017-2019"
    assert said["low"] < said["forecast"] < said["high"]


def test_mlflows_own_client_is_answered(served: Served, bars: pd.DataFrame) -> None:
    _import_quietly()
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", served.port)
    client.ping()
    assert client.get_version()
    made = client.invoke(bars).get_predictions()
    assert made["forecast"].tolist() == [pytest.approx(expected(bars), abs=1e-6)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_open_inference_client_is_answered(served: Served, bars: pd.DataFrame) -> None:
    from tritonclient import http as triton

    values = bars.to_numpy()[None]
    given = triton.InferInput("bars", list(values.shape), "FP64")
    given.set_data_from_numpy(values, binary_data=False)
    asked = triton.InferRequestedOutput("forecast", binary_data=False)
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}")
    try:
        assert client.is_server_ready()
        assert client.is_model_ready(SERVICE)
        assert client.get_model_metadata(SERVICE)["outputs"][0]["name"] == "forecast"
        for packed in (None, "gzip", "deflate"):
            answer = client.infer(
                SERVICE,
                [given],
                outputs=[asked],
                request_id="mine",
                request_compression_algorithm=packed,
            )
            assert answer.as_numpy("forecast") == pytest.approx([expected(bars)], abs=1e-6)
            assert answer.get_response()["id"] == "mine"
    finally:
        client.close()


def test_a_second_one_on_its_port_says_so_and_starts_nothing(
    served: Served, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, api_port=served.port)
    with pytest.raises(SettingsError, match=rf"port {served.port} is taken by process .*--port"):
        serve.serve(settings, arguments(settings, only_replica=True), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_one_in_its_folder_says_so_and_starts_nothing(served: Served) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployments.serve", "--only-replica", "--port", str(free_port())],
        cwd=ROOT,
        env={**os.environ, "MLOPS_BASE_PATH": str(served.home / "mlops")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"{served.home / 'mlops'} is already served by process {served.process.pid}: stop it, or "
        "set MLOPS_BASE_PATH to another folder. Nothing was started\n"
    )


def test_one_ctrl_c_leaves_nothing_running(served: Served) -> None:
    """Last, for it ends what the others ask."""
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=60) == 0
    assert processes_naming(str(served.home)) == []


@pytest.mark.slow
def test_every_process_works_in_a_folder_with_an_awkward_name(
    tmp_path: Path, mlflow_template: Path
) -> None:
    base, cwd = tmp_path / "base" / COMBINED, tmp_path / "cwd"
    seeded(base, mlflow_template)
    cwd.mkdir()
    ports = {name: free_port() for name in ("port", "prefect-port", "mlflow-port")}
    pages = [
        f"http://127.0.0.1:{port}/{path}"
        for port, path in zip(ports.values(), ("readyz", "api/health", "health"), strict=True)
    ]
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    with (tmp_path / "out.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.serve", *(f"--{n}={p}" for n, p in ports.items())],
            cwd=cwd,
            env={**kept, "PYTHONPATH": str(ROOT), "MLOPS_BASE_PATH": str(base)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 240
        while not all(map(answers, pages)):
            assert process.poll() is None
            assert time.monotonic() < until, (tmp_path / "out.log").read_text()
            time.sleep(0.5)
        model = f"api/2.0/mlflow/registered-models/get?name={SERVICE}"
        url = f"http://127.0.0.1:{ports['mlflow-port']}/{model}"
        with urlopen(url, timeout=30) as answer:
            assert json.load(answer)["registered_model"]["name"] == SERVICE
        # The server has it open, and no other.
        assert (base / "prefect" / "prefect.db-wal").exists()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "cwd", "out.log"]
    assert [path.name for path in (tmp_path / "base").iterdir()] == [COMBINED]
    assert list(cwd.iterdir()) == []


def settings_of(home: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, mlops_base_path=home, **changes)  # type: ignore[call-arg]


def arguments(settings: Settings, **changes: Any) -> argparse.Namespace:
    given = {
        "port": settings.api_port,
        "prefect_port": 4200,
        "mlflow_port": 5000,
        "only_replica": False,
    }
    return argparse.Namespace(**given | changes)


def test_no_command_shows_the_password_of_mlflows_database(tmp_path: Path) -> None:
    uri = "postgresql://user:secret@host/mlflow"
    settings = settings_of(tmp_path, mlflow_tracking_uri=uri)
    part = serve.make_mlflow(settings, 5100, after=Part(ServerProcess("replica", [])))
    assert "secret" not in " ".join(part.process.command)
    assert part.process.environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert part.process.command[-2:] == ["--workers", "1"]


def test_ports_are_asked_for_what_runs_here(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert [port for _, port in serve.list_ports(settings, arguments(settings)).values()] == [
        8005,
        4200,
        5000,
    ]
    only = arguments(settings, only_replica=True)
    assert list(serve.list_ports(settings, only)) == ["API_PORT or --port"]
    elsewhere = settings_of(tmp_path, mlflow_tracking_uri="http://user:secret@mlflow:5000")
    assert "--mlflow-port" not in serve.list_ports(elsewhere, arguments(elsewhere))


def test_flow_runs_learn_where_prefect_and_mlflow_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    settings = settings_of(tmp_path)
    serve.set_environment(
        settings, arguments(settings, prefect_port=4300, mlflow_port=5100), tmp_path
    )
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
    assert os.environ["MLFLOW_UI_URL"] == "http://127.0.0.1:5100"
    named = settings_of(tmp_path, mlflow_ui_url="https://mlflow.example")
    monkeypatch.setattr(os, "environ", {})
    serve.set_environment(named, arguments(named), tmp_path)
    assert "MLFLOW_UI_URL" not in os.environ


@pytest.mark.parametrize("given", ["~/prefect", "$HOME/prefect", "${HOME}/prefect"])
def test_prefects_home_may_name_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "PREFECT_HOME": given})
    assert serve.find_prefect_home(tmp_path / "base") == tmp_path / "prefect"


def test_prefects_home_of_an_unknown_variable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"PREFECT_HOME": "$NOPE/prefect"})
    with pytest.raises(SettingsError, match=r"PREFECT_HOME=.*'NOPE'"):
        serve.find_prefect_home(tmp_path)


def test_logs_begin_anew_at_the_size_that_the_setting_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_LOG_MB", "2")
    made = serve.make_supervisor(settings_of(tmp_path), [], tmp_path, Console())
    assert made.log_bytes == 2 * 1024**2
