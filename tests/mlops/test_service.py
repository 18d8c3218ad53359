"""Services: their keys, and the names they refuse."""

from datetime import UTC, datetime

import pytest

from mlops.errors import ServiceError
from mlops.service import Service, Timeframe, new_model_id

AT = datetime(2024, 12, 5, 12, tzinfo=UTC)


def service(**changes):
    parts = {
        "venue": "binance",
        "symbol": "BTC/USDT",
        "timeframe": "1h",
        "target": "volatility",
        "horizon": 24,
    }
    return Service.of(**(parts | changes))


def test_the_key_names_every_part():
    assert service().key == "binance.btc-usdt.1h.volatility.24"


@pytest.mark.parametrize("symbol", ["BTC/USDT", "ETH/BTC", "BTC/USDT:USDT"])
def test_a_key_parses_back_to_its_service(symbol):
    assert Service.parse(service(symbol=symbol).key) == service(symbol=symbol)


@pytest.mark.parametrize(
    "wrong",
    [
        {"venue": "Binance US"},
        {"symbol": "BTC USDT"},
        {"timeframe": "60"},
        {"target": "vol"},
        {"horizon": 0},
    ],
)
def test_an_illegal_part_is_refused(wrong):
    with pytest.raises(ServiceError, match=str(next(iter(wrong.values())))):
        service(**wrong)


@pytest.mark.parametrize("key", ["btc", "a.btc-usd.1h.volatility.x", "a.b.c.d"])
def test_a_text_that_is_no_key_is_refused(key):
    with pytest.raises(ServiceError, match="key"):
        Service.parse(key)


@pytest.mark.parametrize(("name", "minutes"), [("5m", 5), ("1h", 60), ("4h", 240), ("1d", 1440)])
def test_a_timeframe_knows_its_minutes(name, minutes):
    assert Timeframe(name).minutes == minutes


def test_a_model_id_has_type_asset_and_time():
    assert new_model_id("lstm", "BTC/USDT", AT) == "lstm_BTC_20241205_120000"


def test_a_model_id_that_is_taken_gets_a_suffix():
    taken = frozenset({"lstm_BTC_20241205_120000", "lstm_BTC_20241205_120000_2"})
    assert new_model_id("lstm", "BTC/USDT", AT, taken) == "lstm_BTC_20241205_120000_3"
