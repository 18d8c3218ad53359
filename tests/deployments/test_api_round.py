"""The platform's own calls by curl, and the whole round by a client that a generator wrote."""

from __future__ import annotations

import base64
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.fuzz.http_api import FuzzedApi, serve_api
from tests.stores import DATABASES, new_database

pytestmark = pytest.mark.slow

GENERATOR = "openapi-python-client==0.29.1"
"""It has an environment of its own, because it needs an older typer than Prefect."""

PATIENCE_S = 120.0
METRICS = {"mse": 0.05, "mae": 0.03, "r2_score": 0.92, "accuracy": 0.85}
TRAINED_UNTIL = "2018-06-01T00:00:00Z"


@pytest.fixture(scope="module", params=DATABASES)
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FuzzedApi]:
    """On an empty database of each kind."""
    with ExitStack() as stack:
        url = ""
        if request.param == "postgres":
            url = stack.enter_context(new_database(request.getfixturevalue("postgres")))
        folder = tmp_path_factory.mktemp(f"round-{request.param}")
        yield stack.enter_context(serve_api(folder, url))


def curl(api: FuzzedApi, path: str, *options: str) -> tuple[int, Any]:
    """Status and JSON of a call by the program curl."""
    address = f"http://127.0.0.1:{api.port}/mlops/api/{path}"
    command = ["curl", "-s", "-w", "\n%{http_code}", address, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


def send(body: dict[str, Any]) -> tuple[str, ...]:
    """The options of curl that post JSON."""
    return ("-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(body))


def wait_for_rollout(api: FuzzedApi, rollout_id: str) -> None:
    """Wait until a rollout that was stopped has given its place back."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if curl(api, f"rollouts/{rollout_id}")[1]["rollout"]["ended_at"] is not None:
            return
        time.sleep(0.2)
    pytest.fail(f"{rollout_id} has not ended within {PATIENCE_S:g} s")


def test_the_calls_that_the_platform_prints_are_answered(api: FuzzedApi) -> None:
    baseline, first, second = api.ids["model_id"]
    body = {"model_type": "lstm", "symbol": "BTC/USDT", "model_data": "base64_encoded_model"}
    status, problem = curl(api, "models/register", *send({**body, "metrics": METRICS}))
    assert (status, problem["type"]) == (422, "/mlops/problems/unsupported-format")

    status, listed = curl(api, "models?model_type=linear&symbol=BTC/USD&status=challenger")
    assert status == 200
    assert {row["model_id"] for row in listed["models"]} == {first, second}

    rows = [{"feature1": 0.5, "feature2": 1.0}, {"feature1": 0.6, "feature2": 1.1}]
    status, problem = curl(api, "monitoring/drift", *send({"model_id": first, "data": rows}))
    assert status == 422
    assert all(name in problem["detail"] for name in ("har_1", "har_24", "feature1"))
    rows = [{"har_1": 0.5, "har_24": 1.0}, {"har_1": 0.6, "har_24": 1.1}]
    status, drift = curl(api, "monitoring/drift", *send({"model_id": first, "data": rows}))
    assert (status, drift["drift_detected"], drift["status"]) == (200, False, "insufficient_data")

    path = f"monitoring/start-continuous?model_id={first}&interval_hours=1"
    status, watch = curl(api, path, "-X", "POST")
    assert (status, watch["model_id"], watch["interval_hours"]) == (200, first, 1.0)

    body = {
        "model_a_id": baseline,
        "model_b_id": second,
        "test_name": "LSTM vs Transformer",
        "traffic_split": 0.5,
        "duration_hours": 48,
    }
    status, test = curl(api, "experiments/ab-test", *send(body))
    assert (status, test["champion"], test["plan"]["can_decide"]) == (201, "model_a", False)
    place = f"experiments/{test['experiment_id']}"
    status, look = curl(api, f"{place}/evaluate", "-X", "POST")
    assert (status, look["status"], look["verdict"]) == (200, "collecting", None)
    status, stopped = curl(api, f"{place}/stop", *send({"reason": "the round goes on"}))
    assert (status, stopped["verdict"]) == (200, "stopped")
    wait_for_rollout(api, test["rollout_id"])

    body = {"model_id": first, "deployment_strategy": "blue_green"}
    status, rollout = curl(api, "models/deploy", *send(body))
    assert (status, rollout["success"], rollout["from_model_id"]) == (202, None, baseline)
    path = f"rollouts/{rollout['rollout_id']}/abort"
    assert curl(api, path, *send({"reason": "the round goes on"}))[0] == 202
    wait_for_rollout(api, rollout["rollout_id"])

    status, board = curl(api, "monitoring/dashboard")
    assert status == 200
    assert set(board) == {"summary", "performance_metrics", "drift_alerts"}


@pytest.fixture(scope="module")
def client(api: FuzzedApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that a public generator makes of the OpenAPI document."""
    folder = tmp_path_factory.mktemp("generated")
    environment = {
        **os.environ,
        "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""),
        "UV_DEFAULT_INDEX": os.environ.get("PIP_INDEX_URL", ""),
    }
    uv = Path(sys.executable).with_name("uv")
    command = [
        str(uv), "tool", "run", "--from", GENERATOR, "openapi-python-client", "generate",
        "--url", api.document, "--meta", "none", "--output-path", str(folder / "platform_client"),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in environment.items() if value},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module("platform_client")
    sys.path.remove(str(folder))


class Round:
    """Calls functions of the generated package by the names of the document."""

    def __init__(self, package: ModuleType, port: int) -> None:
        self.package = package
        self.client = package.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0)

    @contextmanager
    def opened(self) -> Iterator[Round]:
        """Its connections are closed when the block ends."""
        with self.client:
            yield self

    def body(self, name: str, **values: Any) -> Any:
        """A body of the document, from its JSON."""
        models = importlib.import_module(f"{self.package.__name__}.models")
        return getattr(models, name).from_dict(values)

    def call(self, tag: str, name: str, *given: Any, **named: Any) -> Any:
        """The parsed answer to an operation; a problem is none of a round's answers."""
        module = importlib.import_module(f"{self.package.__name__}.api.{tag}.{name}")
        answer = module.sync_detailed(*given, client=self.client, **named)
        assert int(answer.status_code) < 300, answer.content
        assert answer.parsed is not None, (answer.status_code, answer.content)
        return self._finish(answer.parsed)

    def _finish(self, answer: Any) -> Any:
        """What an operation ended with, as JSON; any other answer as it is."""
        if not hasattr(answer, "operation_id"):
            return answer
        until = time.monotonic() + PATIENCE_S
        while answer.status in ("pending", "running") and time.monotonic() < until:
            time.sleep(0.5)
            module = importlib.import_module(
                f"{self.package.__name__}.api.operations.get_operation"
            )
            answer = module.sync(answer.operation_id, client=self.client)
        assert answer.status == "done", answer
        return answer


def test_a_generated_client_does_the_whole_round(api: FuzzedApi, client: ModuleType) -> None:
    with Round(client, api.port).opened() as round_:
        go_round(api, round_)


def go_round(api: FuzzedApi, round_: Round) -> None:
    """Register, judge, watch, test, deploy, list and read the dashboard."""
    baseline, first, second = api.ids["model_id"]
    body = {
        "model_type": "linear",
        "symbol": "BTC/USD",
        "venue": "sample",
        "model_data": base64.b64encode(export_file(api, first)).decode(),
        "metrics": METRICS,
    }
    made = round_.call("models", "register_model", body=round_.body("RegisterBody", **body))
    model_id = made.model_id if hasattr(made, "model_id") else made.result["model_id"]
    assert round_.call("models", "get_model", model_id).claims_only

    word = round_.body("JudgeBody", trained_until=TRAINED_UNTIL)
    judged = round_.call("models", "judge_model", model_id, body=word)
    assert judged.bars.count > 500
    assert judged.needs_person

    rows = [{"har_1": 0.5, "har_24": 1.0}] * 30
    body = round_.body("DriftBody", model_id=model_id, data=rows)
    assert round_.call("monitoring", "check_drift", body=body).model_id == model_id
    assert round_.call("monitoring", "start_watching", model_id=second).model_id == second

    body = round_.body("TestBody", model_a_id=baseline, model_b_id=second)
    test = round_.call("experiments", "start_test", body=body)
    look = round_.call("experiments", "evaluate_test", test.experiment_id)
    assert look.verdict is None
    reason = round_.body("ReasonBody", reason="the round goes on")
    round_.call("experiments", "stop_test", test.experiment_id, body=reason)
    wait_for_rollout(api, test.rollout_id)

    body = round_.body("DeployBody", model_id=second)
    rollout = round_.call("rollouts", "deploy_model", body=body)
    assert round_.call("rollouts", "get_rollout", rollout.rollout_id).rollout.model_id == second

    listed = round_.call("models", "list_models", symbol="BTC/USD")
    assert {row.model_id for row in listed.models} >= {baseline, first, second, model_id}
    assert round_.call("monitoring", "get_dashboard").summary.total_models >= 4


def export_file(api: FuzzedApi, model_id: str) -> bytes:
    """A version as the API writes it."""
    address = f"http://127.0.0.1:{api.port}/mlops/api/models/{model_id}/file"
    return subprocess.run(["curl", "-s", address], capture_output=True, check=True).stdout
