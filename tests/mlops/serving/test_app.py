"""Every route of the data plane, and what each kind of trouble answers; without sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import COLUMNS
from mlops.errors import BodiesFull, ModelFault, QueueFull
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


# Every route: what its own method answers, and which one that is.
ROUTES = {
    "/": ("GET", 200), "/services": ("GET", 200), f"/services/{KEY}/forecast": ("GET", 503),
    INVOKE: ("POST", 200), "/invocations": ("POST", 200),
    f"/v1/models/{KEY}:predict": ("POST", 200), INFER: ("POST", 200),
    f"/v2/models/{KEY}/versions/{{baseline}}/infer": ("POST", 200),
    f"/v2/models/{KEY}": ("GET", 200), f"/v2/models/{KEY}/ready": ("GET", 200),
    f"/v2/models/{KEY}/versions/{{baseline}}": ("GET", 200),
    f"/v2/models/{KEY}/versions/{{baseline}}/ready": ("GET", 200), "/v2": ("GET", 200),
    "/v2/health/live": ("GET", 200), "/v2/health/ready": ("GET", 200), "/livez": ("GET", 200),
    "/readyz": ("GET", 200), "/ping": ("GET", 200), "/health": ("GET", 200),
    "/version": ("GET", 200), "/metrics": ("GET", 200),
}  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")


def body_for(path: str, window: list[list[float]]) -> dict[str, Any]:
    if not path.endswith("/infer"):
        return {"instances": window}
    tensor = {"name": "bars", "shape": [1, BARS, 5], "datatype": "FP64", "data": [window]}
    return {"inputs": [tensor]}


@pytest.mark.parametrize("method", METHODS)
def test_each_route_takes_its_methods_and_says_which(
    ask: Ask, library: Library, window: list[list[float]], method: str
) -> None:
    for path, (own, status) in ROUTES.items():
        allow = {"GET": "GET, HEAD, OPTIONS", "POST": "POST, OPTIONS"}[own]
        answer = ask(method, path.format(baseline=library.baseline), json=body_for(path, window))
        got = (path, answer.status_code, answer.headers.get("allow"))
        if method == "OPTIONS":
            assert got == (path, 204, allow)
            assert "content-length" not in answer.headers
        elif method in allow.split(", "):
            assert got == (path, status, None)
        else:
            assert got == (path, 405, allow)
            assert method == "HEAD" or answer.content == b'{"detail":"Method Not Allowed"}'


def test_head_has_the_status_and_headers_of_get_and_no_body(ask: Ask, library: Library) -> None:
    for path in [path for path, (own, _) in ROUTES.items() if own == "GET"]:
        named = path.format(baseline=library.baseline)
        got, head = ask("GET", named), ask("HEAD", named)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert set(head.headers) == set(got.headers)
        assert head.headers["content-type"] == got.headers["content-type"]
        # The metrics have counted one request more.
        assert path == "/metrics" or head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/nowhere", {"detail": "Not Found"}),
        ("/services//nowhere", {"detail": "Not Found"}),
        ("/v2/models", {"detail": "Not Found"}),
        (f"/v2/models/{KEY}/no", {"error": "no such path of the Open Inference protocol"}),
        (f"/v2/models/{KEY}/versions", {"error": "no such path of the Open Inference protocol"}),
    ],
)
def test_a_path_that_is_none_is_a_404_by_every_method(
    ask: Ask, path: str, body: dict[str, str]
) -> None:
    for method in METHODS:
        answer = ask(method, path, content=b"{}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
        assert "allow" not in answer.headers
        assert method == "HEAD" or answer.json() == body


def test_slashes_at_the_end_of_a_path_are_passed_over(ask: Ask) -> None:
    for path in ("/livez/", "/readyz//", "/services/", "/v2/", f"{INVOKE}/"):
        assert ask("OPTIONS", path).status_code == 204


def test_the_list_of_routes_is_the_table_of_this_test(ask: Ask) -> None:
    listed = {
        route["path"].replace("{service}", KEY).replace("{version}", "{baseline}"): route["method"]
        for route in ask("GET", "/").json()["routes"]
        if route["summary"]
    }
    assert listed == {path: method for path, (method, _) in ROUTES.items()}


def test_the_server_as_a_whole_tells_its_methods(live: Runtime) -> None:
    # An HTTP client cannot ask for this path.
    scope = {"type": "http", "method": "OPTIONS", "path": "*", "headers": []}
    start, _ = asyncio.run(messages_of(live, scope))
    assert start["status"] == 204
    assert (b"allow", b"GET, HEAD, POST, OPTIONS") in start["headers"]


def test_a_websocket_is_closed_before_it_is_open(live: Runtime) -> None:
    scope = {"type": "websocket", "path": "/livez", "headers": []}
    (message,) = asyncio.run(messages_of(live, scope))
    assert message["type"] == "websocket.close"


async def messages_of(live: Runtime, scope: dict[str, Any]) -> list[Any]:
    """What the app sends; it may not ask for a body."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is to be received")

    async def send(message: Any) -> None:
        sent.append(message)

    await live.app(scope, receive, send)
    return sent


