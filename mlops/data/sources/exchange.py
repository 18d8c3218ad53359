"""Bars from any exchange of ccxt, in pages, with retries after network errors only."""

from __future__ import annotations

import difflib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pandas as pd

from mlops.credentials import split_login
from mlops.data.bar_columns import COLUMNS
from mlops.data.market_clock import wall_clock
from mlops.data.sources.base import MOST_AHEAD, Page
from mlops.data.sources.market_names import find_market
from mlops.data.sources.paging import DAY_MS, Answer, Walk, find_first_day
from mlops.data.sources.venue_clock import VenueClock
from mlops.errors import SourceError
from mlops.service import Timeframe

log = logging.getLogger(__name__)

DEFAULT_HISTORY = timedelta(days=730)
MAX_TRIES = 6
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
TIMEOUT_S = 20.0
# A venue silently cuts a larger request to its own page size, so ask for exactly that.
PAGE_BARS = {
    "binance": 1000,
    "bitvavo": 1440,
    "bybit": 1000,
    "coinbase": 300,
    "kraken": 720,
    "kucoin": 1500,
    "okx": 300,
}
DEFAULT_PAGE_BARS = 300
LEAST_PAGE_BARS = 100
"""The page of a venue whose page size ccxt does not know may be as small as this."""

# Without this ccxt loads Binance's derivatives markets too, which are on other hosts.
_OPTIONS: dict[str, dict[str, Any]] = {"binance": {"fetchMarkets": {"types": ["spot"]}}}
# A wrong stamp may lie so far in the future that no date is written for it.
_LAST_OPEN_MS = 7_258_118_400_000

_clients: dict[tuple[int, str, str | None], Client] = {}
_clients_lock = threading.Lock()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Client:
    """A ccxt exchange, its time, and its lock: one thread at a time uses its session."""

    exchange: Any
    clock: VenueClock
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, request: Callable[[], T]) -> T:
        """Send a request, and note the time that the answer's headers tell."""
        with self.lock:
            self.exchange.last_response_headers = None
            asked_s = time.monotonic()
            try:
                return request()
            finally:
                told_s = _read_time_of_answer(self.exchange.last_response_headers or {})
                if told_s is not None:
                    self.clock.note(told_s, asked_s)

    def ask_time(self) -> None:
        """Ask the venue for its time, where it has a call for it."""
        import ccxt

        if not self.exchange.has.get("fetchTime"):
            return
        asked_s = time.monotonic()
        try:
            told_ms = self.call(self.exchange.fetch_time)
        except ccxt.BaseError as error:
            # An answer without a time has a Date all the same, and no answer changes nothing.
            log.warning("%s did not tell its time: %s", self.clock.venue, _describe(error))
            return
        self.clock.note(told_ms / 1000, asked_s)


def shared_client(venue: str, base_url: str | None = None, timeout_s: float = TIMEOUT_S) -> Client:
    """This process's client of an exchange; it is shared because it holds the rate limiter.

    Args:
        base_url: Replaces scheme and host of the exchange's REST address.

    Raises:
        SourceError: when ccxt has no such exchange.
    """
    key = (os.getpid(), venue, base_url)
    with _clients_lock:
        if key not in _clients:
            exchange = _create_exchange(venue, base_url, timeout_s)
            _clients[key] = Client(exchange, VenueClock(venue))
        return _clients[key]


def is_exchange(venue: str) -> bool:
    """Whether ccxt has an exchange of this id."""
    import ccxt

    return venue in ccxt.exchanges


def _create_exchange(venue: str, base_url: str | None, timeout_s: float) -> Any:
    import ccxt

    if venue not in ccxt.exchanges:
        near = difflib.get_close_matches(venue, ["sample", "file", "simulator", *ccxt.exchanges])
        raise SourceError(
            f"venue {venue!r} is no source of bars; did you mean {', '.join(near) or 'binance'}? "
            "Allowed: sample, file, simulator, or an exchange id of ccxt"
        )
    exchange = getattr(ccxt, venue)(
        {
            "enableRateLimit": True,
            "timeout": int(timeout_s * 1000),
            "options": _OPTIONS.get(venue, {}),
        }
    )
    if base_url is not None:
        address, exchange.session.auth = split_login(base_url)
        exchange.urls["api"] = _rebased(exchange.urls["api"], address.rstrip("/"))
    return exchange


