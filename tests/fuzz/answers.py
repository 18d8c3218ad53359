"""What no answer of a replica may be, whatever the request was."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

NOT_IMPLEMENTED, UNAVAILABLE = 501, 503


def find_fault(status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    """Say what is wrong with an answer; None where nothing is.

    A 503 with ``retry-after`` explains itself, and 501 answers shared memory. Any other 5xx, JSON
    that is none, and a forecast that is no finite number are faults.

    Args:
        headers: By name in lower case.
    """
    if status == UNAVAILABLE and "retry-after" not in headers:
        return "503 without retry-after"
    if status >= 500 and status not in (NOT_IMPLEMENTED, UNAVAILABLE):
        return f"{status}: {body[:200]!r}"
    if not headers.get("content-type", "").startswith("application/json") or not body.strip():
        return None
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"a body that is no JSON ({error}): {body[:200]!r}"
    wrong = [value for value in forecasts_of(document) if not _is_finite(value)]
    return f"a forecast that is no number: {wrong[0]!r}" if wrong and status == 200 else None


def forecasts_of(document: Any) -> list[Any]:
    """The forecasts in an answer of either protocol."""
    if not isinstance(document, dict):
        return []
    scored = [record.get("forecast") for record in document.get("predictions", [])]
    return scored + [
        value
        for output in document.get("outputs", [])
        if "data" in output
        for value in output["data"]
    ]


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
