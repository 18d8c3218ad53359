"""A loopback exchange that speaks Binance's two public endpoints, for the real ccxt client.

Without ``startTime`` klines are the last ``limit`` bars; with it, the first ``limit`` bars from
there. The bar that contains ``now`` is served part-formed. Faults answer requests by number.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd

MAX_PAGE = 1000
HOUR_MS = 3_600_000
Bar = list[float]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request instead of an answer."""

    status: int = 500
    delay_s: float = 0.0
    hang_up: bool = False


@dataclass(slots=True)
class Replay:
    """The exchange's state; tests change ``bars``, ``now`` and ``faults`` between fetches."""

    bars: dict[str, list[Bar]]
    now: datetime
    faults: dict[int, Fault] = field(default_factory=dict)
    every_fault: Fault | None = None
    klines: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    page_limit: int = MAX_PAGE
    kline_delay_s: float = 0.0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self) -> Fault | None:
        """Count the request; the fault it is to meet, if any."""
        with self.lock:
            self.requests += 1
            return self.faults.get(self.requests, self.every_fault)

    def answer(self, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        if path.endswith("/exchangeInfo"):
            return 200, {"timezone": "UTC", "symbols": [_market(name) for name in self.bars]}
        if path.endswith("/time"):
            return 200, {"serverTime": int(self._now_ms())}
        if not path.endswith("/klines"):
            return 404, {"code": -1, "msg": f"not replayed: {path}"}
        with self.lock:
            self.klines.append(dict(query))
        if query["symbol"] not in self.bars:
            return 400, {"code": -1121, "msg": "Invalid symbol."}
        time.sleep(self.kline_delay_s)
        return 200, [self._kline(bar) for bar in self._chosen(query)]

    def _chosen(self, query: Mapping[str, str]) -> list[Bar]:
        bars = self.bars[query["symbol"]]
        opened = [bar[0] for bar in bars]
        limit = min(int(query.get("limit", 500)), self.page_limit)
        end = bisect_left(opened, self._now_ms() + 1)
        if "startTime" not in query:
            return bars[max(0, end - limit) : end]
        first = bisect_left(opened, int(query["startTime"]))
        return bars[first : min(end, first + limit)]

    def _kline(self, bar: Bar) -> list[Any]:
        stamp, opened, high, low, close, volume = bar
        formed = min(1.0, (self._now_ms() - stamp) / HOUR_MS)
        if formed < 1:
            close = opened + (close - opened) * formed
            high, low, volume = max(opened, close), min(opened, close), volume * formed
        texts = [f"{value:.8f}" for value in (opened, high, low, close, volume)]
        return [int(stamp), *texts, int(stamp) + HOUR_MS - 1, "0", 0, "0", "0", "0"]

    def _now_ms(self) -> float:
        return self.now.timestamp() * 1000


def _market(name: str) -> dict[str, Any]:
    base, quote = name[:-4], name[-4:]
    return {
        "symbol": name,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT"],
        "isSpotTradingAllowed": True,
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01000000"}],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def klines(frame: pd.DataFrame) -> list[Bar]:
    """Bars of a frame as the replay keeps them."""
    opened = pd.DatetimeIndex(frame.index).as_unit("ms").asi8
    columns = ["open", "high", "low", "close", "volume"]
    return [
        [float(stamp), *values]
        for stamp, values in zip(opened, frame[columns].to_numpy().tolist(), strict=True)
    ]


def _handler(replay: Replay) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(replay._now_ms() / 1000, usegmt=True)

        def do_GET(self) -> None:
            fault = replay.next_fault()
            if fault is not None and fault.hang_up:
                self.close_connection = True
                return
            if fault is not None:
                time.sleep(fault.delay_s)
                self._send(fault.status, {"msg": "injected"})
                return
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            self._send(*replay.answer(parts.path, query))

        def _send(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is part of the test."""


@contextmanager
def serving(replay: Replay) -> Iterator[Replay]:
    """Serve the replay on a free loopback port while the block runs."""
    server = _Server(("127.0.0.1", 0), _handler(replay))
    replay.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield replay
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
