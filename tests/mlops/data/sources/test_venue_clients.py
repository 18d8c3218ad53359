"""The real clients of venues, each with the answers of its own interface, find all bars.

The coin was listed 200 days ago, which is later than the default start, and was not traded for
65 days since.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from mlops.data.sources.exchange import ExchangeSource, shared_client
from mlops.service import Timeframe

HOUR = 3_600_000
DAY = 24 * HOUR
NOW = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
LISTED = NOW_MS // HOUR * HOUR - 200 * DAY
HOURS = [t for t in range(LISTED, NOW_MS, HOUR) if not LISTED + 50 * DAY <= t < LISTED + 115 * DAY]
DAYS = sorted({stamp // DAY * DAY for stamp in HOURS})
CLOSED = [stamp for stamp in HOURS if stamp + HOUR <= NOW_MS]
IDS = {"okx": "NEW-EUR", "kucoin": "NEW-EUR", "coinbase": "NEW-EUR", "kraken": "NEWEUR"}
CELLS = ["100", "101", "99", "100.5", "10"]
"""Open, high, low, close and volume."""

Query = dict[str, str]


def between(start: int, end: int, limit: int, *, days: bool) -> list[int]:
    """Opens in ``[start, end)``, newest first."""
    stamps = DAYS if days else HOURS
    return [stamp for stamp in stamps if start <= stamp < end][-limit:][::-1]


def answer_okx(query: Query) -> Any:
    limits = int(query["before"]) + 1, int(query["after"]), int(query["limit"])
    stamps = between(*limits, days="D" in query["bar"].upper())
    return {"code": "0", "data": [[str(stamp), *CELLS, "1", "1", "1"] for stamp in stamps]}


def answer_kucoin(query: Query) -> Any:
    limits = int(query["startAt"]) * 1000, int(query["endAt"]) * 1000, 1500
    opened, high, low, close, volume = CELLS
    stamps = between(*limits, days=query["type"] == "1day")
    rows = [[str(t // 1000), opened, close, high, low, volume, "1000"] for t in stamps]
    return {"code": "200000", "data": rows}


def answer_coinbase(query: Query) -> Any:
    limits = int(query["start"]) * 1000, int(query["end"]) * 1000 + 1, 350
    stamps = between(*limits, days=query["granularity"] == "ONE_DAY")
    names = ("open", "high", "low", "close", "volume")
    cells = dict(zip(names, CELLS, strict=True))
    return {"candles": [{"start": str(stamp // 1000), **cells} for stamp in stamps]}


def answer_bybit(query: Query) -> Any:
    stamps = DAYS if query["interval"] == "D" else HOURS
    following = [stamp for stamp in stamps if stamp >= int(query["start"])][: int(query["limit"])]
    rows = [[str(stamp), *CELLS, "10"] for stamp in following[::-1]]
    return {"retCode": 0, "result": {"list": rows}, "time": NOW_MS}


def answer_kraken(query: Query) -> Any:
    """The newest 720 bars, whatever is asked for."""
    newest = [stamp for stamp in HOURS if stamp > int(query["since"]) * 1000][-720:]
    rows = [[stamp // 1000, *CELLS[:4], "100", CELLS[4], 3] for stamp in newest]
    return {"error": [], "result": {"NEWEUR": rows, "last": 1}}


def fetch_all(venue: str, answer: Callable[[Query], Any]) -> tuple[list[int], int]:
    """The opens that a venue's client brings, and the number of its requests."""
    queries = []

    def fetch(url: str, *_: object, **__: object) -> Any:
        queries.append({name: values[0] for name, values in parse_qs(urlsplit(url).query).items()})
        return answer(queries[-1])

    exchange = shared_client(venue, "http://not-asked.invalid").exchange
    exchange.enableRateLimit = False
    market = {"id": IDS.get(venue, "NEWEUR"), "symbol": "NEW/EUR", "base": "NEW", "quote": "EUR"}
    exchange.set_markets(
        [exchange.safe_market_structure({**market, "type": "spot", "spot": True, "info": {}})]
    )
    exchange.load_markets = lambda: exchange.markets
    exchange.milliseconds = lambda: NOW_MS
    exchange.fetch = fetch
    source = ExchangeSource(venue, "http://not-asked.invalid", clock=lambda: NOW)
    frame = source.fetch("NEW/EUR", Timeframe("1h"))
    return pd.DatetimeIndex(frame.index).as_unit("ms").asi8.tolist(), len(queries)


@pytest.mark.parametrize(
    ("venue", "answer", "most_requests"),
    [
        ("okx", answer_okx, 20),
        ("kucoin", answer_kucoin, 15),
        ("coinbase", answer_coinbase, 20),
        ("bybit", answer_bybit, 10),
    ],
)
def test_all_bars_of_a_venue_come(
    venue: str, answer: Callable[[Query], Any], most_requests: int
) -> None:
    opens, requests = fetch_all(venue, answer)

    assert opens == CLOSED
    assert requests <= most_requests


def test_a_venue_that_keeps_only_its_newest_bars_is_asked_once() -> None:
    assert fetch_all("kraken", answer_kraken) == (CLOSED[-719:], 1)
