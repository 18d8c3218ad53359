"""Large bodies are of the size and the form that is asked for, and their cost is judged."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import orjson
import pytest

from benchmarks.bodies import (
    JSON,
    MIB,
    Body,
    Client,
    Cost,
    judge,
    make_bodies,
    memory_mib,
    probe_of,
    send,
)
from benchmarks.load import Ask
from mlops.errors import RequestRefused
from mlops.serving.protocol import mlflow_scoring, open_inference
from tests.mlops.serving.example_requests import SPEC

SIZE = 200_000
ROOMY = replace(SPEC, max_bars=20_000, max_windows=512)
RIGHT = (
    "instances of bars", "records of bars", "a split frame", "CSV of bars", "windows of bars",
    "Parquet of bars", "Parquet of bars and texts", "Open Inference, JSON",
    "Open Inference, bytes",
)  # fmt: skip


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers 200 to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", make_bodies(SIZE))
def test_a_body_has_the_size_that_is_asked_for(name: str) -> None:
    assert 0.6 * SIZE < len(make_bodies(SIZE)[name].content) <= 1.1 * SIZE


@pytest.mark.parametrize("name", make_bodies(SIZE))
def test_a_body_is_read_or_refused_as_its_form(name: str) -> None:
    body = make_bodies(SIZE)[name]
    headers = dict(body.headers)

    def parse() -> None:
        if body.path.endswith("/infer"):
            length = headers.get("inference-header-content-length")
            open_inference.parse_infer(body.content, ROOMY, "service", header_length=length)
        else:
            mlflow_scoring.parse(body.content, headers["content-type"], ROOMY)

    if name in RIGHT:
        parse()
    else:
        with pytest.raises(RequestRefused):
            parse()


def test_a_cost_beyond_either_limit_does_not_hold() -> None:
    fair = Cost("200", 1.0, 0.5, 9.0)
    assert judge("a body", fair).holds
    assert not judge("a body", replace(fair, delay_s=1.5)).holds
    assert not judge("a body", replace(fair, times=11.0)).holds
    assert not judge("a body", replace(fair, times=math.inf)).holds


def test_a_client_says_how_long_it_waited(port: int) -> None:
    probe = probe_of(Ask.post("/any", {"instances": [1]}))
    assert (probe.path, orjson.loads(probe.content)) == ("/any", {"instances": [1]})
    client = Client(port, probe)
    client.start()
    while not client.longest_s:
        assert client.is_alive()
    assert 0 < client.stop() < 60


def test_a_server_that_is_gone_is_named_by_its_error(port: int) -> None:
    assert send(port, Body(b"{}", "/any", {"content-type": JSON})) == "200"
    assert send(1, Body(b"{}")) == "ConnectionRefusedError"


def test_memory_is_that_of_all_processes_that_live() -> None:
    held = memory_mib([os.getpid()], "VmRSS")
    assert 1 < held < 100 * MIB
    assert memory_mib([2**22 + 1], "VmRSS") == 0
