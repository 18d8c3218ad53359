"""The cache fetches from a venue only bars that are not stored, and loses no page that arrived."""

from datetime import datetime, timedelta

import pandas as pd
import pytest

from mlops.data.bars import Bars, content_hash
from mlops.data.cache import BarCache
from mlops.data.sources.exchange import ExchangeSource
from mlops.data.sources.samples import SampleSource
from mlops.errors import BarsError, SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import START, make_bars
from tests.mlops.data.exchange_replay import Fault, Replay

HOUR = Timeframe("1h")


class CachedVenue:
    """A cache, a replay and the source between them."""

    def __init__(self, root, replay: Replay):
        self.root, self.replay = root, replay
        self.source = ExchangeSource(
            "binance", base_url=replay.url, clock=lambda: replay.now, sleep=lambda _: None
        )

    def load(self, **period) -> Bars:
        self.replay.klines.clear()
        period = {"start": START, **period}
        cache = BarCache(self.root)
        return cache.load(self.source, "BTC/USDT", HOUR, now=self.replay.now, **period)

    def requested_starts(self) -> list[datetime]:
        stamps = [int(query["startTime"]) / 1000 for query in self.replay.klines]
        return [datetime.fromtimestamp(stamp, START.tzinfo) for stamp in stamps]


@pytest.fixture
def cached(tmp_path, replay) -> CachedVenue:
    return CachedVenue(tmp_path, replay)


def test_bars_come_back_as_the_venue_has_them(cached):
    bars = cached.load()

    pd.testing.assert_frame_equal(bars.frame, make_bars(2_499).round(6), check_freq=False)
    assert bars.quality.completeness == 1.0
    assert bars.provenance.fetched_at == cached.replay.now
    assert bars.content_hash == content_hash(bars.frame)


def test_a_second_load_in_the_same_hour_asks_for_nothing(cached):
    first = cached.load()
    second = cached.load()

    assert cached.replay.klines == []
    assert second.provenance == first.provenance
    assert second.content_hash == first.content_hash


def test_a_later_load_asks_only_for_the_tail_and_reads_the_last_bar_again(cached):
    cached.load()
    cached.replay.now += timedelta(hours=1)

    bars = cached.load()

    assert cached.requested_starts() == [START + timedelta(hours=2_498)]
    assert len(bars.frame) == 2_500


def test_an_earlier_start_asks_only_for_what_is_missing_in_front(cached):
    cached.load(start=START + timedelta(hours=2_000))

    bars = cached.load()

    assert cached.requested_starts() == [START, START + timedelta(hours=1_000)]
    assert len(bars.frame) == 2_499
    cached.load()
    assert cached.requested_starts() == []


def test_a_period_asked_for_twice_is_read_from_disk(cached):
    period = {"start": START + timedelta(hours=10), "end": START + timedelta(hours=30)}
    cached.load(**period)

    assert len(cached.load(**period).frame) == 20
    assert cached.requested_starts() == []


def test_without_a_start_all_that_is_stored_is_loaded(cached):
    cached.load()

    assert len(cached.load(start=None).frame) == 2_499
    assert cached.requested_starts() == []


def test_bars_known_at_an_earlier_time_are_the_bars_of_that_time(cached):
    then = START + timedelta(hours=100, minutes=30)
    cached.load()

    cache = BarCache(cached.root)
    bars = cache.load(cached.source, "BTC/USDT", HOUR, start=START, now=then)

    assert bars.close_times[-1] <= then
    assert len(bars.frame) == 100


@pytest.mark.parametrize("ahead", [timedelta(minutes=35), timedelta(hours=1)])
def test_a_clock_that_is_ahead_stores_no_part_formed_bar(tmp_path, replay, ahead):
    wall = replay.now + ahead
    source = ExchangeSource("binance", base_url=replay.url, clock=lambda: wall)

    BarCache(tmp_path).load(source, "BTC/USDT", HOUR, now=wall, start=START)

    head, stored = BarCache(tmp_path).series("binance", "BTC/USDT", HOUR).read()
    pd.testing.assert_frame_equal(stored, make_bars(2_499).round(6), check_freq=False)
    assert head.coverage[-1][1] == stored.index[-1] + timedelta(hours=1)


def test_a_revised_last_bar_is_replaced_and_counted(cached):
    before = cached.load()
    cached.replay.bars["BTCUSDT"][2_498][5] += 1
    cached.replay.now += timedelta(hours=1)

    bars = cached.load()

    assert bars.frame["volume"].iloc[2_498] == before.frame["volume"].iloc[2_498] + 1
    assert bars.quality.rebuilt == {"revised": 1}
    assert bars.content_hash != before.content_hash


def test_a_fetch_that_fails_half_way_keeps_its_pages_and_resumes_there(cached):
    cached.replay.faults = {number: Fault(status=502) for number in range(4, 10)}
    with pytest.raises(SourceError, match="what was stored is kept"):
        cached.load()

    bars = cached.load()

    assert cached.requested_starts() == [START + timedelta(hours=1_999)]
    assert len(bars.frame) == 2_499


def test_a_hole_lowers_completeness_and_stays_a_hole(cached):
    del cached.replay.bars["BTCUSDT"][1_500:1_510]

    quality = cached.load().quality

    assert [hole.bars for hole in quality.holes] == [10]
    assert quality.completeness == pytest.approx(2_489 / 2_499)


def test_a_hole_between_two_periods_is_asked_for_once(cached):
    del cached.replay.bars["BTCUSDT"][1_990:2_000]
    cached.load(start=START + timedelta(hours=2_000))
    cached.load()

    assert len(cached.load().frame) == 2_489
    assert cached.requested_starts() == []


