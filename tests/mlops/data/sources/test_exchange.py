"""The exchange source, through the real ccxt client, against a loopback exchange."""

from datetime import timedelta
from itertools import pairwise

import pandas as pd
import pytest

from mlops.data.sources.exchange import ExchangeSource, shared_client
from mlops.errors import SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import START, make_bars
from tests.mlops.data.exchange_replay import HOUR_MS, Fault, Replay

HOUR = Timeframe("1h")
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def naps() -> list[float]:
    """The delays the source asked for instead of sleeping."""
    return []


@pytest.fixture
def source(replay: Replay, naps: list[float]) -> ExchangeSource:
    return ExchangeSource(
        "binance", base_url=replay.url, timeout_s=1.5, clock=lambda: replay.now, sleep=naps.append
    )


def fetch(source: ExchangeSource, symbol: str = "BTC/USDT", timeframe: str = "1h"):
    return source.fetch(symbol, Timeframe(timeframe), start=START)


def test_all_pages_arrive_without_the_part_formed_bar(source, replay):
    frame = fetch(source)

    expected = make_bars(2_499).round(6)
    pd.testing.assert_frame_equal(frame, expected, check_freq=False, check_index_type=False)
    assert [int(query["limit"]) for query in replay.klines] == [1000, 1000, 1000]


def test_a_page_begins_one_step_after_the_last_stamp(source, replay):
    fetch(source)

    starts = pd.to_datetime([int(query["startTime"]) for query in replay.klines], unit="ms")
    assert list(starts[1:] - starts[:-1]) == [pd.Timedelta(hours=1000)] * 2


def test_a_short_page_is_not_the_end(source, replay):
    replay.page_limit = 700

    assert len(fetch(source)) == 2_499


def hours_between_requests(replay: Replay) -> list[float]:
    asked = [int(query["startTime"]) for query in replay.klines]
    return [(later - first) / HOUR_MS for first, later in pairwise(asked)]


def test_an_empty_page_is_not_the_end(source, replay):
    replay.now += timedelta(days=90)

    assert len(fetch(source)) == 2_500
    assert hours_between_requests(replay) == [1_000, 1_000, 500, 1_000, 1_000]


def test_an_empty_page_covers_little_where_the_page_size_of_a_venue_is_unknown(source, replay):
    """A venue may send fewer bars than asked for, and its window is no longer than that."""
    shared_client("binance", replay.url).exchange.features = {}
    replay.now += timedelta(days=10)

    assert len(fetch(source)) == 2_500
    assert hours_between_requests(replay) == [1_000, 1_000, 500, 100, 100]


def test_a_complete_last_bar_is_kept_because_the_clock_decides(source, replay):
    replay.now += timedelta(minutes=30)

    assert fetch(source).index[-1] == pd.Timestamp(START) + timedelta(hours=2_499)


def test_the_clock_is_read_before_the_first_request(replay):
    """A bar that closes during the fetch may have been read part-formed."""
    readings = iter([replay.now, *[replay.now + timedelta(hours=1)] * 9])
    source = ExchangeSource("binance", base_url=replay.url, clock=lambda: next(readings))

    frame = source.fetch("BTC/USDT", HOUR, start=START, end=replay.now + timedelta(hours=5))

    assert len(frame) == 2_499


@pytest.mark.parametrize("wrong_by", [timedelta(minutes=5), AN_HOUR, -AN_HOUR, timedelta(days=40)])
def test_the_venues_time_says_which_bars_are_complete(replay, caplog, monkeypatch, wrong_by):
    """Four minutes before the last bar closes, and a minute after."""
    # The replay's time jumps, so the venue is asked again at once.
    monkeypatch.setattr("mlops.data.sources.venue_clock.ASK_AGAIN_S", 0.0)
    replay.now += timedelta(minutes=26)
    wrong = ExchangeSource("binance", base_url=replay.url, clock=lambda: replay.now + wrong_by)

    frame = wrong.fetch("BTC/USDT", HOUR, start=START, end=replay.now + 2 * AN_HOUR)
    replay.now += timedelta(minutes=5)
    later = wrong.fetch("BTC/USDT", HOUR, start=START, end=replay.now + 2 * AN_HOUR)

    expected = make_bars(2_500).round(6)
    pd.testing.assert_frame_equal(frame, expected[:-1], check_freq=False, check_index_type=False)
    pd.testing.assert_frame_equal(later, expected, check_freq=False, check_index_type=False)
    told = [line for line in caplog.messages if "this machine's clock is" in line]
    assert len(told) == 1
    assert ("ahead of that of binance" in told[0]) == (wrong_by > timedelta(0))


