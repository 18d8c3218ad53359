"""The load generator asks as told, and no answer passes for right that is not."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load import Ask, Load, Running, measure, number_in, on_core
from benchmarks.peers import Served, echo, serving

POST = Ask.post("/invocations", {"instances": [[[1.0] * 5] * 60]}, 0.5)

CLOSING = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that answers 0.5, always."""
    with serving(echo(), tmp_path_factory.mktemp("echo"), core=None) as found:
        yield found


@pytest.fixture
def load(served: Served) -> Load:
    return Load(port=served.port, asks=[POST], connections=4, seconds=0.3, warm_up_s=0.1)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ({"predictions": [{"forecast": 1.5}]}, 1.5),
        ({"predictions": [[1.5]]}, 1.5),
        ({"forecast": 1.5, "low": 1.0, "high": 2.0}, 1.5),
        ([[1.5]], 1.5),
        (2, 2.0),
    ],
)
def test_the_number_is_found_however_it_is_wrapped(answer: object, number: float) -> None:
    assert number_in(answer) == number


@pytest.mark.parametrize("answer", [{}, [], [1.0, 2.0], {"predictions": [None]}, "text"])
def test_an_answer_without_one_number_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="not one number"):
        number_in(answer)


def test_every_client_is_answered_again_and_again(load: Load) -> None:
    report = measure(load)
    assert report.answered > 4 * load.connections
    assert report.rate == pytest.approx(report.answered / load.seconds)
    assert 0 < report.p50 <= report.p99 <= report.worst
    assert not report.failures


def test_a_wrong_answer_is_a_failure_and_counts_for_no_rate(load: Load) -> None:
    report = measure(replace(load, asks=[replace(POST, right=(0.5 + 2e-6,))]))
    assert report.answered == 0
    assert report.failed == report.failures["wrong"] > 0
    assert "0.5 is none of" in report.first["wrong"]
    assert "FAILED" in str(report)


def test_one_of_several_right_answers_will_do(load: Load) -> None:
    assert not measure(replace(load, asks=[replace(POST, right=(7.0, 0.5))])).failed


def test_a_steady_rate_is_kept_whatever_the_server_could(load: Load) -> None:
    report = measure(replace(load, asks=[Ask.get("/", 0.5)], rate=100.0, seconds=1.0))
    assert 80 <= report.answered <= 101
    assert not report.failures


def test_latency_counts_from_when_a_request_was_due(load: Load) -> None:
    """More than the server can do: requests wait longer and longer before they are sent."""
    report = measure(replace(load, rate=1e6, connections=1))
    assert report.worst > 0.5 * load.seconds


def test_nobody_listening_is_a_failure_and_no_busy_loop(load: Load, tmp_path: Path) -> None:
    with serving(echo(), tmp_path, core=None) as gone:
        port = gone.port
    report = measure(replace(load, port=port))
    assert set(report.failures) == {"ConnectionRefusedError"}
    assert report.failed < 100


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "closed"),
        (b"HTTP/1.1 200 OK\r\n\r\n0.5", "unsized"),
        (CLOSING % (b"200 OK", 4) + b"text", "unreadable"),
        (CLOSING % (b"503 Busy", 0), "503"),
    ],
)
def test_what_is_no_answer_is_counted_by_its_reason(load: Load, answer: bytes, reason: str) -> None:
    with answering(answer) as port:
        report = measure(replace(load, port=port))
    assert set(report.failures) == {reason}
    assert report.answered == 0


def test_a_server_that_closes_after_each_answer_is_met_anew(load: Load) -> None:
    with answering(CLOSING % (b"200 OK", 3) + b"0.5") as port:
        report = measure(replace(load, port=port))
    assert report.answered > load.connections
    assert not report.failures


def test_a_generator_that_dies_reports_nothing(load: Load) -> None:
    running = Running(replace(load, seconds=30.0))
    running.stop()
    with pytest.raises(RuntimeError, match="load generator ended"):
        running.report()


class _Answer(socketserver.BaseRequestHandler):
    """Reads one request, sends what it is to send, and closes."""

    answer = b""

    def handle(self) -> None:
        self.request.recv(65_536)
        self.request.sendall(self.answer)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port where each connection gets these bytes, once."""
    handler = type("Answer", (_Answer,), {"answer": answer})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux only")
def test_a_block_runs_on_one_core_and_what_follows_on_all() -> None:
    before = os.sched_getaffinity(0)
    with on_core(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_a_request_says_how_long_it_is() -> None:
    head, _, body = POST.text.partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head
    assert len(json.loads(body)["instances"][0]) == 60
