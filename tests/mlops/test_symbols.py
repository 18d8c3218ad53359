"""Symbols: one spelling each, and forms in keys, folders and ids that are never shared."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import ServiceError
from mlops.symbols import (
    MARKS,
    asset_name,
    decode_symbol,
    encode_symbol,
    folder_name,
    spell_symbol,
)

LETTERS = st.characters(categories=["L", "Nd"], include_characters=MARKS)
ASSETS = st.text(LETTERS, min_size=1, max_size=8).filter(lambda text: any(map(str.isalnum, text)))
SYMBOLS = st.one_of(
    ASSETS,
    st.builds("{}/{}".format, ASSETS, ASSETS),
    st.builds("{}/{}:{}".format, ASSETS, ASSETS, ASSETS),
)
OF_EACH_KIND = {
    "BTC/USDT": "btc-usdt",
    "BTC/USDT:USDT": "btc-usdt-usdt",
    "1000SHIB/USDT:USDT": "1000shib-usdt-usdt",
    "1INCH/USDT": "1inch-usdt",
    "EUR/USD": "eur-usd",
    "AAPL": "aapl",
    "BRK.B": "brk~2e~b",
    "BF-B": "bf~2d~b",
    "BF/B": "bf-b",
    "BRK.B/USD": "brk~2e~b-usd",
    "^GSPC": "~5e~gspc",
    "ES=F": "es~3d~f",
    "ESZ24": "esz24",
    "BTC/USDT:USDT-241227": "btc-usdt-usdt~2d~241227",
    "BTC/USD:BTC-241227-60000-C": "btc-usd-btc~2d~241227~2d~60000~2d~c",
    "币安人生/USDT": "~5e01~~5b89~~4eba~~751f~-usdt",
}


@pytest.mark.parametrize(("symbol", "form"), OF_EACH_KIND.items())
def test_symbols_of_each_kind_have_a_form_of_their_own(symbol, form):
    assert encode_symbol(spell_symbol(symbol)) == form
    assert decode_symbol(form) == symbol


def test_no_two_symbols_share_form_or_folder():
    assert len({encode_symbol(symbol) for symbol in OF_EACH_KIND}) == len(OF_EACH_KIND)
    assert len({folder_name(symbol) for symbol in OF_EACH_KIND}) == len(OF_EACH_KIND)


def test_folders_that_are_filled_already_keep_their_names():
    assert folder_name("BTC/USDT") == "btc-usdt"
    assert folder_name("BTC/USDT:USDT") == "btc-usdt%3Ausdt"


@given(SYMBOLS)
def test_a_form_is_read_back_and_may_stand_in_addresses(symbol):
    try:
        spelt = spell_symbol(symbol)
    except ServiceError:
        return  # some letters have two upper cases
    form = encode_symbol(spelt)
    assert re.fullmatch(r"[a-z0-9~-]+", form)
    assert re.fullmatch(r"[a-z0-9~%A-]+", folder_name(symbol))
    assert re.fullmatch(r"[A-Z0-9-]+", asset_name(symbol))
    assert decode_symbol(form) == spelt
    assert spell_symbol(spelt) == spelt


@given(SYMBOLS, SYMBOLS)
def test_two_symbols_that_are_spelt_alike_are_one(one, other):
    try:
        forms = encode_symbol(spell_symbol(one)), encode_symbol(spell_symbol(other))
    except ServiceError:
        return
    assert (forms[0] == forms[1]) == (spell_symbol(one) == spell_symbol(other))


@pytest.mark.parametrize("symbol", ["btc/usdt", "kPEPE/USDC:USDC", "brk.b", "é/usd", "ß"])
def test_small_letters_are_spelt_as_capitals(symbol):
    assert spell_symbol(symbol) == spell_symbol(symbol.upper()) == symbol.upper()


def test_a_composed_letter_and_its_parts_are_one():
    assert spell_symbol("CAFÉ/USD") == spell_symbol("CAFE\u0301/USD")


@pytest.mark.parametrize(
    ("symbol", "said"),
    [
        ("BTC USDT", "has the character ' '"),
        ("A/B/C", "not written like"),
        ("NASDAQ:AAPL", "not written like"),
        ("/USD", "not written like"),
        ("BTC/", "not written like"),
        ("^", "not written like"),
        ("", "not written like"),
        ("A/B:C:D", "not written like"),
        ("A:B/C", "not written like"),
        ("BTC~/USD", "has the character '~'"),
        ("BTC/USD\n", r"has the character '\\n'"),
        ("A\0", "has the character"),
        ("\ud800", "has the character"),
        ("🐸/USD", "has the character"),
        ("../../etc", "not written like"),
        ("A" * 65, "has 65 characters, at most 64"),
        (None, "None is a NoneType, not text"),
        (5, "5 is a int, not text"),
        (True, "True is a bool, not text"),
    ],
)
def test_what_is_no_symbol_is_refused_with_the_rule(symbol, said):
    with pytest.raises(ServiceError, match=said) as refusal:
        spell_symbol(symbol)
    assert "letters, digits" in str(refusal.value) or "shorter name" in str(refusal.value)


@pytest.mark.parametrize("form", ["~41~", "a~2e", "a~ffffff~", "a--b", "a-b-c-d", "-b", "", "a.b"])
def test_a_text_that_is_no_form_is_refused(form):
    with pytest.raises(ServiceError):
        decode_symbol(form)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("BTC/USDT", "BTC"), ("BRK.B/USD", "BRK-B"), ("^GSPC", "GSPC"), ("币安/USDT", "5E01-5B89")],
)
def test_the_base_asset_may_stand_in_an_id(symbol, name):
    assert asset_name(symbol) == name
