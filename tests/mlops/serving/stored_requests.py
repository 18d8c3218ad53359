"""Requests of every protocol and form, right and wrong, whose replies `replies.txt` has stored.

Bars are plain numbers that every machine computes to the same bit. A request is named by a
sentence; within a group, names differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlops.data.bars import COLUMNS

BARS = 30
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
FIRST = pd.Timestamp("2024-03-05T00:00", tz="UTC")
SERVICE_PATH = "/services/{service}"
INVOKE, INFER = f"{SERVICE_PATH}/invocations", "/v2/models/{service}/infer"


@dataclass(frozen=True)
class StoredRequest:
    """One request; names such as ``{champion}`` in its path and headers are filled in.

    Args:
        content_type: None sends no such header.
        chunks: Sizes in which the body arrives; empty for the whole body at once.
        spec: Changes to the `InputSpec` of the service, such as ``needs_clock``.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    chunks: tuple[int, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)


Requests = dict[str, StoredRequest]


def rows_of(bars: int = BARS, first: int = 0) -> list[list[float]]:
    """Bars (bars, 5) as open, high, low, close, volume."""
    return [
        [100.0 + at, 102.5 + at, 99.25 + at, 101.0 + at, 10.0 + at % 7]
        for at in range(first, first + bars)
    ]


def frame_of(bars: int = BARS) -> pd.DataFrame:
    """The same, indexed by open time."""
    index = pd.date_range(FIRST, periods=bars, freq="1h", name="open_time")
    return pd.DataFrame(rows_of(bars), index, list(COLUMNS))


def hours(*hours: float) -> list[str]:
    """Times so many hours after the first bar."""
    return [(FIRST + pd.Timedelta(hours=hour)).isoformat() for hour in hours]


def invoke(body: object, content_type: str | None = JSON, **more: Any) -> StoredRequest:
    """A request to score, with a body of bytes or a document that becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return StoredRequest("POST", INVOKE, raw, content_type, **more)


def split_of(frame: pd.DataFrame, **more: object) -> dict[str, object]:
    split = {"columns": list(frame.columns), "data": frame.to_numpy().tolist()}
    return {"dataframe_split": {**split, **more}}


def timed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with ISO times as a column."""
    return frame.reset_index().assign(open_time=[stamp.isoformat() for stamp in frame.index])


ROWS, FRAME = rows_of(), frame_of()
BATCH = [rows_of(BARS, first) for first in range(3)]
ISO = hours(*range(BARS))
CLOCK = {"needs_clock": True}


def with_cell(row: int, column: str, cell: object) -> list[list[Any]]:
    """The rows with one cell replaced."""
    rows: list[list[Any]] = rows_of()
    rows[row][COLUMNS.index(column)] = cell
    return rows


def tensor(data: object, datatype: str = "FP64", *, name: str = "bars", **more: Any) -> Any:
    """An input of JSON, flat unless a ``shape`` is given."""
    array = np.asarray(data) if "shape" not in more else None
    flat = data if array is None else array.ravel().tolist()
    shape = more.pop("shape", None if array is None else list(array.shape))
    return {"name": name, "shape": shape, "datatype": datatype, "data": flat, **more}


def infer(*inputs: Any, **more: Any) -> StoredRequest:
    return StoredRequest("POST", INFER, json.dumps({"inputs": list(inputs), **more}).encode(), JSON)
