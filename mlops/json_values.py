"""Writes NaN and infinities, which JSON lacks, as null with a flag, and reads them back."""

from __future__ import annotations

import math
from typing import Any

FLAG = "_flag"


def to_json(value: Any) -> Any:
    """Nested dicts and sequences as JSON values; a number that JSON lacks becomes null with a flag.

    >>> to_json({"loss": float("inf")})
    {'loss': None, 'loss_flag': 'inf'}
    """
    if isinstance(value, dict):
        plain = {key: to_json(item) for key, item in value.items()}
        return plain | {
            f"{key}{FLAG}": repr(float(item)) for key, item in value.items() if _is_not_finite(item)
        }
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if _is_not_finite(value) else value


def from_json(value: Any) -> Any:
    """Read `to_json` back; sequences come back as lists."""
    if isinstance(value, dict):
        flagged = {key for key in value if f"{key}{FLAG}" in value}
        return {
            key: number(value[f"{key}{FLAG}"]) if key in flagged else from_json(item)
            for key, item in value.items()
            if key.removesuffix(FLAG) not in flagged or key in flagged
        }
    return [from_json(item) for item in value] if isinstance(value, list) else value


def drop_flags(value: Any) -> Any:
    """`to_json` without its flags, for readers to whom null says that there is no number.

    >>> drop_flags({"loss": None, "loss_flag": "inf"})
    {'loss': None}
    """
    if isinstance(value, dict):
        flags = {f"{key}{FLAG}" for key, item in value.items() if item is None}
        return {key: drop_flags(item) for key, item in value.items() if key not in flags}
    return [drop_flags(item) for item in value] if isinstance(value, list) else value


def number(value: float | str) -> float:
    """A float; every NaN becomes the object `math.nan`, so that equal records compare as equal."""
    read = float(value)
    return math.nan if math.isnan(read) else read


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
