"""A body of 16 MB of any form, at one replica: what it costs other clients, and the process.

Beside it another client asks for a forecast fifty times a second; the longest that it waits is the
delay. The memory is the growth of the process's peak over what it held before. The same bodies are
sent to `mlflow models serve` of the same network, where it knows their form.
"""

from __future__ import annotations

import http.client
import io
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import HOST, Ask
from benchmarks.peers import Served, Server, serving
from benchmarks.served import FEATURES, SERVICE, make_place, questions
from benchmarks.serving import SERVER_CORE

MIB = 1024**2
SIZE, QUICK_SIZE = 16 * MIB - 1024, MIB
DELAY_S, TIMES = 1.0, 10.0
"""What a body may cost other clients, and its part of the memory, in times of its size."""

AT_ONCE, TOGETHER = 6, ("instances of [1]", "windows of bars")
BESIDE = ("instances of [1]", "instances of bars", "CSV of bars")
"""The forms that MLflow's own server is sent as well."""

EVERY_S, SAMPLE_S, WARM_UP = 0.02, 0.005, 20
SETTLE_S = 1.0
LONGEST_S, MOST_MIB = 90.0, 4096.0
"""A server that needs more is killed, so that the benchmark ends and the machine lives."""

ROW = [45123.45, 45200.12, 45001.99, 45100.55, 123.4567]
WINDOW_BYTES, TEXT_ROW = 32 * 1024 + 64, 850
"""Bytes of a window and of a bar with a text: 16 MB of them are as many as a request may have."""

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
INVOCATIONS, INFER = f"/services/{SERVICE}/invocations", f"/v2/models/{SERVICE}/infer"


@dataclass(frozen=True, slots=True)
class Body:
    """A request with a large body."""

    content: bytes
    path: str = INVOCATIONS
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": JSON})


@dataclass(frozen=True, slots=True)
class Cost:
    """What a body cost.

    Args:
        answer: The status, or what came in its place.
        delay_s: The longest that the other client waited.
        quiet_s: The longest that it waited in the second before.
        times: Growth of the peak of memory, in sizes of all bodies together.
    """

    answer: str
    seconds: float
    delay_s: float
    times: float
    quiet_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"others wait {self.delay_s:.2f} s (before: {self.quiet_s:.2f} s), "
            f"memory {self.times:.1f} times "
            f"({self.answer} after {self.seconds:.1f} s)"
        )


