"""The lines of a spool file: a forecast, or why an arm of a route has none, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeAlias

from mlops.store import ForecastRow
from mlops.store.ab_tests import ForecastGap, GapReason
from mlops.store.forecasts import Role

SpoolRow: TypeAlias = "ForecastRow | ForecastGap"

_FORECAST_TEXTS = ("service", "model_id", "replica_id", "bars_digest")
_GAP_TEXTS = ("service", "model_id", "replica_id")


def encode_row(row: SpoolRow) -> bytes:
    """A row as one line."""
    fields = asdict(row)
    times = {name: value.isoformat() for name, value in fields.items() if _is_time(value)}
    return f"{json.dumps(fields | times)}\n".encode()


def decode_row(line: bytes) -> SpoolRow:
    """The row of a line that `encode_row` made.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: for any other line.
    """
    fields: dict[str, Any] = json.loads(line)
    # Only a gap has a reason; a forecast has a role.
    return _decode_gap(fields) if "reason" in fields else _decode_forecast(fields)


def _decode_forecast(fields: dict[str, Any]) -> ForecastRow:
    _check_texts(fields, _FORECAST_TEXTS)
    times = {name: datetime.fromisoformat(fields[name]) for name in ("bar", "made_at")}
    numbers = {name: fields[name] and float(fields[name]) for name in ("value", "low", "high")}
    generation = {"generation": int(fields["generation"])}
    return ForecastRow(**fields | times | numbers | generation | {"role": Role(fields["role"])})


def _decode_gap(fields: dict[str, Any]) -> ForecastGap:
    _check_texts(fields, _GAP_TEXTS)
    times = {name: datetime.fromisoformat(fields[name]) for name in ("bar", "at")}
    return ForecastGap(**fields | times | {"reason": GapReason(fields["reason"])})


def _check_texts(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    wrong = [name for name in names if not isinstance(fields[name], str)]
    if wrong:
        raise TypeError(f"{', '.join(wrong)} must be text")


def _is_time(value: object) -> bool:
    return isinstance(value, datetime)
