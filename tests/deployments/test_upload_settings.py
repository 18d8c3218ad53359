"""The variables of uploads reach the API that this process answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.api_mount import make_context
from mlops.api.app import build_api
from mlops.settings import Settings, current_settings
from tests.mlops.api.conftest import Client
from tests.mlops.models.graphs import linear_graph

Register = Callable[..., Any]


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """``register(content, NAME=value)``: the answer of an API with these variables."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    closing = []

    def call(content: bytes, **variables: str) -> Any:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        context = make_context(current_settings(), bool)
        client = Client(build_api(context))
        closing.extend([client.close, context.close, context.manager.store.close])
        body = {
            "model_type": "lstm", "symbol": "BTC/USD", "metrics": {"mse": -1.0, "mae": 1.0},
            "model_data": base64.b64encode(content).decode(),
            "metadata": {"features": ["har_1", "har_24"], "sequence_length": 3},
        }  # fmt: skip
        return client.post("models/register", json=body)

    yield call
    for close in closing:
        close()


def test_register_max_mb_bounds_the_model_and_the_body(register: Register) -> None:
    model = register(bytes(150_000), REGISTER_MAX_MB="0.1")
    assert model.status_code == 413
    assert "a model of at most 0.1 MB" in model.json()["detail"]
    body = register(bytes(1_000_000), REGISTER_MAX_MB="0.1")
    assert body.status_code == 413
    assert "raise REGISTER_MAX_MB" in body.json()["detail"]


def test_allow_onnx_lets_graphs_be_read(register: Register) -> None:
    graph = linear_graph(np.ones((6, 1)))
    refused = register(graph, ALLOW_ONNX="false").json()
    assert refused["type"] == "/mlops/problems/unsupported-format"
    assert "only where ALLOW_ONNX=true" in refused["detail"]
    # What comes next are the claims, of which one is wrong.
    read = register(graph, ALLOW_ONNX="true").json()
    assert [entry["pointer"] for entry in read["errors"]] == ["/metrics"]
