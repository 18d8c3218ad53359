"""Finds a market by the one spelling of its symbol: ccxt writes some names with small letters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mlops.errors import ServiceError, SourceError
from mlops.symbols import spell_symbol


def find_market(venue: str, names: Iterable[str], symbol: str) -> str:
    """The venue's own name of a market, such as ``kPEPE/USDC`` for ``KPEPE/USDC``.

    Args:
        names: The names of all markets of the venue.

    Raises:
        SourceError: when no market has the symbol, or two have it in different letters.
    """
    listed = list(names)
    wanted = spell_symbol(symbol)
    found = [name for name in listed if name.upper() == wanted or _spells(name, wanted)]
    if len(found) > 1:
        raise SourceError(
            f"{venue} has {len(found)} markets that are written {wanted} but for small letters: "
            f"{', '.join(found)}; they cannot be told apart, so none of them can be read from it"
        )
    if not found:
        near = difflib.get_close_matches(wanted, listed)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SourceError(f"{venue} has no symbol {wanted!r}{hint}")
    return found[0]


def _spells(name: str, wanted: str) -> bool:
    """Whether a name outside ASCII is another way to write the symbol."""
    if name.isascii():
        return False
    try:
        return spell_symbol(name) == wanted
    except ServiceError:
        return False
