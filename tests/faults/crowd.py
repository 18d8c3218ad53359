"""Many keep-alive connections to one replica, each of which asks again as soon as it is answered.

A client goes to the other replica when it is asked to close its connection, and only then: that
it should not have to do so any earlier is what is tested.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.prober import Connection, NoAnswer, render


class Crowd:
    """Counts what became of every request."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.ports: list[int] = list(given["ports"])
        self.connections = int(given["connections"])
        self.results = Path(given["results"])
        bodies = Path(given["bodies"]).read_bytes().splitlines()
        path = f"/services/{given['service']}/invocations"
        headers = {"content-type": "application/json"}
        self.requests = [render("POST", path, body, headers) for body in bodies]
        self.counts: Counter[str] = Counter()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        clients = [asyncio.create_task(self._client(n)) for n in range(self.connections)]
        while not self.stop.is_set():
            self._write()
            await asyncio.sleep(0.1)
        await asyncio.gather(*clients)
        self._write()

    async def _client(self, number: int) -> None:
        port = self.ports[0]
        connection = await Connection.to(port)
        self.counts["connected"] += 1
        while not self.stop.is_set():
            number += 1
            try:
                answer = await connection.ask(self.requests[number % len(self.requests)])
            except NoAnswer as error:
                self.counts[f"lost: {error}"] += 1
                answer = None
            else:
                self.counts[f"{answer.status} from {self.ports.index(port) + 1}"] += 1
            if answer is None or answer.headers.get("connection") == "close":
                connection.close()
                port = self.ports[1]
                connection = await Connection.to(port)
                self.counts["moved"] += 1
        connection.close()

    def _write(self) -> None:
        whole = self.results.with_suffix(".new")
        whole.write_text(json.dumps(self.counts))
        whole.replace(self.results)


def main(given: Mapping[str, Any]) -> None:
    """Ask until SIGTERM."""
    asyncio.run(Crowd(given).run())
