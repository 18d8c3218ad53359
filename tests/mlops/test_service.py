"""Services: their keys, and the names they refuse."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlops.errors import ServiceError
from mlops.service import MAX_KEY, Service, Target, Timeframe, new_model_id
from tests.mlops.test_symbols import SYMBOLS

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


@given(
    symbol=SYMBOLS,
    timeframe=st.sampled_from(["1m", "60m", "90m", "4h", "24h", "1d", "7d", "1w"]),
    target=st.sampled_from(Target),
    horizon=st.integers(1, 1000),
)
def test_the_key_of_any_service_parses_back(symbol, timeframe, target, horizon):
    try:
        made = service(symbol=symbol, timeframe=timeframe, target=target, horizon=horizon)
    except ServiceError:
        assume(False)
    assert Service.parse(made.key) == made
    assert len(made.key) <= MAX_KEY


def test_a_symbol_has_one_spelling_whoever_writes_it():
    assert service(symbol="btc/usdt") == service() == Service.parse(service().key)
    direct = Service("binance", "Btc/Usdt", Timeframe("1h"), Target.VOLATILITY, 24)
    assert direct == service()
    assert service(symbol="kPEPE/USDC:USDC").symbol == "KPEPE/USDC:USDC"


@pytest.mark.parametrize(
    "key", ["binance.btc-usdt.60m.volatility.24", "kraken.eth-usd.24h.return.1"]
)
def test_a_stored_service_keeps_the_key_it_was_stored_with(key):
    assert Service.parse(key).key == key


@pytest.mark.parametrize("horizon", [24.0, "24", np.int64(24), np.float32(24)])
def test_a_horizon_that_can_only_mean_one_number_is_taken(horizon):
    assert service(horizon=horizon) == service()
    assert type(service(horizon=horizon).horizon) is int


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"horizon": 24.5}, "24.5 is not a whole number of bars; write it like 24"),
        ({"horizon": True}, "True is not a whole number"),
        ({"horizon": "a day"}, "'a day' is not a whole number"),
        ({"horizon": None}, "None is not a whole number"),
        ({"horizon": [24]}, "not a whole number"),
        ({"horizon": 10**7}, "above 1,000,000 bars"),
        ({"venue": 5}, "venue 5 is not a lower-case name"),
        ({"venue": None}, "venue None"),
        ({"symbol": None}, "symbol None is a NoneType, not text"),
        ({"timeframe": 60}, "timeframe 60 is not a number of minutes"),
        ({"target": 1}, "target 1 is not one of volatility"),
        ({"target": None}, "target None is not one of"),
        ({"target": ["return"]}, "is not one of"),
        ({"venue": "v" * 70}, f"at most {MAX_KEY} are allowed"),
        ({"symbol": "币" * 30 + "/USDT"}, "choose a shorter symbol"),
    ],
)
def test_a_part_of_another_kind_is_refused_by_name(wrong, said):
    with pytest.raises(ServiceError, match=said):
        service(**wrong)


@pytest.mark.parametrize(
    ("given", "name"),
    [("60m", "1h"), ("90m", "90m"), ("24h", "1d"), ("1440m", "1d"), ("7d", "1w"), ("168h", "1w"),
     ("36h", "36h"), ("14d", "14d")],
)  # fmt: skip
def test_a_length_has_one_spelling(given, name):
    assert service(timeframe=given).timeframe == Timeframe(name)
    assert Timeframe(given).minutes == Timeframe(name).minutes


@pytest.mark.parametrize("name", ["1M", "1s", "2w", "1y", "1H", "0h", "01h", "1", "h", "1.5h", ""])
def test_a_length_that_is_not_fixed_or_too_short_is_refused_with_the_rule(name):
    with pytest.raises(ServiceError, match=r"5m, 1h, 1d or 1w .*months and years have no fixed"):
        Timeframe(name)


@pytest.mark.parametrize("name", ["367d", "99999999999999999999d"])
def test_a_length_of_years_is_refused(name):
    with pytest.raises(ServiceError, match="over a year"):
        Timeframe(name)


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("1w", datetime(2024, 12, 2, tzinfo=UTC)),
        ("7d", datetime(2024, 12, 2, tzinfo=UTC)),
        ("1d", datetime(2024, 12, 5, tzinfo=UTC)),
        ("4h", datetime(2024, 12, 5, 12, tzinfo=UTC)),
        ("5m", datetime(2024, 12, 5, 13, 55, tzinfo=UTC)),
    ],
)
def test_a_moment_lies_in_one_bar(name, opened):
    timeframe = Timeframe(name)
    assert timeframe.open_of(datetime(2024, 12, 5, 13, 59, tzinfo=UTC)) == opened
    assert timeframe.open_of(opened) == opened
    assert timeframe.open_of(opened + timeframe.step - timedelta(microseconds=1)) == opened


def test_weeks_before_1970_open_on_mondays_too():
    assert Timeframe("1w").open_of(datetime(1969, 12, 30, tzinfo=UTC)).day == 29


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


@pytest.mark.parametrize(
    "key", ["btc", "a.btc-usd.1h.volatility.x", "a.b.c.d", "a.b-c.1h.return.²", None]
)
def test_a_text_that_is_no_key_is_refused(key):
    with pytest.raises(ServiceError, match="key"):
        Service.parse(key)


@pytest.mark.parametrize(
    ("name", "minutes"), [("5m", 5), ("1h", 60), ("4h", 240), ("1d", 1440), ("1w", 10080)]
)
def test_a_timeframe_knows_its_minutes(name, minutes):
    assert Timeframe(name).minutes == minutes


def test_a_model_id_has_type_asset_and_time():
    assert new_model_id("lstm", "BTC/USDT", AT) == "lstm_BTC_20241205_120000"


@pytest.mark.parametrize(
    ("symbol", "name"), [("BRK.B/USD", "BRK-B"), ("^GSPC", "GSPC"), ("币安/USDT", "5E01-5B89")]
)
def test_a_model_id_is_legal_in_files_and_in_mlflow(symbol, name):
    assert new_model_id("lstm", symbol, AT) == f"lstm_{name}_20241205_120000"


def test_a_model_id_that_is_taken_gets_a_suffix():
    taken = frozenset({"lstm_BTC_20241205_120000", "lstm_BTC_20241205_120000_2"})
    assert new_model_id("lstm", "BTC/USDT", AT, taken) == "lstm_BTC_20241205_120000_3"
