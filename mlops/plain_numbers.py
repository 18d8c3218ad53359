"""Numbers of any kind as Python's own: numpy's, decimal ones, and tensors of no dimension."""

from __future__ import annotations

from decimal import Decimal
from numbers import Integral, Real

_DIGITS = 18


def plain_number(value: object) -> int | float | None:
    """A number as int or float; None where it is none, as True, text and a whole array are.

    >>> plain_number(24), plain_number(True), plain_number("24")
    (24, None, None)
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    # numpy counts a span of time among its whole numbers.
    if isinstance(value, bool) or kind not in ("i", "u", "f"):
        return None
    try:
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real | Decimal):
            return float(value)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            return plain_number(value.item())
    except (OverflowError, ValueError, RuntimeError):
        # Too large for a float, a signalling NaN, or a tensor without values.
        return None
    return None


def whole_number(value: object) -> int | None:
    """A whole number as int, also from 24.0 and the text "24"; None where it is none."""
    if isinstance(value, str):
        digits = value.isascii() and value.isdigit() and len(value) <= _DIGITS
        return int(value) if digits else None
    number = plain_number(value)
    if isinstance(number, float):
        return int(number) if number.is_integer() else None
    return number