def test_a_clock_that_jumps_while_it_runs_is_found_out_by_the_venues_time(replay):
    clock = [replay.now]
    source = ExchangeSource("binance", base_url=replay.url, clock=lambda: clock[0])
    assert len(fetch(source)) == 2_499

    clock[0] += AN_HOUR

    assert len(source.fetch("BTC/USDT", HOUR, start=START, end=clock[0])) == 2_499


def test_clocks_that_differ_by_a_second_are_left_alone(replay, caplog):
    wall = replay.now + timedelta(seconds=1)
    source = ExchangeSource("binance", base_url=replay.url, clock=lambda: wall)
    # The replay's time stands still, and the first question takes seconds on a slow machine.
    source.check("BTC/USDT", HOUR)

    assert source.now("BTC/USDT", HOUR) == wall
    assert caplog.messages == []


def test_a_venue_that_is_days_ahead_is_not_believed(replay):
    """A part-formed bar would count as complete."""
    wall = replay.now - timedelta(days=2)
    source = ExchangeSource("binance", base_url=replay.url, clock=lambda: wall)

    assert source.now("BTC/USDT", HOUR) == wall


def test_a_hole_in_the_venues_bars_stays_a_hole(source, replay):
    del replay.bars["BTCUSDT"][1_500:1_510]

    assert len(fetch(source)) == 2_489


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(status=418),
        Fault(status=502),
        Fault(status=503),
        Fault(hang_up=True),
        Fault(delay_s=2.0),
    ],
    ids=["429", "418", "502", "503", "hang-up", "time-out"],
)
def test_a_network_error_is_tried_again(source, replay, naps, fault):
    replay.faults = {1: fault, 3: fault}

    assert len(fetch(source)) == 2_499
    assert naps == [1.0, 1.0]


def test_delays_double_and_tries_are_bounded(source, replay, naps):
    replay.every_fault = Fault(status=502)

    with pytest.raises(SourceError, match=r"binance did not list its markets in 6 tries"):
        fetch(source)
    assert naps == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_an_unknown_symbol_fails_at_once_with_a_suggestion(source, replay, naps):
    with pytest.raises(SourceError, match=r"no symbol 'BTC/USDX'; did you mean BTC/USDT"):
        fetch(source, "BTC/USDX")
    assert (naps, replay.klines) == ([], [])


def test_a_market_with_small_letters_is_asked_for_by_the_venues_own_name(source, replay):
    replay.bars["kPEPEUSDT"] = replay.bars.pop("BTCUSDT")

    assert len(fetch(source, "KPEPE/USDT")) == 2_499
    assert {query["symbol"] for query in replay.klines} == {"kPEPEUSDT"}


def test_a_delisted_symbol_is_refused_without_retry(source, replay, naps):
    fetch(source)
    replay.bars["ETHUSDT"] = replay.bars.pop("BTCUSDT")

    with pytest.raises(SourceError, match="refused to send bars of BTC/USDT: BadSymbol"):
        fetch(source)
    assert naps == []


def test_an_unknown_timeframe_fails_before_any_request(source, replay):
    with pytest.raises(SourceError, match="binance has no timeframe 7h; it has 1s, 1m"):
        fetch(source, timeframe="7h")
    assert replay.requests == 0


def test_an_unknown_venue_names_what_is_allowed():
    with pytest.raises(SourceError, match="did you mean binance"):
        ExchangeSource("binanse").fetch("BTC/USDT", HOUR)


def test_one_client_serves_a_process():
    assert shared_client("kraken") is shared_client("kraken")
    assert shared_client("kraken").exchange.enableRateLimit


@pytest.mark.parametrize("venue", ["binance", "kraken", "coinbase", "okx", "bybit", "kucoin"])
def test_the_base_url_replaces_the_host_of_every_exchange(venue):
    urls = shared_client(venue, "http://proxy.example:81").exchange.urls["api"]

    assert {url.split("/")[2] for url in urls.values()} == {"proxy.example:81"}


def test_history_defaults_to_two_years(source, replay):
    fetched = source.fetch("BTC/USDT", HOUR)

    assert len(fetched) == 2_499
    asked = pd.Timestamp(int(replay.klines[0]["startTime"]), unit="ms", tz="UTC")
    assert asked == (pd.Timestamp(replay.now) - timedelta(days=730)).floor("h")