def make_bodies(size: int) -> dict[str, Body]:
    """One body of each form, right or wrong, each as large as fits."""
    row, line = orjson.dumps(ROW), ",".join(map(str, ROW)).encode() + b"\n"
    record = orjson.dumps(dict(zip(FEATURES, ROW, strict=True)))
    columns, header = orjson.dumps(FEATURES), ",".join(FEATURES).encode() + b"\n"
    windows = size // WINDOW_BYTES
    window = b"[%b]" % b",".join([row] * (WINDOW_BYTES // (len(row) + 1) - 1))
    keyed = b",".join(b'{"k%07d":1}' % number for number in range((size - 30) // 15))
    split = b'{"dataframe_split":{"columns":%b,"data":[' % columns
    csv = {"content-type": CSV}
    return {
        "records, each of another key": Body(b'{"dataframe_records":[%b]}' % keyed),
        "records of bars": Body(repeat(b'{"dataframe_records":[', record, b"]}", size)),
        "instances of [1]": Body(repeat(b'{"instances":[', b"[1]", b"]}", size)),
        "instances of bars": Body(repeat(b'{"instances":[', row, b"]}", size)),
        "windows of bars": Body(b'{"instances":[%b]}' % b",".join([window] * windows)),
        "a split frame": Body(repeat(split, row, b"]}}", size)),
        "a column of numbers": Body(repeat(b'{"inputs":{"open":[', b"1", b"]}}", size)),
        "brackets": Body(b"[" * size),
        "CSV of bars": Body(header + line * ((size - 100) // len(line)), headers=csv),
        "CSV of short lines": Body(b"1\n" * (size // 2), headers=csv),
        "Parquet of bars": Body(parquet(size // 42, 0), headers={"content-type": PARQUET}),
        "Parquet of bars and texts": Body(
            parquet(size // TEXT_ROW, TEXT_ROW - 50), headers={"content-type": PARQUET}
        ),
        "Open Inference, JSON": inference(size),
        "Open Inference, bytes": binary(size),
    }


def repeat(begin: bytes, item: bytes, end: bytes, size: int) -> bytes:
    """As many items between begin and end, separated by commas, as fit into a size."""
    count = (size - len(begin) - len(end)) // (len(item) + 1)
    return begin + b",".join([item] * count) + end


def parquet(rows: int, text_bytes: int) -> bytes:
    """Bars, and a text beside each where it has bytes."""
    rng = np.random.default_rng(1)
    columns: dict[str, object] = {
        name: np.full(rows, value) for name, value in zip(FEATURES, ROW, strict=True)
    }
    if text_bytes:
        columns["note"] = [rng.bytes(text_bytes // 2).hex() for _ in range(rows)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="none", use_dictionary=False)
    return sink.getvalue()


def inference(size: int) -> Body:
    """Windows of the Open Inference protocol, as numbers in JSON."""
    row = ",".join(map(str, ROW)).encode()
    windows, bars = size // WINDOW_BYTES, WINDOW_BYTES // (len(row) + 2)
    data = b",".join([row] * (windows * bars))
    return Body(b'{"inputs":[%b,"data":[%b]}]}' % (tensor(windows, bars), data), INFER)


def binary(size: int) -> Body:
    """Windows of the Open Inference protocol, as bytes behind the JSON."""
    windows, bars = size // WINDOW_BYTES, WINDOW_BYTES // 40
    raw = np.tile(np.array(ROW), (windows, bars, 1)).tobytes()
    head = b'{"inputs":[%b}]}' % tensor(windows, bars, parameters={"binary_data_size": len(raw)})
    return Body(head + raw, INFER, {"inference-header-content-length": str(len(head))})


def tensor(windows: int, bars: int, **more: object) -> bytes:
    """The head of an input, without its last bracket."""
    head = {"name": "bars", "datatype": "FP64", "shape": [windows, bars, 5], **more}
    return orjson.dumps(head)[:-1]


class Client(threading.Thread):
    """Asks for one forecast after the other until it is stopped.

    Attributes:
        longest_s: The longest that an answer took.
    """

    def __init__(self, port: int, probe: Body) -> None:
        super().__init__(daemon=True)
        self.port, self.probe = port, probe
        self.longest_s = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(EVERY_S):
            began = time.perf_counter()
            if not send(self.port, self.probe).isdigit():
                self._over.set()
            self.longest_s = max(self.longest_s, time.perf_counter() - began)

    def stop(self) -> float:
        """Wait for the last answer; returns `longest_s`."""
        self._over.set()
        self.join()
        return self.longest_s


def send(port: int, body: Body) -> str:
    """Send a request on a connection of its own; returns the status, or the error's name."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2 * LONGEST_S)
    try:
        connection.request("POST", body.path, body.content, dict(body.headers))
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


class Guard(threading.Thread):
    """Samples a server's memory, and kills it where it needs more than `LONGEST_S` or `MOST_MIB`.

    Attributes:
        why: Why it was killed; empty where it was not.
    """

    def __init__(self, leader: int) -> None:
        super().__init__(daemon=True)
        self.leader, self.pids = leader, members(leader)
        for pid in self.pids:
            # The peak begins anew.
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = self.peak = memory_mib(self.pids, "VmRSS")
        self.why = ""
        self._over = threading.Event()

    def run(self) -> None:
        until = time.monotonic() + LONGEST_S
        while not self.why and not self._over.wait(SAMPLE_S):
            self.peak = max(self.peak, memory_mib(self.pids, "VmHWM"))
            if time.monotonic() > until:
                self.why = f"killed after {LONGEST_S:g} s"
            elif self.peak > MOST_MIB:
                self.why = f"killed at {MOST_MIB:g} MiB"
        if self.why:
            os.killpg(self.leader, signal.SIGKILL)

    def stop(self) -> None:
        self._over.set()
        self.join()
        self.peak = max(self.peak, memory_mib(self.pids, "VmHWM"))


def memory_mib(pids: Sequence[int], name: str) -> float:
    """A figure of ``/proc/PID/status`` of processes together; that of one that has ended is 0."""
    kilobytes = 0
    for pid in pids:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/status").read_text()
            kilobytes += sum(map(int, re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE)))
    return kilobytes / 1024


def members(leader: int) -> list[int]:
    """The processes of a session."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if _session_of(pid) == leader]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def measure(served: Served, bodies: Sequence[Body], probe: Body) -> Cost:
    """Send bodies at once beside a client, and wait for their answers."""
    client = Client(served.port, probe)
    client.start()
    time.sleep(SETTLE_S)
    quiet, client.longest_s = client.longest_s, 0.0
    guard = Guard(served.process.pid)
    guard.start()
    began = time.perf_counter()
    with ThreadPoolExecutor(len(bodies)) as senders:
        answers = set(senders.map(lambda body: send(served.port, body), bodies))
    seconds = time.perf_counter() - began
    delay = client.stop()
    guard.stop()
    size = sum(len(body.content) for body in bodies)
    times = math.inf if guard.why else (guard.peak - guard.before) * MIB / size
    return Cost(guard.why or ", ".join(sorted(answers)), seconds, delay, times, quiet)


class Bench:
    """Sends bodies to a server, which is started anew where one killed it."""

    def __init__(self, server: Server, home: Path, probe: Body) -> None:
        self.server, self.home, self.probe = server, home, probe
        self._stack = ExitStack()
        self._served: Served | None = None

    def cost(self, *bodies: Body) -> Cost:
        """Send bodies at once."""
        if self._served is None or self._served.process.poll() is not None:
            self.close()
            started = serving(self.server, self.home, core=SERVER_CORE)
            self._served = self._stack.enter_context(started)
            for _ in range(WARM_UP):
                send(self._served.port, self.probe)
        return measure(self._served, bodies, self.probe)

    def close(self) -> None:
        """End the server."""
        self._stack.close()


def judge(what: str, cost: Cost, peer: str = "") -> Figure:
    """The promised figure of one body, or of several at once."""
    holds = cost.delay_s <= DELAY_S and cost.times <= TIMES
    asked = f"others wait <= {DELAY_S:g} s, memory <= {TIMES:g} times"
    return Figure(what, str(cost), asked, holds, peer)


def probe_of(ask: Ask) -> Body:
    """The request of a load, to be sent by a `Client`."""
    head, _, content = ask.text.partition("\r\n\r\n")
    return Body(content.encode(), head.split()[1])


def figures(*, quick: bool = False) -> list[Figure]:
    size, console, found = QUICK_SIZE if quick else SIZE, Console(stderr=True), []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        place = make_place(home / "base")
        asked, logs = questions(place), home / "logs"
        ours = Bench(peers.replica(place), logs, probe_of(asked.bars[0]))
        network = peers.mlflow_network(place, home / "network")
        mlflow = Bench(network, logs, probe_of(asked.features[0]))
        stack.callback(ours.close)
        stack.callback(mlflow.close)
        for name, body in make_bodies(size).items():
            cost, peer = ours.cost(body), ""
            if name in BESIDE:
                peer = f"mlflow: {mlflow.cost(replace(body, path='/invocations'))}"
            console.print(f"{name}: {cost}", peer)
            found.append(judge(f"{size / MIB:.0f} MB: {name}", cost, peer))
            if name in TOGETHER:
                cost = ours.cost(*[body] * AT_ONCE)
                console.print(f"{AT_ONCE} of these at once: {cost}")
                found.append(judge(f"{AT_ONCE} at once of {size / MIB:.0f} MB: {name}", cost))
    return found