def _rebased(urls: Any, base_url: str) -> Any:
    if isinstance(urls, dict):
        return {name: _rebased(url, base_url) for name, url in urls.items()}
    return base_url + urlsplit(urls).path if isinstance(urls, str) else urls


@dataclass(frozen=True, slots=True)
class ExchangeSource:
    """The bars of one exchange.

    After a time-out or status 418, 429 or 5xx a request is sent again with exponential
    back-off; an unknown symbol or timeframe fails at once.

    Args:
        base_url: Replaces scheme and host of the exchange's REST address.
        max_tries: Requests before a network error is final.
        page_bars: Bars of a page; by default the venue's own page size.
        clock: This machine's clock; for tests, as ``sleep`` is.
    """

    venue: str
    base_url: str | None = None
    max_tries: int = MAX_TRIES
    timeout_s: float = TIMEOUT_S
    page_bars: int | None = None
    clock: Callable[[], datetime] = wall_clock
    sleep: Callable[[float], None] = time.sleep

    def default_start(self, timeframe: Timeframe, end: datetime) -> datetime:
        """Two years back, on a whole bar."""
        return timeframe.open_of(end - DEFAULT_HISTORY)

    def now(self, symbol: str, timeframe: Timeframe) -> datetime:
        """The venue's time; the first call in a process asks for the venue's markets.

        Raises:
            SourceError: when it has no such symbol or timeframe.
        """
        # Read before any request, so that a bar that closes meanwhile does not count as complete.
        wall, began_s = self.clock(), time.monotonic()
        client = self._open_market(symbol, timeframe)
        waited = timedelta(seconds=time.monotonic() - began_s)
        return client.clock.correct(wall + waited, client.ask_time) - waited

    def check(self, symbol: str, timeframe: Timeframe) -> None:
        """Ask for the venue's markets, once in a process.

        Raises:
            SourceError: when it has no such symbol or timeframe.
        """
        self._open_market(symbol, timeframe)

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        """All pages of ``[start, end)`` in one frame; start defaults to two years before end.

        Raises:
            SourceError: when the exchange refuses or stays unreachable.
        """
        until = end or self.clock()
        since = start or self.default_start(timeframe, until)
        pages = self.pages(symbol, timeframe, start=since, end=until)
        frames = [page.frame for page in pages if len(page.frame)]
        return pd.concat(frames) if frames else _frame([])

    def pages(
        self, symbol: str, timeframe: Timeframe, *, start: datetime, end: datetime
    ) -> Iterator[Page]:
        """Pages of bars opened in ``[start, end)`` and closed by the venue's time at the start.

        Neither a short page nor an empty one ends the history.
        """
        step = timeframe.minutes * 60_000
        # The time, not the last row, decides which bars are part-formed: on a venue without
        # trades in the last minutes the last row is complete.
        now = _ms(self.now(symbol, timeframe))
        walk = self._plan_walk(symbol, timeframe, _ms(start), min(_ms(end), now - step + 1), now)
        for answer in walk.answers():
            yield _make_page(answer)

    def _plan_walk(
        self, symbol: str, timeframe: Timeframe, since: int, bound: int, now: int
    ) -> Walk:
        client = self._open_market(symbol, timeframe)
        step = timeframe.minutes * 60_000
        has_days = step < DAY_MS and "1d" in client.exchange.timeframes

        def find_day(since: int) -> int:
            return self._find_day(client, symbol, since, bound) if has_days else since

        return Walk(
            what=f"{timeframe} bars of {symbol} on {self.venue}",
            ask=lambda since: self._ask(client, symbol, timeframe.name, since),
            find_day=find_day,
            since=since,
            bound=bound,
            latest=now + step + round(MOST_AHEAD.total_seconds() * 1000),
            step=step,
            window=self._read_page_size(client, symbol)[1] * step,
        )

    def _find_day(self, client: Client, symbol: str, since: int, bound: int) -> int:
        """Where the next bar is by the venue's day bars; ``since`` where they do not tell."""
        try:
            found = find_first_day(
                lambda day: self._ask(client, symbol, "1d", day, tries=1),
                since=since,
                # A day bar that is still being formed may be missing.
                until=(bound // DAY_MS - 2) * DAY_MS,
                window=self._read_page_size(client, symbol)[1] * DAY_MS,
            )
        except SourceError as error:
            log.info("all windows without bars of %s are asked for: %s", symbol, error)
            return since
        return since if found is None else found

    def _open_market(self, symbol: str, timeframe: Timeframe) -> Client:
        client = shared_client(self.venue, self.base_url, self.timeout_s)
        offered = client.exchange.timeframes or {}
        if timeframe.name not in offered:
            raise SourceError(
                f"{self.venue} has no timeframe {timeframe}; it has {', '.join(offered)}"
            )
        self._call_with_retries(client, "list its markets", client.exchange.load_markets)
        find_market(self.venue, client.exchange.markets, symbol)
        return client

    def _read_page_size(self, client: Client, symbol: str) -> tuple[int, int]:
        """The bars to ask for in one request, and how many of them the venue surely looks for."""
        limit = self.page_bars or PAGE_BARS.get(self.venue, DEFAULT_PAGE_BARS)
        market = find_market(self.venue, client.exchange.markets, symbol)
        known = client.exchange.feature_value(market, "fetchOHLCV", "limit")
        if known is not None:
            limit = min(limit, int(known))
        return limit, limit if known is not None else min(limit, LEAST_PAGE_BARS)

    def _ask(
        self, client: Client, symbol: str, bars: str, since: int, *, tries: int | None = None
    ) -> list[list[float]]:
        limit, _ = self._read_page_size(client, symbol)
        market = find_market(self.venue, client.exchange.markets, symbol)
        return self._call_with_retries(
            client,
            f"send bars of {symbol}",
            lambda: client.exchange.fetch_ohlcv(market, bars, since=since, limit=limit),
            tries=tries,
        )

    def _call_with_retries(
        self, client: Client, what: str, call: Callable[[], T], *, tries: int | None = None
    ) -> T:
        """Call, with exponential back-off after a network error; any other error is final."""
        import ccxt

        tries = tries or self.max_tries
        delay: float = FIRST_DELAY_S
        for attempt in range(1, tries + 1):
            try:
                return client.call(call)
            except ccxt.NetworkError as error:
                if attempt == tries:
                    raise SourceError(
                        f"{self.venue} did not {what} in {attempt} tries: {_describe(error)}; what "
                        "was stored is kept, and the next call resumes there"
                    ) from error
            except ccxt.BaseError as error:
                raise SourceError(f"{self.venue} refused to {what}: {_describe(error)}") from error
            self.sleep(delay)
            delay = min(2 * delay, MAX_DELAY_S)
        raise SourceError(f"max_tries={self.max_tries} allows no request; use at least 1")


def _read_time_of_answer(headers: Mapping[str, str]) -> float | None:
    """Seconds since 1970 by which an answer is known to be sent; None where it does not say."""
    try:
        sent = parsedate_to_datetime(headers["Date"]).timestamp()
        # A shared cache repeats the Date of its copy, and says how old it is.
        return sent + float(headers.get("Age", 0))
    except (KeyError, ValueError):
        return None


def _describe(error: Exception) -> str:
    return f"{type(error).__name__} {str(error)[:200]}"


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _make_page(answer: Answer) -> Page:
    return Page(_frame(answer.rows), pd.Timestamp(answer.asked_to, unit="ms", tz="UTC"))


def _frame(rows: list[list[float]]) -> pd.DataFrame:
    opens = [min(int(row[0]), _LAST_OPEN_MS) for row in rows]
    stamps = pd.DatetimeIndex(pd.to_datetime(opens, unit="ms", utc=True), name="open_time")
    values = pd.DataFrame(
        [row[1:6] for row in rows], index=stamps, columns=list(COLUMNS), dtype=object
    )
    for name in COLUMNS:
        # None and text become NaN, so that the rest of the page can be read.
        values[name] = pd.to_numeric(values[name], errors="coerce").astype("float64")
    return values
