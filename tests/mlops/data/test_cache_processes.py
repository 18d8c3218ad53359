"""Several processes at one cache: nobody waits for nothing, nobody loses a bar."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from mlops.data.cache import BarCache
from mlops.data.sources.exchange import ExchangeSource
from mlops.errors import SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.exchange_replay import Replay
from tests.zygote import Process, Zygote

HOUR = Timeframe("1h")


def fetch(url: str, root: str, start: str, now: str) -> None:
    """Load bars through the cache, in a process of its own, and print their hash."""
    known = datetime.fromisoformat(now)
    source = ExchangeSource("binance", base_url=url, clock=lambda: known, page_bars=100)
    bars = BarCache(root).load(
        source, "BTC/USDT", HOUR, start=datetime.fromisoformat(start), now=known
    )
    print(bars.content_hash)


@pytest.fixture
def start_fetch(zygote: Zygote, replay: Replay, tmp_path: Path) -> Callable[[str], Process]:
    """Starts a process that fetches into the test's folder and writes to the log of its name."""

    def start(who: str) -> Process:
        first = make_bars(1).index[0].isoformat()
        asked = (replay.url, str(tmp_path), first, replay.now.isoformat())
        return zygote.spawn(fetch, *asked, log=tmp_path / f"{who}.log", who=who)

    return start


def stored(root: Path) -> pd.DataFrame:
    return BarCache(root).series("binance", "BTC/USDT", HOUR).read()[1]


def test_two_processes_fetch_at_once_and_each_page_is_asked_for_once(replay, start_fetch, tmp_path):
    replay.kline_delay_s = 0.02
    processes = [start_fetch(who) for who in ("one", "two")]
    hashes = [process.output().strip() for process in processes]

    assert hashes[0] == hashes[1] != ""
    assert len(replay.klines) == 25
    pd.testing.assert_frame_equal(stored(tmp_path), make_bars(2_499).round(6), check_freq=False)


def test_a_killed_fetch_loses_no_stored_page_and_the_next_one_resumes(
    replay, start_fetch, tmp_path
):
    replay.kline_delay_s = 0.05
    process = start_fetch("killed")
    while len(replay.klines) < 12 and process.alive:
        time.sleep(0.01)
    process.kill()
    kept = len(stored(tmp_path))
    asked = len(replay.klines)
    replay.kline_delay_s = 0.0

    start_fetch("next").output()

    assert kept >= 1_000
    first = pd.Timestamp(int(replay.klines[asked]["startTime"]), unit="ms", tz="UTC")
    assert first == make_bars(kept).index[-1]
    pd.testing.assert_frame_equal(stored(tmp_path), make_bars(2_499).round(6), check_freq=False)


def test_a_writer_that_never_ends_is_named_after_the_timeout(tmp_path):
    series = BarCache(tmp_path).series("binance", "BTC/USDT", HOUR)

    with (
        series.lock(1),
        pytest.raises(SourceError, match="another process has been fetching"),
        series.lock(0.05),
    ):
        pass
