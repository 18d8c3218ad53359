"""NaN and infinity in JSON: written as null with a flag beside it, and read back."""

from __future__ import annotations

import math
from typing import Any

FLAG = "_flag"


def to_json(value: Any) -> Any:
    """Nested dicts and sequences with ``"x": NaN`` as ``"x": null, "x_flag": "nan"``."""
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


def number(value: float | str) -> float:
    """The float of a number or flag; NaN is always `math.nan`, so that equal tuples are equal."""
    result = float(value)
    return math.nan if math.isnan(result) else result


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
