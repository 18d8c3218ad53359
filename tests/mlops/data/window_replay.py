"""A loopback exchange whose answers are windows: Bitvavo's public endpoints, for the real client.

The client sends a start and an end, and the answer is what lies between, newest first. A stretch
without trades has no candles, so that an answer can be empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mlops.data.sources.exchange import shared_client
from tests.mlops.data.exchange_replay import HOUR_MS, Replay, serving

DAY_MS = 24 * HOUR_MS


@dataclass(slots=True)
class WindowReplay(Replay):
    """Serves ``bars`` by market, such as NEW-EUR.

    ``broken`` replaces the five cells of a candle by its open, and adds one where there is none.
    With each request for candles ``passes`` goes by.
    """

    broken: dict[int, list[Any]] = field(default_factory=dict)
    passes: timedelta = timedelta(0)

    def answer(self, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        if path.endswith("/markets"):
            return 200, [_market(name) for name in self.bars]
        if path.endswith("/assets"):
            return 200, []
        if path.endswith("/time"):
            return 200, {"time": int(self._now_ms())}
        with self.lock:
            self.klines.append(dict(query))
            self.now += self.passes
        found = self._candles(path.split("/")[-2], query["interval"])
        start, end = int(query["start"]), min(int(query["end"]), int(self._now_ms()) + 1)
        window = [candle for candle in found if start <= candle[0] < end]
        return 200, sorted(window, key=lambda candle: -candle[0])[: int(query["limit"])]

    def hours_asked(self) -> list[int]:
        """The starts of the requests for hourly bars."""
        return [int(query["start"]) for query in self.klines if query["interval"] == "1h"]

    def _candles(self, market: str, interval: str) -> list[list[Any]]:
        bars = self.bars[market]
        if interval == "1d":
            days = sorted({int(bar[0]) // DAY_MS * DAY_MS for bar in bars})
            return [[day, "100", "101", "99", "100", "10"] for day in days]
        candles = {int(bar[0]): [str(cell) for cell in bar[1:]] for bar in bars} | self.broken
        return [[stamp, *cells] for stamp, cells in candles.items()]


def _market(name: str) -> dict[str, Any]:
    base, quote = name.split("-")
    return {
        "market": name,
        "status": "trading",
        "base": base,
        "quote": quote,
        "pricePrecision": 5,
        "minOrderInBaseAsset": "0.001",
        "minOrderInQuoteAsset": "5",
        "orderTypes": ["market"],
        "quantityDecimals": 8,
        "notionalDecimals": 2,
        "tickSize": "0.01",
        "maxOpenOrders": 100,
        "feeCategory": "A",
    }


@contextmanager
def serving_windows(replay: WindowReplay) -> Iterator[WindowReplay]:
    """Serve the replay on a loopback port; its client does not wait between two requests."""
    with serving(replay):
        shared_client("bitvavo", replay.url).exchange.enableRateLimit = False
        yield replay
