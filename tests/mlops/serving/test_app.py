"""Every route of the data plane, and what each kind of trouble answers; without sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import COLUMNS
from mlops.errors import ModelFault, QueueFull
from mlops.serving.protocol import mlflow_scoring
from mlops.serving.runtime import Runtime

from .conftest import KEY, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]
Ask = Callable[..., httpx.Response]
BARS = 30
INVOKE = f"/services/{KEY}/invocations"
INFER = f"/v2/models/{KEY}/infer"


@pytest.fixture
def live(runtime: Runtime, settle: Settle, library: Library, set_route: SetRoute) -> Runtime:
    set_route(champion=library.versions[0])
    settle()
    return runtime


@pytest.fixture
def ask(live: Runtime) -> Ask:
    def send(method: str, path: str, **how: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(app=live.app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
                return await client.request(method, path, **how)

        return asyncio.run(sent())

    return send


@pytest.fixture
def window(frame: pd.DataFrame) -> list[list[float]]:
    return frame[list(COLUMNS)].iloc[-BARS:].to_numpy().tolist()


def expected(live: Runtime, library: Library, frame: pd.DataFrame) -> float:
    with live.pool.borrow(library.versions[0]) as model:
        return float(model.bundle.predict(frame.iloc[-BARS:])["forecast"].iloc[-1])


def test_both_protocols_give_the_bundles_own_forecast(
    ask: Ask, live: Runtime, library: Library, frame: pd.DataFrame, window: list[list[float]]
) -> None:
    scored = ask("POST", INVOKE, json={"instances": window}).json()["predictions"]
    tensor = {"name": "bars", "shape": [1, BARS, 5], "datatype": "FP64", "data": [window]}
    inferred = ask("POST", INFER, json={"id": "7", "inputs": [tensor]}).json()
    value = expected(live, library, frame)
    assert scored == [{"forecast": pytest.approx(value, abs=1e-6)}]
    assert inferred["outputs"][0]["data"] == [pytest.approx(value, abs=1e-6)]
    assert (inferred["id"], inferred["model_version"]) == ("7", library.versions[0])
    assert inferred["parameters"]["variant"] == "champion"


def test_an_answer_says_who_gave_it(ask: Ask, library: Library, window: list[list[float]]) -> None:
    headers = ask(
        "POST", INVOKE, json={"instances": window}, headers={"x-request-id": "me"}
    ).headers
    assert headers["x-request-id"] == "me"
    assert headers["x-model-version"] == library.versions[0]
    assert headers["x-variant"] == "champion"
    assert int(headers["x-route-generation"]) >= 2


def test_a_batch_of_windows_gives_one_forecast_each(ask: Ask, frame: pd.DataFrame) -> None:
    values = frame[list(COLUMNS)].to_numpy()
    windows = [values[end - BARS : end].tolist() for end in range(100, 120)]
    together = ask("POST", INVOKE, json={"instances": windows}).json()["predictions"]
    alone = [
        ask("POST", INVOKE, json={"instances": bars}).json()["predictions"][0] for bars in windows
    ]
    assert np.allclose(
        [record["forecast"] for record in together],
        [record["forecast"] for record in alone],
        atol=1e-6,
    )


def test_one_service_needs_no_name(ask: Ask, window: list[list[float]]) -> None:
    assert ask("POST", "/invocations", json={"instances": window}).status_code == 200
    other = ask("POST", "/invocations", json={"instances": window}, headers={"x-service": "other"})
    assert other.status_code == 404


def test_a_wrong_cell_is_named_in_a_400(ask: Ask, window: list[list[float]]) -> None:
    window[3][1] = -1.0
    answer = ask("POST", INVOKE, json={"instances": window})
    assert answer.status_code == 400
    assert answer.json()["error_code"] in {"BAD_REQUEST", "INVALID_PARAMETER_VALUE"}
    assert "3" in answer.json()["message"]


@pytest.mark.parametrize(
    "expected_error",
    [("error", 400, "INVALID_PARAMETER_VALUE"), ("timeout", 504, "DEADLINE_EXCEEDED")],
)
def test_a_fault_of_every_model_is_told_without_details(
    ask: Ask,
    live: Runtime,
    window: list[list[float]],
    monkeypatch: pytest.MonkeyPatch,
    expected_error: tuple[str, int, str],
) -> None:
    kind, status, code = expected_error

    async def broken(model: Any, *_: object, **__: object) -> None:
        raise ModelFault(model.model_id, kind, "secret path /srv/models")

    monkeypatch.setattr(live.batcher, "forecast", broken)
    answer = ask("POST", INVOKE, json={"instances": window})
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert "secret" not in answer.text
    assert ask("POST", INFER, json={"inputs": []}).status_code == 400


def test_a_full_queue_is_a_503_with_retry_after(
    ask: Ask, live: Runtime, window: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise QueueFull(waiting=9, limit=9)

    monkeypatch.setattr(live.batcher, "forecast", full)
    answer = ask("POST", INVOKE, json={"instances": window})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_bug_is_a_500_with_the_request_id_and_no_details(
    ask: Ask, live: Runtime, window: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def buggy(*_: object, **__: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(live.dispatcher, "answer", buggy)
    answer = ask("POST", INVOKE, json={"instances": window}, headers={"x-request-id": "r-1"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "r-1"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/livez", 200), ("/readyz", 200), ("/ping", 200), ("/health", 200), ("/version", 200),
     ("/metrics", 200), ("/services", 200), ("/v2", 200), ("/v2/health/live", 200),
     ("/v2/health/ready", 200), (f"/v2/models/{KEY}", 200), (f"/v2/models/{KEY}/ready", 200),
     ("/v2/models/other", 404), ("/nowhere", 404), ("/invocations", 405), (INVOKE, 405),
     (INFER, 405), ("/services/other/forecast", 404)],
)  # fmt: skip
def test_every_path_answers(ask: Ask, path: str, status: int) -> None:
    assert ask("GET", path).status_code == status


def test_a_draining_replica_answers_and_closes_the_connection(
    ask: Ask, live: Runtime, window: list[list[float]]
) -> None:
    live.app.draining = True
    answer = ask("POST", INVOKE, json={"instances": window})
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert ask("GET", "/readyz").status_code == 503
    assert ask("GET", "/livez").status_code == 200


def test_a_version_in_the_url_answers_or_is_a_404(
    ask: Ask, library: Library, window: list[list[float]]
) -> None:
    tensor = {"name": "bars", "shape": [1, BARS, 5], "datatype": "FP64", "data": [window]}
    body = {"inputs": [tensor]}
    held = ask("POST", f"/v2/models/{KEY}/versions/{library.baseline}/infer", json=body)
    assert held.json()["model_version"] == library.baseline
    unknown = ask("POST", f"/v2/models/{KEY}/versions/nobody/infer", json=body)
    assert unknown.status_code == 404
    assert "not loaded in this replica" in unknown.json()["error"]


def test_a_version_of_another_service_is_a_404(
    ask: Ask, live: Runtime, library: Library, window: list[list[float]]
) -> None:
    versions, pinned = live.store_sync.versions, f"/v2/models/{KEY}/versions/{library.baseline}"
    assert ask("GET", f"{pinned}/ready").json() == {"name": KEY, "ready": True}
    versions[library.baseline] = replace(versions[library.baseline], service="another")
    tensor = {"name": "bars", "shape": [1, BARS, 5], "datatype": "FP64", "data": [window]}
    headers = {"x-model-version": library.baseline}
    answers = [
        ask("GET", f"{pinned}/ready"),
        ask("POST", f"{pinned}/infer", json={"inputs": [tensor]}),
        ask("POST", INVOKE, json={"instances": window}, headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert ask("GET", f"/v2/models/{KEY}/versions/nobody/ready").status_code == 503


def test_a_body_over_the_cap_is_413(ask: Ask, live: Runtime) -> None:
    live.app.max_body_bytes = 100
    assert ask("POST", INVOKE, content=b"x" * 101).status_code == 413


def test_the_newest_forecast_is_served_until_it_is_too_old(
    ask: Ask, live: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/services/{KEY}/forecast"
    before = ask("GET", path)
    assert (before.status_code, before.json()["forecast"]) == (503, None)
    asyncio.run(live.publisher.update(live.store_sync.route_view().routes[KEY].route))
    old = ask("GET", path)
    assert (old.status_code, old.json()["error_code"]) == (503, "STALE_DATA")
    published = live.publisher.latest(KEY)
    assert published is not None
    monkeypatch.setattr(
        "mlops.serving.newest_forecast.time.time", lambda: published.fresh_until - 1
    )
    fresh = ask("GET", path)
    assert fresh.status_code == 200
    assert fresh.json()["forecast"] == published.row.value


def test_services_say_what_is_served_and_what_to_send(ask: Ask, library: Library) -> None:
    (service,) = ask("GET", "/services").json()["services"]
    assert service["champion"] == library.versions[0]
    assert service["bars"] == 26
    assert service["ready"] == [library.versions[0]]


def test_requests_are_measured_and_logged(
    ask: Ask, live: Runtime, window: list[list[float]]
) -> None:
    ask("POST", INVOKE, json={"instances": window})
    ask("POST", INVOKE, json={"instances": []})
    text = ask("GET", "/metrics").text
    assert f'mlops_requests_total{{service="{KEY}",status="200"}} 1.0' in text
    assert f'mlops_route_generation{{service="{KEY}"}}' in text
    live.request_log.close()
    (line,) = [
        json.loads(line)
        for path in live.request_log.folder.glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert (line["service"], line["variant"]) == (KEY, "champion")


def test_a_large_body_is_parsed_in_a_thread(
    ask: Ask, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    parse = mlflow_scoring.parse
    monkeypatch.setattr(
        mlflow_scoring,
        "parse",
        lambda *a: (threads.append(threading.current_thread().name), parse(*a))[1],
    )
    values = frame[list(COLUMNS)].iloc[-BARS:].to_numpy().tolist()
    for copies in (1, 60):
        assert ask("POST", INVOKE, json={"instances": [values] * copies}).status_code == 200
    small, large = threads
    assert small == "MainThread"
    assert large != "MainThread"
