"""Thousands of requests over 64 connections, batched as they come: each answer is its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import uvicorn

from deployments.processes import free_port
from mlops.data.bars import COLUMNS
from mlops.registry import Candidate, bundle_parts, register
from mlops.serving.runtime import Runtime
from mlops.store import Status, Store, Why
from tests.mlops.registry.conftest import AT, SERVICE, dataset_of, fitted, mlflow_on

from .conftest import KEY, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]
CONNECTIONS, DIFFERENT = 64, 200
SMALL_LSTM = {
    "epochs": 1, "lstm_units": [16, 8], "sequence_length": 20, "batch_size": 256,
    "features": ["open", "high", "low", "close", "volume"],
}  # fmt: skip


@pytest.fixture(scope="session")
def network(library_once: Library) -> str:
    """A small LSTM among the versions, with batches worth their while."""
    dataset = dataset_of(pd.read_parquet(library_once.bars_file))
    forecaster = fitted("lstm", dataset, SMALL_LSTM)
    candidate = Candidate(
        service=SERVICE,
        model_type="lstm",
        parts=bundle_parts(forecaster, dataset, SERVICE),
        status=Status.CHALLENGER,
        recipe_digest=forecaster.recipe.digest,
    )
    from mlops.store import open_store

    store = open_store(f"sqlite:///{library_once.folder / 'store.db'}")
    registry = replace(library_once.registry, store=store)
    with pytest.MonkeyPatch.context() as patch, mlflow_on(registry.tracking.uri):
        patch.setattr("mlops.registry.registration._verify", lambda registry, logged: None)
        made = register(registry, candidate, Why(AT))
    store.close()
    return made.model_id


@pytest.fixture
def port(
    network: str, store: Store, runtime: Runtime, set_route: SetRoute, settle: Settle
) -> Iterator[int]:
    """The runtime behind a real server."""
    set_route(champion=network)
    settle()
    chosen = free_port()
    server = uvicorn.Server(
        uvicorn.Config(runtime.app, port=chosen, log_level="warning", lifespan="off")  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield chosen
    server.should_exit = True
    thread.join()


@pytest.fixture
def windows(runtime: Runtime, network: str, frame: pd.DataFrame, port: int) -> np.ndarray:
    """(DIFFERENT, bars, 5) the newest windows that the network needs."""
    values, size = frame[list(COLUMNS)].to_numpy(), runtime.pool.warm_up(network)
    ends = range(len(values) - DIFFERENT + 1, len(values) + 1)
    return np.stack([values[end - size : end] for end in ends])


async def post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> list[float]:
    head = f"POST /services/{KEY}/invocations HTTP/1.1\r\nhost: r\r\ncontent-length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    size = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    reply = json.loads(await reader.readexactly(size))
    return [record["forecast"] for record in reply["predictions"]]


async def one_by_one(port: int, bodies: list[bytes]) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    forecasts = [(await post(reader, writer, body))[0] for body in bodies]
    writer.close()
    await writer.wait_closed()
    return forecasts


async def all_at_once(port: int, bodies: list[bytes], requests: int) -> list[tuple[int, float]]:
    numbers = iter(range(requests))
    answers: list[tuple[int, float]] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            which = number % len(bodies)
            answers.append((which, (await post(reader, writer, bodies[which]))[0]))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return answers


def encoded(window: np.ndarray) -> bytes:
    return json.dumps({"instances": window.tolist()}).encode()


@pytest.mark.parametrize("requests", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_batched_requests_get_the_answers_of_single_ones(
    port: int, windows: np.ndarray, runtime: Runtime, requests: int
) -> None:
    bodies = [encoded(window) for window in windows]
    alone = asyncio.run(one_by_one(port, bodies))
    together = asyncio.run(all_at_once(port, bodies, requests))
    assert len(together) == requests
    worst = max(abs(value - alone[which]) for which, value in together)
    assert worst <= 1e-6
    assert any(size > 1 for size in runtime.batcher.statistics().sizes), "nothing was batched"


def test_a_live_window_a_batch_and_all_bars_agree(
    port: int, windows: np.ndarray, runtime: Runtime, network: str, frame: pd.DataFrame
) -> None:
    alone = asyncio.run(one_by_one(port, [encoded(window) for window in windows]))

    async def batch() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        forecasts = await post(reader, writer, encoded(windows))
        writer.close()
        await writer.wait_closed()
        return forecasts

    with runtime.pool.borrow(network) as model:
        every = model.bundle.predict(frame)["forecast"].to_numpy()[-DIFFERENT:]
    assert np.abs(np.array(asyncio.run(batch())) - alone).max() <= 1e-6
    assert np.abs(every - alone).max() <= 1e-6
