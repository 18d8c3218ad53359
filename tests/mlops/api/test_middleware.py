"""Ids, HEAD, limits of bodies, and errors that nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from mlops.api.middleware import THREADS
from mlops.store import ModelVersion
from tests.mlops.api.conftest import Client, World

LIMIT = 16 * 1024**2


def test_an_id_is_given_back_or_made(client: Client) -> None:
    answer = client.get("models/none", headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine"
    other = client.get("models/none").json()["request_id"]
    assert other != client.get("models/none").json()["request_id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_head_is_get_without_a_body(world: World, client: Client) -> None:
    path = f"models/{world.champion}"
    got, head = client.get(path), client.request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert client.request("HEAD", "models/none").status_code == 404


def test_a_body_over_the_limit_is_refused_unread(client: Client) -> None:
    answer = client.post("models/deploy", content=b"{}", headers={"content-length": str(LIMIT + 1)})
    assert answer.status_code == 413
    assert "SERVING_MAX_BODY_MB" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


def test_a_body_of_unstated_length_is_counted(client: Client) -> None:
    async def send() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 1024**2

    headers = {"content-type": "application/json"}
    answer = client.post("models/deploy", content=send(), headers=headers)
    assert answer.status_code == 413


def test_an_error_that_nobody_foresaw_is_logged_and_tells_nothing(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(model_id: str) -> ModelVersion:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(world.manager, "get_model", fail)
    with caplog.at_level(logging.ERROR):
        answer = client.get("models/x")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.fixture
def busiest(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests were in the manager at once, after each of them."""
    get_model, inside, seen = world.manager.get_model, [0], list[int]()
    lock, full = threading.Lock(), threading.Event()

    def count(model_id: str) -> ModelVersion:
        with lock:
            inside[0] += 1
            seen.append(inside[0])
            if inside[0] == THREADS:
                full.set()
        # So all eight come in before the first one goes.
        full.wait(10)
        with lock:
            inside[0] -= 1
        return get_model(model_id)

    monkeypatch.setattr(world.manager, "get_model", count)
    return seen


def test_at_most_eight_requests_are_in_the_store_at_once(world: World, busiest: list[int]) -> None:
    async def ask_many() -> None:
        transport = httpx.ASGITransport(app=world.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            path = f"/mlops/api/models/{world.champion}"
            answers = await asyncio.gather(*(client.get(path) for _ in range(3 * THREADS)))
        assert {answer.status_code for answer in answers} == {200}

    asyncio.run(ask_many())
    assert max(busiest) == THREADS
