"""MLflow's scoring protocol: bytes to windows, forecasts to bytes.

A right request is read and answered as MLflow's own server does. A wrong one gets a better message:
a cell that is no number is refused by name, and the message repeats neither the body nor a
traceback. Bodies of plain numbers are decoded here, straight to arrays; `payloads` reads the rest.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from mlops.arrays import FloatArray
from mlops.data.bars import COLUMNS
from mlops.errors import ModelError, RequestRefused
from mlops.models.windows import Window
from mlops.serving.protocol import payloads
from mlops.serving.protocol.request_bars import (
    BAD,
    OPEN_TIME,
    InputSpec,
    refused,
    tensor_windows,
)

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
CONTENT_TYPES = (JSON, CSV, PARQUET)
_TIMED = (OPEN_TIME, *COLUMNS)
# Seconds since 1970 of any bar have ten digits; row numbers of a request have fewer.
_NO_TIME_BELOW = 10**9

_Five: TypeAlias = tuple[float, float, float, float, float]
_Six: TypeAlias = tuple[float, float, float, float, float, float]
_Rows = TypeVar("_Rows")


class _Split(msgspec.Struct, Generic[_Rows], forbid_unknown_fields=True):
    data: _Rows
    columns: list[str]
    index: list[int] | None = None


class _Body(msgspec.Struct, Generic[_Rows]):
    """A body of plain numbers; one that does not fit is left to `payloads`."""

    dataframe_split: _Split[_Rows] | UnsetType = UNSET
    instances: _Rows | UnsetType = UNSET
    dataframe_records: msgspec.Raw | UnsetType = UNSET
    inputs: msgspec.Raw | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET


# Five columns, one window or several, are decoded at once; other tensors twice, because their
# shape has to be found first.
_BARS_BODY = msgspec.json.Decoder(_Body[list[_Five]])
_BATCH_BODY = msgspec.json.Decoder(_Body[list[list[_Five]]])
_RAW_BODY = msgspec.json.Decoder(_Body[msgspec.Raw])
_BATCH, _HEAD = b"[[[", 64
_FIVE, _SIX = msgspec.json.Decoder(list[_Five]), msgspec.json.Decoder(list[_Six])
_FIVES, _SIXES = msgspec.json.Decoder(list[list[_Five]]), msgspec.json.Decoder(list[list[_Six]])
_NOT_PLAIN = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def parse(body: bytes, content_type: str | None, spec: InputSpec) -> list[Window]:
    """Read the windows of a request.

    Args:
        content_type: None stands for JSON.

    Raises:
        RequestRefused: when the request is wrong; the message says what, where and what is allowed.
    """
    media = _parse_media_type(content_type)
    if media == JSON:
        plain = _parse_plain(body, spec)
        return payloads.json_windows(decode_json(body), spec) if plain is None else plain
    if media == CSV:
        return payloads.csv_windows(_decode_text(body), spec)
    return payloads.parquet_windows(body, spec)


def render(forecasts: Sequence[FloatArray]) -> bytes:
    """Write the reply: a record for each bar that has a forecast, of all windows in order.

    Raises:
        RequestRefused: when a window has no forecast.
        ModelError: when a forecast is infinite.
    """
    records = [{"forecast": value} for value in finite_values(forecasts)]
    return msgspec.json.encode({"predictions": records})


def finite_values(forecasts: Sequence[FloatArray]) -> list[float]:
    """The forecasts of all windows in order; NaN, which stands for none, is left out.

    Raises:
        RequestRefused: when a window has no forecast.
        ModelError: when a forecast is infinite.
    """
    kept: list[float] = []
    for number, window in enumerate(forecasts):
        # Lists are faster than arrays for so few values.
        values = [value for value in window.tolist() if not math.isnan(value)]
        if not values:
            raise refused(
                f"window {number}: no bar has enough history without a hole for a forecast; "
                "send more bars since the last hole"
            )
        if math.inf in values or -math.inf in values:
            raise ModelError(f"a forecast of window {number} is infinite")
        kept += values
    return kept


def error_body(status: int, code: str, message: str, request_id: str) -> bytes:
    """Write the body of an error: JSON, but plain text for an unknown content type (415)."""
    if status == 415:
        return message.encode("ascii", "backslashreplace")
    # json escapes half a surrogate pair, which a message may repeat; UTF-8 has no bytes for it.
    return json.dumps({"error_code": code, "message": message, "request_id": request_id}).encode()


def decode_json(body: bytes) -> Any:
    """Decode a JSON body, with NaN and Infinity, so that their cell can be named.

    Raises:
        RequestRefused: when the body is no JSON.
    """
    text = _decode_text(body)
    try:
        return msgspec.json.decode(text)
    except _NOT_PLAIN:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refused(f"the body is no JSON: {error}", BAD) from None
    except (RecursionError, ValueError):
        raise refused("the body is no JSON that can be read: too deep or too long", BAD) from None


def bar_tensor(raw: bytes | msgspec.Raw) -> FloatArray:
    """Decode JSON rows of 5 or 6 numbers to (n, 5 or 6), or windows of them to (n, T, 5 or 6).

    Raises:
        msgspec.DecodeError: when the JSON holds anything else, or windows of different lengths.
    """
    raw = bytes(raw)
    if raw[:_HEAD].translate(None, b" \t\r\n").startswith(_BATCH):
        windows: list[list[Any]]
        try:
            windows, width = _FIVES.decode(raw), 5
        except msgspec.ValidationError:
            windows, width = _SIXES.decode(raw), 6
        return _pack_batch(windows, width)
    try:
        return _pack_rows(_FIVE.decode(raw))
    except msgspec.ValidationError:
        return _pack_rows(_SIX.decode(raw), 6)


def _parse_media_type(content_type: str | None) -> str:
    if content_type is None or content_type == JSON:
        return JSON
    media, *parameters = (part.strip() for part in content_type.split(";"))
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset":
            raise _unsupported(f"content type parameter {ascii(name)[:40]} is not known")
        if value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise _unsupported(f"charset {ascii(value)[:40]} is not known")
    if media.lower() not in CONTENT_TYPES:
        raise _unsupported(f"content type {ascii(media)[:80]} is not known")
    return media.lower()


def _unsupported(what: str) -> RequestRefused:
    allowed = ", ".join(CONTENT_TYPES)
    return RequestRefused(
        415, "BAD_REQUEST", f"{what}; send one of {allowed}, with no parameter but charset=utf-8"
    )


def _decode_text(body: bytes) -> str:
    try:
        return body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise refused(f"the body is not UTF-8 (byte {error.start})", BAD) from None


# Plain numbers in one of two forms ---------------------------------------------------------------


def _parse_plain(body: bytes, spec: InputSpec) -> list[Window] | None:
    """The windows of a request of plain numbers; None for every other request, right or wrong."""
    try:
        try:
            if _BATCH in body[:_HEAD]:
                tensor = _plain_tensor(_BATCH_BODY.decode(body), _pack_batch)
            else:
                tensor = _plain_tensor(_BARS_BODY.decode(body), _pack_rows)
        except msgspec.ValidationError:
            tensor = _plain_tensor(_RAW_BODY.decode(body), bar_tensor)
    except _NOT_PLAIN:
        return None
    return None if tensor is None else tensor_windows(tensor, spec)


def _plain_tensor(given: _Body[_Rows], read: Callable[[_Rows], FloatArray]) -> FloatArray | None:
    if not given.dataframe_records is given.inputs is given.params is UNSET:
        return None
    split, instances = given.dataframe_split, given.instances
    if isinstance(split, UnsetType):
        return None if isinstance(instances, UnsetType) else read(instances)
    order = _column_order(tuple(split.columns))
    timed = split.index and split.index[0] >= _NO_TIME_BELOW
    if instances is not UNSET or order is None or timed:
        return None
    tensor = read(split.data)
    if tensor.ndim != 2 or tensor.shape[1] != len(order):
        return None
    if split.index is not None and len(split.index) != len(tensor):
        return None
    return tensor if order == tuple(range(len(order))) else tensor[:, order]


@lru_cache(maxsize=256)
def _column_order(columns: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where a frame has the columns of a bar; None unless it has these and no others."""
    for wanted in (COLUMNS, _TIMED):
        if sorted(columns) == sorted(wanted):
            return tuple(columns.index(name) for name in wanted)
    return None


def _pack_batch(windows: Sequence[Sequence[tuple[float, ...]]], width: int = 5) -> FloatArray:
    lengths = set(map(len, windows))
    if len(lengths) != 1 or 0 in lengths:
        raise msgspec.ValidationError("the windows are empty, or differ in length")
    bars = lengths.pop()
    return _pack_rows(list(chain.from_iterable(windows)), width).reshape(len(windows), bars, width)


def _pack_rows(rows: Sequence[tuple[float, ...]], width: int = 5) -> FloatArray:
    """Rows of equal length as an array; struct takes a third of the time of `np.array`."""
    flat: list[float] = []
    for row in rows:
        flat += row
    return np.frombuffer(struct.pack(f"{len(flat)}d", *flat)).reshape(-1, width)
