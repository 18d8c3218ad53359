"""Symbols: their one spelling, and their reversible form in keys, folders and addresses."""

from __future__ import annotations

import re
import unicodedata

from mlops.errors import ServiceError

MAX_SYMBOL = 64
"""Most characters of a symbol, as the store's column has."""

MARKS = ".-_^=&$!#@+*"
"""What a symbol may hold beside letters and digits."""

_RULE = (
    f"write letters, digits and {' '.join(MARKS)}, as in AAPL, BRK.B, ^GSPC or ESZ24; with a quote "
    "asset AAPL/USD or BTC/USDT, with a settlement asset BTC/USDT:USDT or BTC/USDT:USDT-241227"
)
_ESCAPE = re.compile(r"~([0-9A-Fa-f]{1,6})~")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def spell_symbol(given: object) -> str:
    """The one spelling of a symbol: upper case, composed characters.

    A venue that writes ``kPEPE/USDC`` finds its own spelling by this one.

    >>> spell_symbol("btc/usdt"), spell_symbol("kPEPE/USDC:USDC"), spell_symbol("brk.b")
    ('BTC/USDT', 'KPEPE/USDC:USDC', 'BRK.B')

    Raises:
        ServiceError: when it is no symbol, with the rule.
    """
    if not isinstance(given, str):
        raise ServiceError(f"symbol {given!r} is a {type(given).__name__}, not text; {_RULE}")
    if len(given) > MAX_SYMBOL:
        raise ServiceError(
            f"symbol {given[:40]!r}... has {len(given)} characters, at most {MAX_SYMBOL} are "
            "allowed; register it under a shorter name"
        )
    symbol = _upper_case(given)
    wrong = [char for char in symbol if not (char.isalnum() or char in MARKS or char in "/:")]
    if wrong:
        raise ServiceError(f"symbol {given!r} has the character {wrong[0]!r}; {_RULE}")
    if not _has_assets(symbol) or _upper_case(symbol) != symbol or len(symbol) > MAX_SYMBOL:
        raise ServiceError(f"symbol {given!r} is not written like 'BTC/USDT'; {_RULE}")
    return symbol


def encode_symbol(symbol: str) -> str:
    """A spelt symbol as part of a service's key: small letters, digits, ``-`` and ``~``.

    ``/`` and ``:`` become ``-``; any other character its code point between two ``~``.

    >>> encode_symbol("BTC/USDT:USDT"), encode_symbol("BRK.B"), encode_symbol("^GSPC")
    ('btc-usdt-usdt', 'brk~2e~b', '~5e~gspc')
    """
    return "".join(_encode_character(char) for char in symbol)


def decode_symbol(text: str) -> str:
    """Read `encode_symbol` back.

    Raises:
        ServiceError: when the text is not the form of a symbol.
    """
    parts = [_decode_escapes(part) for part in text.split("-")]
    base, rest = parts[0], parts[1:]
    symbol = spell_symbol(base + "".join(map("".join, zip("/:", rest, strict=False))))
    if encode_symbol(symbol) != text.lower():
        raise ServiceError(f"{text!r} is not the form of a symbol in a key, such as btc-usdt")
    return symbol


def folder_name(symbol: str) -> str:
    """A symbol as the name of the folder of its bars."""
    return "%3A".join(encode_symbol(part) for part in spell_symbol(symbol).split(":"))


def asset_name(symbol: str) -> str:
    """The base asset in letters that ids, files and addresses may have; not reversible.

    >>> asset_name("BTC/USDT"), asset_name("BRK.B/USD"), asset_name("^GSPC")
    ('BTC', 'BRK-B', 'GSPC')
    """
    base = spell_symbol(symbol).partition("/")[0]
    words = re.findall("[A-Z0-9]+", base)
    return "-".join(words) or "-".join(f"{ord(char):X}" for char in base if char.isalnum())


def _upper_case(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).upper())


def _has_assets(symbol: str) -> bool:
    """Whether it is base, base/quote or base/quote:settlement, each with a letter or a digit."""
    pair, colon, settlement = symbol.partition(":")
    base, slash, quote = pair.partition("/")
    if colon and not slash:
        return False
    assets = [base] + [quote] * bool(slash) + [settlement] * bool(colon)
    clean = not any(separator in asset for asset in assets for separator in "/:")
    return clean and all(any(char.isalnum() for char in asset) for asset in assets)


def _encode_character(char: str) -> str:
    if char in _PLAIN:
        return char.lower()
    return "-" if char in "/:" else f"~{ord(char):x}~"


def _decode_escapes(text: str) -> str:
    try:
        return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    except (ValueError, OverflowError) as error:
        raise ServiceError(f"{text!r} names a character that does not exist") from error