# Codings and headers -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [INVOKE, INFER])
@pytest.mark.parametrize("windows", [1, 60])
def test_a_packed_body_is_answered_like_the_plain_one(
    ask: Ask, window: list[list[float]], path: str, windows: int
) -> None:
    body = {"instances": [window] * windows}
    if path == INFER:
        tensor = {"name": "bars", "shape": [windows, BARS, 5], "datatype": "FP64"}
        body = {"inputs": [{**tensor, "data": [window] * windows}]}
    plain = json.dumps(body).encode()
    expected = ask("POST", path, content=plain).content
    for coding, packed in {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain)}.items():
        answer = ask("POST", path, content=packed, headers={"content-encoding": coding})
        assert (answer.status_code, answer.content) == (200, expected)


def test_another_coding_is_a_415_in_the_form_of_the_protocol(ask: Ask) -> None:
    headers = {"content-encoding": "br"}
    scored = ask("POST", INVOKE, content=b"{}", headers=headers)
    inferred = ask("POST", INFER, content=b"{}", headers=headers)
    message = "content-encoding 'br' is not unpacked here; send one of gzip, deflate, or the plain"
    assert (scored.status_code, inferred.status_code) == (415, 415)
    assert scored.headers["content-type"] == "text/plain; charset=utf-8"
    assert scored.text.startswith(message)
    assert inferred.json()["error"].startswith(message)
    assert scored.headers["accept-encoding"] == inferred.headers["accept-encoding"]


WRONG_HEADERS: list[tuple[dict[str, str], str]] = [
    ({"x-variant": "CHALLENGER"}, "'CHALLENGER' is no variant that can be asked for; send"),
    ({"x-variant": "previous"}, "send champion or challenger, or leave the header out"),
    ({"x-variant": "", "x-model-version": "m"}, "x-variant '' is no variant"),
    ({"x-variant": "v" * 257}, "x-variant has 257 bytes"),
    ({"x-session-id": "s" * 257}, "x-session-id has 257 bytes, at most 256 are read"),
    ({"x-model-version": "m" * 60_000}, "x-model-version has 60,000 bytes"),
]


def test_a_header_that_cannot_be_is_a_400(ask: Ask, window: list[list[float]]) -> None:
    for headers, message in WRONG_HEADERS:
        scored = ask("POST", INVOKE, json=body_for(INVOKE, window), headers=headers)
        inferred = ask("POST", INFER, json=body_for(INFER, window), headers=headers)
        assert (scored.status_code, inferred.status_code) == (400, 400)
        assert message in scored.json()["message"]
        assert message in inferred.json()["error"]


def test_a_long_service_in_a_header_is_a_400(ask: Ask) -> None:
    answer = ask("POST", "/invocations", content=b"{}", headers={"x-service": "s" * 300})
    assert (answer.status_code, len(answer.content) < 300) == (400, True)


def test_a_variant_can_be_asked_for_whatever_the_share(
    ask: Ask, library: Library, frame: pd.DataFrame, set_route: SetRoute, settle: Settle
) -> None:
    champion, challenger = library.versions
    set_route(challenger=challenger, weight_bp=10_000)
    settle()
    window = frame[list(COLUMNS)].iloc[-200:].to_numpy().tolist()

    def answering(**headers: str) -> tuple[str, str]:
        body = {"instances": window}
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answered = ask("POST", INVOKE, json=body, headers=headers).headers
        return answered["x-model-version"], answered["x-variant"]

    assert answering() == (challenger, "challenger")
    assert answering(x_variant="champion") == (champion, "champion")
    set_route(weight_bp=0)
    settle()
    assert answering() == (champion, "champion")
    assert answering(x_variant="challenger") == (challenger, "challenger")
    named = answering(x_variant="challenger", x_model_version=champion)
    assert named == (champion, "champion")


def test_large_bodies_that_fill_their_memory_are_a_503_with_retry_after(
    ask: Ask, live: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise BodiesFull(held=9, limit=9)

    monkeypatch.setattr(live.app.bodies, "parse", full)
    answer = ask("POST", INVOKE, content=b"{}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"


def test_an_unknown_service_is_refused_before_its_body_is_read(live: Runtime) -> None:
    path = "/services/other/invocations"
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    start, _ = asyncio.run(messages_of(live, scope))
    assert start["status"] == 404


def test_a_client_that_has_gone_is_sent_nothing(live: Runtime) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INVOKE, "headers": []}
    asyncio.run(live.app(scope, receive, send))
    assert sent == []


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
    live.app.bodies.limit = 100
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
        lambda *a, **k: (threads.append(threading.current_thread().name), parse(*a, **k))[1],
    )
    values = frame[list(COLUMNS)].iloc[-BARS:].to_numpy().tolist()
    for copies in (1, 60):
        assert ask("POST", INVOKE, json={"instances": [values] * copies}).status_code == 200
    small, large = threads
    assert small == "MainThread"
    assert large != "MainThread"
