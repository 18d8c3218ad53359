"""One call loads any market."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.data.load import load_bars, open_source
from mlops.data.sources.exchange import ExchangeSource
from mlops.data.sources.files import FileSource
from mlops.errors import BarsError, SourceError
from mlops.features.dataset import Dataset
from mlops.features.spec import FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.service import Service, Target, Timeframe
from tests.mlops.data.conftest import make_bars

SAMPLE = Service.parse("sample.btc-usd.1h.volatility.24")


def test_a_service_and_its_venue_symbol_and_timeframe_load_the_same_bars(tmp_path):
    by_service = load_bars(SAMPLE, cache_root=tmp_path)
    by_words = load_bars(venue="sample", symbol="BTC/USD", timeframe="1h", cache_root=tmp_path)

    assert by_service == by_words
    assert by_service.provenance.label == "BTC/USD sample, 2017-2019"


def test_a_market_is_found_by_any_spelling_of_symbol_and_length(tmp_path):
    spelt = load_bars(venue="sample", symbol="btc/usd", timeframe="60m", cache_root=tmp_path)

    assert spelt == load_bars(SAMPLE, cache_root=tmp_path)


def test_an_earlier_now_gives_what_was_known_then(tmp_path):
    now = datetime(2018, 10, 14, tzinfo=UTC)

    bars = load_bars(SAMPLE, cache_root=tmp_path, now=now)
    assert bars.close_times[-1] == now
    assert bars.quality.rows_out == 9_072


def test_a_period_includes_its_start_and_not_its_end(tmp_path):
    start, end = datetime(2018, 1, 1, tzinfo=UTC), datetime(2018, 1, 3, tzinfo=UTC)

    assert len(load_bars(SAMPLE, cache_root=tmp_path, start=start, end=end).frame) == 48


def test_a_source_of_ones_own_needs_no_venue(tmp_path):
    make_bars(20).to_parquet(tmp_path / "mine.parquet")
    source = FileSource(path=tmp_path / "mine.parquet")

    bars = load_bars(source=source, symbol="X/USD", timeframe="1h", cache_root=tmp_path)
    assert bars.provenance.label == "X/USD from mine.parquet"


def test_the_simulator_says_that_it_is_one(tmp_path):
    bars = load_bars(venue="simulator", symbol="BTC/USDT", timeframe="1h", cache_root=tmp_path)

    assert "simulated" in bars.provenance.label
    assert bars.venue == "simulator"


def test_any_other_venue_is_an_exchange():
    assert open_source("kraken", base_url="http://proxy") == ExchangeSource(
        "kraken", base_url="http://proxy"
    )


def test_an_exchange_is_asked_at_the_address_that_is_set(tmp_path, replay):
    bars = load_bars(
        venue="binance",
        symbol="BTC/USDT",
        timeframe="1h",
        cache_root=tmp_path,
        now=replay.now,
        exchange_base_url=replay.url,
    )
    assert len(bars.frame) == 2_499


def test_half_a_request_is_refused(tmp_path):
    with pytest.raises(SourceError, match="needs a service, or a venue"):
        load_bars(venue="sample", cache_root=tmp_path)


def test_a_file_needs_a_path(tmp_path):
    with pytest.raises(SourceError, match="need load_bars"):
        load_bars(venue="file", symbol="X/USD", timeframe="1h", cache_root=tmp_path)


@pytest.fixture
def stocks(tmp_path):
    """Half a year of hours of New York sessions, from a file that says no calendar."""
    start, end = pd.Timestamp("2023-02-01", tz="UTC"), pd.Timestamp("2023-08-01", tz="UTC")
    opens = load_calendar("XNYS").expected_opens(start, end, Timeframe("1h"))
    frame = make_bars(len(opens)).set_axis(opens)
    frame.iloc[7:, :4] *= 1.01  # the second session opens above the close of the first
    frame.to_parquet(tmp_path / "stocks.parquet")
    return {
        "source": FileSource(path=tmp_path / "stocks.parquet"),
        "symbol": "AAPL/USD",
        "timeframe": "1h",
        "cache_root": tmp_path,
    }


def test_the_calendar_of_a_file_is_recognised_and_noted(stocks):
    bars = load_bars(**stocks)

    assert (bars.calendar.name, bars.quality.holes, bars.quality.completeness) == ("XNYS", (), 1.0)
    assert bars.quality.warnings == (
        "the bars trade by the calendar XNYS, recognised from their times, and not by 24/7; "
        "calendar= chooses another",
    )


def test_a_calendar_is_chosen_by_its_name(stocks):
    part = load_bars(**stocks, calendar="XNYS", start=datetime(2023, 5, 1, tzinfo=UTC))

    assert (part.calendar.name, part.quality.holes, part.quality.warnings) == ("XNYS", (), ())
    with pytest.raises(BarsError, match=r"holes that look like closed .*pass calendar='XNYS'"):
        load_bars(**stocks, calendar="24/7")
    with pytest.raises(BarsError, match=r"calendar 'mars' is not known"):
        load_bars(**stocks, calendar="mars")


def test_windows_and_labels_of_stocks_go_on_over_nights(stocks):
    bars = load_bars(**stocks)
    dataset = Dataset(
        bars.frame,
        timeframe=bars.timeframe,
        target=TargetSpec(Target.RETURN, 24),
        calendar=bars.calendar,
    )

    assert dataset.labels.valid.sum() == len(bars.frame) - 24
    assert dataset.usable(FeatureSpec(("log_return",)), 24).sum() == len(bars.frame) - 24
    opens, closes = (bars.frame[name].to_numpy() for name in ("open", "close"))
    # The change of a session's first bar is that since the close of the session before.
    assert dataset.bars.change[7] == pytest.approx(np.log(closes[7] / closes[6]))
    assert dataset.bars.anchor[7] == closes[6] != opens[7]
    assert dataset.next_returns[6] == pytest.approx(closes[7] / closes[6] - 1)
