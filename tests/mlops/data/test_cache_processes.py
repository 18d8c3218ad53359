"""Several processes at one cache: nobody waits for nothing, nobody loses a bar."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from mlops.data.cache import BarCache
from mlops.errors import SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.exchange_replay import Replay

HOUR = Timeframe("1h")
FETCH = """
import sys
from datetime import datetime
from mlops.data.cache import BarCache
from mlops.data.sources.exchange import ExchangeSource
from mlops.service import Timeframe

url, root, start, now = sys.argv[1:]
now = datetime.fromisoformat(now)
source = ExchangeSource("binance", base_url=url, clock=lambda: now, page_bars=100)
bars = BarCache(root).load(
    source, "BTC/USDT", Timeframe("1h"), start=datetime.fromisoformat(start), now=now
)
print(bars.provenance.content_hash)
"""


def start_fetch(replay: Replay, root: Path) -> subprocess.Popen[str]:
    start = make_bars(1).index[0].isoformat()
    arguments = [replay.url, str(root), start, replay.now.isoformat()]
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments], stdout=subprocess.PIPE, text=True
    )


def stored(root: Path) -> pd.DataFrame:
    return BarCache(root).series("binance", "BTC/USDT", HOUR).read()[1]


def test_two_processes_fetch_at_once_and_each_page_is_asked_for_once(replay, tmp_path):
    replay.kline_delay_s = 0.02
    processes = [start_fetch(replay, tmp_path) for _ in range(2)]
    hashes = [process.communicate(timeout=60)[0].strip() for process in processes]

    assert hashes[0] == hashes[1] != ""
    assert len(replay.klines) == 25
    pd.testing.assert_frame_equal(stored(tmp_path), make_bars(2_499).round(6), check_freq=False)


def test_a_killed_fetch_loses_no_stored_page_and_the_next_one_resumes(replay, tmp_path):
    replay.kline_delay_s = 0.05
    with start_fetch(replay, tmp_path) as process:
        while len(replay.klines) < 12 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    kept = len(stored(tmp_path))
    asked = len(replay.klines)
    replay.kline_delay_s = 0.0

    with start_fetch(replay, tmp_path) as process:
        process.communicate(timeout=60)

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
