"""The clients of the second act send windows of real bars and keep what is answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

from deployments.demo.rollout_act import BODIES, Clients, request_bodies
from deployments.processes import free_port
from mlops.data.bars import COLUMNS
from mlops.data.simulator import simulate_bars

SERVICE = "sample.btc-usd.1h.volatility.24"
N_BARS = 30


class Handler(BaseHTTPRequestHandler):
    """A replica that answers the first two requests as champion and refuses the others."""

    protocol_version = "HTTP/1.1"
    paths: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.paths.append(self.path)
        self.send_response(200 if len(self.paths) <= 2 else 503)
        self.send_header("x-variant", "champion")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests read the answers."""


@contextmanager
def replica() -> Iterator[tuple[int, list[str]]]:
    """Its port, and the paths that were asked for."""
    paths: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Asked", (Handler,), {"paths": paths}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_body_holds_the_newest_bars_of_its_window() -> None:
    frame = simulate_bars(BODIES + N_BARS, seed=1)
    bodies = request_bodies(frame, N_BARS)
    assert len(bodies) == BODIES
    split = json.loads(bodies[-1])["dataframe_split"]
    assert split["columns"] == ["open_time", *COLUMNS]
    assert len(split["data"]) == N_BARS
    assert split["data"][-1][0] == frame.index[-1].isoformat()


def test_each_answer_is_kept_with_its_variant_and_whether_it_failed() -> None:
    answered = threading.Event()
    with replica() as (port, paths):
        clients = Clients(port, SERVICE, [b"{}"])
        with clients.sending():
            for _ in range(100):
                if answered.wait(0.05) or len(clients.answers) >= 4:
                    break
    assert set(paths) == {f"/services/{SERVICE}/invocations"}
    assert {answer.variant for answer in clients.answers} == {"champion"}
    assert sum(not answer.failed for answer in clients.answers) == 2
    assert sum(answer.failed for answer in clients.answers) >= 1
    assert clients.answers_since(datetime.now(UTC) + timedelta(hours=1)) == []


def test_a_request_that_nobody_answers_has_failed() -> None:
    clients = Clients(free_port(), SERVICE, [b"{}"])
    with clients.sending():
        threading.Event().wait(0.2)
    assert clients.answers
    assert {(answer.variant, answer.failed) for answer in clients.answers} == {("nobody", True)}