def test_bars_the_venue_publishes_late_are_still_fetched(cached):
    late = cached.replay.bars["BTCUSDT"][2_490:]
    del cached.replay.bars["BTCUSDT"][2_490:]
    assert len(cached.load().frame) == 2_490

    cached.replay.bars["BTCUSDT"].extend(late)
    assert len(cached.load().frame) == 2_499


def test_a_bad_bar_is_a_hole_and_the_rest_of_its_page_is_kept(cached):
    cached.replay.bars["BTCUSDT"][1_200][2] = 1.0

    quality = cached.load().quality

    assert [(hole.start, hole.bars) for hole in quality.holes] == [
        (START + timedelta(hours=1_200), 1)
    ]
    assert quality.dropped == {"invalid": 1}
    assert quality.first_dropped == {"invalid": START + timedelta(hours=1_200)}
    assert quality.warnings == ()


def test_a_page_that_is_not_made_of_bars_is_refused_and_not_written(cached):
    for bar in cached.replay.bars["BTCUSDT"][1_000:]:
        bar[2], bar[3] = bar[3], bar[2]

    with pytest.raises(BarsError, match="1,499 of the last 1,499 1h candles of BTC/USDT") as caught:
        cached.load()

    assert "2024-02-11 16:00 UTC (high: high below low)" in str(caught.value)
    _, stored = BarCache(cached.root).series("binance", "BTC/USDT", HOUR).read()
    assert len(stored) == 1_000
    assert len(cached.load(end=START + timedelta(hours=1_000)).frame) == 1_000


def test_history_that_begins_later_than_asked_gives_a_warning(cached):
    bars = cached.load(start=START - timedelta(days=30))

    assert "begin at 2024-01-01" in bars.quality.warnings[0]


def test_duplicates_the_venue_sent_are_counted_over_all_fetches(cached):
    rows = cached.replay.bars["BTCUSDT"]
    rows.insert(5, rows[5])

    assert cached.load().quality.dropped == {"duplicate": 1}
    assert cached.load().quality.dropped == {"duplicate": 1}


def test_many_small_fetches_leave_few_files(cached):
    cached.replay.now = START + timedelta(hours=200)
    for _ in range(15):
        cached.replay.now += timedelta(hours=1)
        cached.load()

    folder = BarCache(cached.root).series("binance", "BTC/USDT", HOUR).folder
    assert len(list(folder.glob("*.parquet"))) <= 5


def test_a_period_without_bars_is_refused(cached):
    with pytest.raises(BarsError, match="no 1h bars of BTC/USDT"):
        cached.load(start=START - timedelta(days=9), end=START - timedelta(days=8))


@pytest.mark.parametrize(
    ("symbol", "timeframe", "message"),
    [("BTC/USDX", "1h", "no symbol"), ("BTC/USDT", "7h", "no timeframe")],
)
def test_a_market_the_venue_does_not_have_leaves_nothing_behind(cached, symbol, timeframe, message):
    with pytest.raises(SourceError, match=message):
        BarCache(cached.root).load(
            cached.source, symbol, Timeframe(timeframe), now=cached.replay.now
        )
    assert list(cached.root.iterdir()) == []


def test_local_sources_write_nothing(tmp_path):
    now = datetime(2018, 10, 14, tzinfo=START.tzinfo)

    bars = BarCache(tmp_path).load(SampleSource(), "BTC/USD", HOUR, now=now)

    assert list(tmp_path.iterdir()) == []
    assert bars.provenance.fetched_at == bars.close_times[-1] == now


def test_a_time_without_a_zone_is_refused(cached):
    with pytest.raises(BarsError, match=r"start=.* has no zone"):
        cached.load(start=START.replace(tzinfo=None))


def test_a_bar_that_closed_at_this_very_moment_is_fetched(tmp_path, replay):
    """A training at two o'clock sharp sees the bar of one o'clock."""
    now = replay.now - timedelta(minutes=30)
    bars = BarCache(tmp_path).load(
        ExchangeSource("binance", base_url=replay.url), "BTC/USDT", HOUR, now=now
    )
    assert bars.close_times[-1] == now


def test_only_invalid_candles_of_the_period_asked_for_are_told(cached):
    spoiled = (10, 30, 1_200)
    for row in spoiled:
        cached.replay.bars["BTCUSDT"][row][2] = 1.0

    assert cached.load().quality.dropped == {"invalid": 3}
    for begin, end, count in [(31, None, 1), (30, None, 2), (11, 1_200, 1), (1_201, None, 0)]:
        start, until = (
            hours if hours is None else START + timedelta(hours=hours) for hours in (begin, end)
        )
        quality = cached.load(start=start, end=until).quality
        inside = [row for row in spoiled if begin <= row < (end or 2_500)]
        assert quality.dropped == ({"invalid": count} if count else {})
        assert list(quality.first_dropped.values()) == [
            START + timedelta(hours=row) for row in inside[:1]
        ]


def test_candles_whose_opens_are_no_longer_stored_count_where_they_may_lie(cached, monkeypatch):
    """Of many invalid candles the newest opens alone are stored."""
    monkeypatch.setattr("mlops.data.segments.KEPT_INVALID", 2)
    for row in (10, 30, 50, 1_200):
        cached.replay.bars["BTCUSDT"][row][2] = 1.0

    counts = [
        cached.load(start=START + timedelta(hours=hours)).quality.dropped.get("invalid", 0)
        for hours in (0, 20, 51, 1_201)
    ]
    assert counts == [4, 4, 1, 0]
