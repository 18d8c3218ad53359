"""Markets are found by the one spelling of their symbol."""

import pytest

from mlops.data.sources.market_names import find_market
from mlops.errors import SourceError

NAMES = ["BTC/USDT", "kPEPE/USDC:USDC", "币安人生/USDT", "BTC/USDT:USDT-241227", "Odd name/USD"]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_market_is_found_by_any_spelling(name):
    for symbol in (name, name.upper(), name.lower()):
        assert find_market("venue", NAMES, symbol) == name


def test_two_markets_that_differ_in_small_letters_only_are_refused():
    with pytest.raises(SourceError, match=r"2 markets that are written PEPE/USD.*pEPE/USD, PEPE"):
        find_market("venue", ["pEPE/USD", "PEPE/USD"], "PEPE/USD")


def test_an_unknown_symbol_is_answered_with_those_that_are_near():
    with pytest.raises(SourceError, match="no symbol 'BTC/USDX'; did you mean BTC/USDT"):
        find_market("venue", NAMES, "btc/usdx")
