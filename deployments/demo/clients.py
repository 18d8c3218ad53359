"""Live requests for the demonstration: real windows of bars at a steady rate, answers kept."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pandas as pd

from mlops.data.bars import COLUMNS
from mlops.reports.rollouts import Answered

RATE = 50.0
THREADS = 2
BODIES = 200
TIMEOUT_S = 10.0


class Clients:
    """Threads that ask a replica for forecasts; `answers` is what they got."""

    def __init__(self, port: int, service: str, bodies: Sequence[bytes]) -> None:
        self.port = port
        self.path = f"/services/{service}/invocations"
        self.bodies = bodies
        self.answers: list[Answered] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(THREADS)
        ]

    @contextmanager
    def asking(self) -> Iterator[Clients]:
        """Ask for as long as the block lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def since(self, moment: datetime) -> list[Answered]:
        """What was answered from a moment on."""
        return [one for one in self.answers if one.at >= moment]

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        turn, due = number, time.monotonic()
        while not self._stop.is_set():
            due += THREADS / RATE
            self.answers.append(self._one(connection, self.bodies[turn % len(self.bodies)]))
            turn += THREADS
            self._stop.wait(max(0.0, due - time.monotonic()))
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, body: bytes) -> Answered:
        asked = datetime.now(UTC)
        try:
            connection.request("POST", self.path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return Answered(asked, "nobody", failed=True)
        variant = answer.headers.get("x-variant", "nobody")
        return Answered(asked, variant, failed=answer.status != 200)


def windows_of(frame: pd.DataFrame, n_bars: int) -> list[bytes]:
    """The newest windows of ``n_bars`` bars as bodies of MLflow's scoring protocol."""
    bodies = []
    for end in range(len(frame) - BODIES, len(frame)):
        part = frame.iloc[end - n_bars + 1 : end + 1]
        times = [stamp.isoformat() for stamp in part.index]
        data = [[at, *row] for at, row in zip(times, part[list(COLUMNS)].to_numpy().tolist(),
                                               strict=True)]  # fmt: skip
        split = {"columns": ["open_time", *COLUMNS], "data": data}
        bodies.append(json.dumps({"dataframe_split": split}).encode())
    return bodies
