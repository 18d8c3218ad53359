"""One process per venue and bars folder fetches bars; each machine with a folder has its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.data.file_options import BarsChoice
from mlops.data.recent_bars import RecentBars
from mlops.data.sources.exchange import ExchangeSource
from mlops.errors import StoreError
from mlops.registry.markets import MarketBook, keep_chosen_file, set_market_of
from mlops.service import Service
from mlops.serving.market_feed import MarketFeed
from mlops.settings import FileClock
from mlops.store import Store, Why, open_store
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.exchange_replay import Fault, Replay, klines, serving

SERVICE = Service.of(
    venue="binance", symbol="BTC/USDT", timeframe="1h", target="volatility", horizon=24
)
MINUTE = timedelta(minutes=1)
OpenFeed = Callable[[str, Path], MarketFeed]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture
def replay() -> Iterator[Replay]:
    """An exchange with 60 bars; the last one closes in a minute."""
    frame = make_bars(60).round(6)
    now = frame.index[-1].to_pydatetime() + 59 * MINUTE
    with serving(Replay(bars={"BTCUSDT": klines(frame)}, now=now)) as exchange:
        yield exchange


@pytest.fixture
def open_feed(store: Store, replay: Replay) -> OpenFeed:
    def opened(holder: str, bars_root: Path) -> MarketFeed:
        return MarketFeed(
            store,
            holder,
            markets=MarketBook(store),
            bars_root=bars_root,
            services=lambda: [SERVICE.key],
            exchange_base_url=replay.url,
        )

    return opened


def stored_bars(root: Path) -> int:
    recent = RecentBars(root, clock=lambda *_: datetime.now(UTC)).load(SERVICE)
    return 0 if recent is None else len(recent.frame)


def test_each_machine_fills_its_own_folder(
    open_feed: OpenFeed, replay: Replay, tmp_path: Path
) -> None:
    for machine in ("first", "second"):
        assert open_feed(machine, tmp_path / machine).poll(replay.now) == 1
        assert stored_bars(tmp_path / machine) == 59


def test_of_the_processes_that_share_a_folder_one_fetches(
    open_feed: OpenFeed, replay: Replay, tmp_path: Path
) -> None:
    feeds = [open_feed(name, tmp_path / "bars") for name in ("r1", "r2")]
    assert [feed.poll(replay.now) for feed in feeds] == [1, 0]
    assert feeds[1].trouble(SERVICE) == ""


@pytest.mark.parametrize(
    "wrong_by", [timedelta(0), 5 * MINUTE, timedelta(hours=1), timedelta(hours=-1)]
)
def test_bars_come_when_they_close_and_never_before(
    open_feed: OpenFeed,
    replay: Replay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong_by: timedelta,
) -> None:
    """However wrong the clock of this machine is."""
    monkeypatch.setattr("mlops.data.sources.venue_clock.ASK_AGAIN_S", 0.0)
    feed = open_feed("r1", tmp_path / "bars")
    feed.poll(replay.now + wrong_by)
    assert stored_bars(tmp_path / "bars") == 59
    replay.now += 2 * MINUTE
    feed.poll(replay.now + wrong_by)
    assert stored_bars(tmp_path / "bars") == 60
    assert ("clock is" in feed.trouble(SERVICE)) == bool(wrong_by)


def test_bars_come_again_behind_a_broken_candle(
    open_feed: OpenFeed, replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replay.bars["BTCUSDT"][58][4] = 0.0
    feed = open_feed("r1", tmp_path / "bars")
    for _ in range(3):
        feed.poll(replay.now)
    assert stored_bars(tmp_path / "bars") == 58
    assert feed.trouble(SERVICE) == ""
    assert len([line for line in caplog.messages if "2024-01-03 10:00 UTC" in line]) == 1

    replay.now += 2 * MINUTE
    assert feed.poll(replay.now) == 1
    assert stored_bars(tmp_path / "bars") == 59


def test_a_week_is_fetched_from_the_monday_on_that_ends_it(
    open_feed: OpenFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, starts = open_feed("r1", tmp_path / "bars"), list[datetime]()
    monkeypatch.setattr(feed, "services", lambda: ["binance.btc-usdt.1w.return.1"])
    monkeypatch.setattr(
        "mlops.serving.market_feed.load_bars", lambda *_, start, **__: starts.append(start)
    )
    monkeypatch.setattr(ExchangeSource, "now", lambda source, *_: source.clock())
    sunday = datetime(2024, 12, 1, 23, tzinfo=UTC)
    polls = [sunday, sunday + timedelta(hours=1, seconds=2), sunday + timedelta(days=4)]
    assert [feed.poll(at) for at in polls] == [1, 1, 0]
    assert {start.weekday() for start in starts} == {0}


def test_a_full_disk_is_told_as_what_it_is_and_all_goes_on_once_there_is_space(
    open_feed: OpenFeed, replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = open_feed("r1", tmp_path / "bars")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlops.data.segments.os.fsync", no_space)
        assert feed.poll(replay.now) == 0
    assert "No space left on device (ENOSPC)" in feed.trouble(SERVICE)
    assert str(tmp_path / "bars" / "bars" / "binance") in feed.trouble(SERVICE)
    assert feed.poll(replay.now) == 1
    assert feed.trouble(SERVICE) == ""
    assert stored_bars(tmp_path / "bars") == 59


def test_a_venue_that_is_away_is_named(
    open_feed: OpenFeed, replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.data.sources.exchange.MAX_DELAY_S", 0.0)
    monkeypatch.setattr("mlops.data.sources.exchange.FIRST_DELAY_S", 0.0)
    replay.every_fault = Fault(status=503)
    feed = open_feed("r1", tmp_path / "bars")
    assert feed.poll(replay.now) == 0
    assert "no new bars come: binance did not list its markets" in feed.trouble(SERVICE)


def test_while_the_store_is_away_the_feed_says_what_it_waits_for(
    open_feed: OpenFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = open_feed("r1", tmp_path / "bars")

    def away(*_: object, **__: object) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr("mlops.serving.market_feed.acquire_lease", away)
    feed.loop().work()
    assert feed.trouble(SERVICE) == f"the feed of {tmp_path / 'bars'} waits: the store is away"


def fed_by_file(store: Store, path: Path, root: Path) -> Service:
    """A service whose market is a file that was read once."""
    service = replace(SERVICE, venue="file")
    choice = BarsChoice(bars_file=str(path), file_clock=FileClock.WALL)
    keep_chosen_file(store, service, choice, root)
    version: Any = None
    with store.write() as connection:
        set_market_of(service, choice, Why(datetime.now(UTC)))(connection, version)
    return service


@pytest.fixture
def growing(store: Store, tmp_path: Path) -> tuple[Path, MarketFeed, RecentBars]:
    """A file of 40 bars, the feed that reads it, and the bars on a machine that has no file."""
    path = tmp_path / "bars.csv"
    make_bars(40).to_csv(path)
    service = fed_by_file(store, path, tmp_path)
    book = MarketBook(store)
    feed = MarketFeed(
        store,
        "here",
        markets=book,
        bars_root=tmp_path / "here",
        services=lambda: [service.key],
    )
    return path, feed, RecentBars(tmp_path / "far", book)


def test_a_file_that_grows_reaches_a_machine_that_does_not_have_it(
    growing: tuple[Path, MarketFeed, RecentBars],
) -> None:
    path, feed, far = growing
    service = replace(SERVICE, venue="file")
    for bars, fetched in ((40, 0), (41, 1), (41, 0), (60, 1)):
        make_bars(bars).to_csv(path)
        os.utime(path, ns=(bars, bars) if bars > 40 else (path.stat().st_mtime_ns,) * 2)
        if bars > 40:
            assert feed.poll(datetime.now(UTC)) == fetched
        known = far.load(service)
        assert known is not None
        assert known.frame.index[-1] == make_bars(bars).index[-1]


def test_a_file_that_breaks_the_rules_leaves_the_bars_that_were_read_before(
    growing: tuple[Path, MarketFeed, RecentBars], caplog: pytest.LogCaptureFixture
) -> None:
    path, feed, far = growing
    service = replace(SERVICE, venue="file")
    path.write_text(path.read_text() + "2024-03-02 16:00:00+00:00,1,2,3")
    for _ in range(2):
        assert feed.poll(datetime.now(UTC)) == 0
    assert "bars.csv" in feed.trouble(service)
    assert caplog.text.count("no new bars come") == 1
    known = far.load(service)
    assert known is not None
    assert len(known.frame) == 40
    make_bars(45).to_csv(path)
    assert feed.poll(datetime.now(UTC)) == 1
    assert not feed.trouble(service)


def test_what_is_missing_on_this_machine_is_named(tmp_path: Path) -> None:
    assert f"are in {tmp_path} yet" in RecentBars(tmp_path).describe_missing(SERVICE)
