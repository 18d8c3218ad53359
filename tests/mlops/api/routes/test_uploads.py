"""Versions as files over HTTP: exported from one installation, registered in another."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from mlops.api.app import build_api
from mlops.api.children import Work
from mlops.api.context import ApiContext
from mlops.data.simulator import simulate_bars
from mlops.manager import MLOpsManager
from mlops.registry.connection import load
from mlops.settings import Settings
from mlops.store import Status
from mlops.store.audit import list_audit_entries
from tests.conftest import mlflow_forgets
from tests.mlops.api.conftest import Client, World
from tests.mlops.api.in_process import InProcess
from tests.mlops.models.graphs import STEPS, lstm_graph
from tests.project import seeded, skip_verification

SEED_BODY = {
    "model_type": "lstm",
    "symbol": "BTC/USDT",
    "model_data": "base64_encoded_model",
    "metrics": {"mse": 0.05, "mae": 0.03, "r2_score": 0.92, "accuracy": 0.85},
}
CLAIMS = {"mse": 0.05, "mae": 0.03, "r2_score": 0.42}


@dataclass(frozen=True)
class Elsewhere:
    """An empty installation with an API, whose children are threads."""

    manager: MLOpsManager
    client: Client
    children: InProcess

    def register(
        self, content: bytes, headers: dict[str, str] | None = None, **changes: Any
    ) -> Any:
        body = {
            "model_type": "linear",
            "symbol": "BTC/USD",
            "venue": "simulator",
            "model_data": base64.b64encode(content).decode(),
            "metrics": CLAIMS,
            **changes,
        }
        return self.client.post("models/register", json=body, headers=headers or {})


@pytest.fixture(scope="module")
def elsewhere(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[Elsewhere]:
    base = seeded(tmp_path_factory.mktemp("elsewhere"), mlflow_template)
    settings = Settings(_env_file=None, mlops_base_path=base, register_max_mb=1.0, allow_onnx=True)
    manager = MLOpsManager(settings)
    children = InProcess()
    context = ApiContext(manager, children=children)
    client = Client(build_api(context))
    with mlflow_forgets(), pytest.MonkeyPatch.context() as patch:
        skip_verification(patch)
        yield Elsewhere(manager, client, children)
    context.close()
    client.close()
    manager.store.close()


@pytest.fixture(scope="module")
def exported(world: World) -> bytes:
    reply = world.client.get(f"models/{world.champion}/file")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    assert f'filename="{world.champion}.safetensors"' in reply.headers["content-disposition"]
    return reply.content


def test_a_version_of_one_installation_forecasts_equal_to_the_bit_in_another(
    world: World, elsewhere: Elsewhere, exported: bytes
) -> None:
    reply = elsewhere.register(exported, metadata={"origin": "the laboratory"})
    assert reply.status_code == 201, reply.text
    made = reply.json()
    assert reply.headers["location"] == f"/mlops/api/models/{made['model_id']}"
    assert made["service"] == world.service
    assert (made["status"], made["claims_only"]) == (Status.REFUSED, True)
    assert made["metrics"]["mse"] == 0.05
    assert made["notes"]["origin"] == "the laboratory"
    bars = simulate_bars(600, seed=9)
    there = load(elsewhere.manager.registry, made["model_id"]).predict(bars)
    here = load(world.manager.registry, world.champion).predict(bars)
    assert there.equals(here)
    assert elsewhere.manager.export_model(made["model_id"]) == exported
    entries = list_audit_entries(elsewhere.manager.store)
    registered = next(entry for entry in entries if entry.subject == made["model_id"])
    assert (registered.action, registered.actor) == ("register", "local")


def test_a_file_is_written_where_python_asks_for_it(world: World, tmp_path: Path) -> None:
    content = world.manager.export_model(world.champion, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == content


def test_the_file_of_an_unknown_version_is_not_found(client: Client) -> None:
    assert client.get("models/lstm_1/file").status_code == 404


def test_the_printed_body_is_refused_with_what_to_send(elsewhere: Elsewhere) -> None:
    reply = elsewhere.client.post("models/register", json=SEED_BODY)
    assert reply.status_code == 422
    problem = reply.json()
    assert problem["type"] == "/mlops/problems/unsupported-format"
    assert "15 bytes that begin neither as safetensors nor as ONNX" in problem["detail"]
    assert "manager.export_model(model_id)" in problem["detail"]
    assert problem["errors"] == [
        {"pointer": "/model_data", "detail": "15 bytes, read as URL-safe base64"}
    ]


def test_bare_weights_are_registered_with_a_config(world: World, elsewhere: Elsewhere) -> None:
    config, tensors = load(world.manager.registry, world.champion).forecaster.state()
    weights = save(dict(tensors))
    assert elsewhere.register(weights, config=config).status_code == 201
    del config["scaler"]
    refused = elsewhere.register(weights, config=config)
    assert refused.status_code == 422
    assert "lacks scaler" in refused.json()["detail"]
    assert "send a config" in elsewhere.register(weights).json()["detail"]


def test_an_onnx_graph_is_registered_and_exported(elsewhere: Elsewhere) -> None:
    graph = lstm_graph()
    shape = {"features": ["har_1", "har_24"], "sequence_length": STEPS}
    made = elsewhere.register(graph, model_type="lstm", metadata=shape)
    assert made.status_code == 201, made.text
    bars = simulate_bars(300, seed=9)
    forecasts = load(elsewhere.manager.registry, made.json()["model_id"]).predict(bars)
    assert len(forecasts) > 200
    again = elsewhere.register(
        elsewhere.manager.export_model(made.json()["model_id"]), model_type="lstm"
    )
    assert again.status_code == 201, again.text
    there = load(elsewhere.manager.registry, again.json()["model_id"]).predict(bars)
    assert there.equals(forecasts)
    refused = elsewhere.register(graph, model_type="lstm", metadata={"sequence_length": 7})
    assert refused.status_code == 422
    assert "input has the shape" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"),
    [
        ({"model_type": "custom"}, "/model_type", "none is taken over HTTP"),
        ({"model_type": "lstm"}, None, "holds a model of type 'linear'"),
        ({"model_data": "a*b="}, "/model_data", "not of base64"),
        ({"model_data": "abcde"}, "/model_data", "no base64"),
        ({"metrics": {"mse": -1.0, "mae": 0.1}}, "/metrics", "mse"),
        ({"metrics": CLAIMS | {"sharpness": 1.0}}, "/metrics", "sharpness"),
        ({"symbol": "//"}, None, "symbol"),
        ({"target": "weather"}, None, "weather"),
        ({"horizon": 7}, None, "over 24 bars"),
        ({"metadata": {"venue": "sample"}}, None, "give it once"),
        ({"extra": 1}, "/extra", "Extra inputs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(
    elsewhere: Elsewhere, exported: bytes, changes: dict[str, Any], pointer: str | None, detail: str
) -> None:
    before = len(elsewhere.manager.list_models())
    reply = elsewhere.register(exported, **changes)
    problem = reply.json()
    assert reply.status_code == 422
    assert detail in problem["detail"]
    if pointer is not None:
        assert [entry["pointer"] for entry in problem["errors"]] == [pointer]
    assert len(elsewhere.manager.list_models()) == before


def test_a_file_that_was_cut_is_refused(elsewhere: Elsewhere, exported: bytes) -> None:
    reply = elsewhere.register(exported[:-8])
    assert reply.status_code == 422
    assert "it was cut" in reply.json()["detail"]


def test_a_larger_model_than_allowed_is_refused(elsewhere: Elsewhere) -> None:
    large = elsewhere.register(bytes(1_100_000))
    assert "a model of at most 1 MB" in large.json()["detail"]
    assert large.status_code == 413
    assert "REGISTER_MAX_MB" in large.json()["detail"]
    huge = elsewhere.client.post(
        "models/register", content=b"{", headers={
            "content-type": "application/json", "content-length": str(10**9)
        },
    )  # fmt: skip
    assert huge.status_code == 413


def test_another_type_of_body_is_refused(elsewhere: Elsewhere) -> None:
    reply = elsewhere.client.post("models/register", content=b"x")
    assert reply.status_code == 415


def test_a_full_disk_is_told(
    elsewhere: Elsewhere, exported: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: object) -> Any:
        return type("Usage", (), {"free": 10})

    monkeypatch.setattr("mlops.registry.registration.shutil.disk_usage", full)
    reply = elsewhere.register(exported)
    assert reply.status_code == 503
    assert "10 are free" in reply.json()["detail"]


def test_a_second_upload_is_told_when_to_come(elsewhere: Elsewhere, exported: bytes) -> None:
    with elsewhere.children.reserve(Work.UPLOAD):
        reply = elsewhere.register(exported)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "5"
    assert elsewhere.register(exported, model_type="custom").status_code == 422


def test_a_repeated_request_registers_nothing_more(elsewhere: Elsewhere, exported: bytes) -> None:
    key = {"Idempotency-Key": "upload-1"}
    first = elsewhere.register(exported, headers=key)
    again = elsewhere.register(exported, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    other = elsewhere.register(exported, headers=key, metadata={"other": True})
    assert other.status_code == 422
    assert other.json()["type"] == "/mlops/problems/key-reused"


def test_a_caller_who_does_not_wait_gets_an_operation(
    elsewhere: Elsewhere, exported: bytes
) -> None:
    headers = {"Prefer": "respond-async", "Idempotency-Key": "upload-2"}
    elsewhere.children.gate.clear()
    reply = elsewhere.register(exported, headers=headers)
    operation = reply.json()
    place = reply.headers["location"]
    assert reply.status_code == 202
    assert place == f"/mlops/api/operations/{operation['operation_id']}"
    assert elsewhere.client.get(place).json()["status"] == "running"
    assert elsewhere.register(exported).status_code == 503
    elsewhere.children.gate.set()
    done = await_operation(elsewhere.client, place)
    assert done["status"] == "done"
    version = elsewhere.client.get(f"models/{done['result']['model_id']}")
    assert version.json() == done["result"]
    # The key names the version now.
    again = elsewhere.register(exported, headers=headers)
    assert (again.status_code, again.json()) == (200, done["result"])


def test_an_operation_that_fails_says_why(elsewhere: Elsewhere, exported: bytes) -> None:
    reply = elsewhere.register(exported, headers={"Prefer": "respond-async"}, model_type="lstm")
    failed = await_operation(elsewhere.client, reply.headers["location"])
    assert failed["status"] == "failed"
    assert failed["problem"]["status"] == 422
    assert "holds a model of type 'linear'" in failed["problem"]["detail"]


def test_an_unknown_operation_is_not_found(elsewhere: Elsewhere) -> None:
    assert elsewhere.client.get("operations/op-1").status_code == 404


def await_operation(client: Client, place: str) -> dict[str, Any]:
    """The operation when it has ended; each look waits for the store, none for a clock."""
    for _ in range(10_000):
        document: dict[str, Any] = json.loads(client.get(place).text)
        if document["status"] not in ("pending", "running"):
            return document
    raise AssertionError(f"{place} does not end")
