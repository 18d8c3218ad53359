"""MLflow's scoring protocol: bytes to windows, forecasts to bytes.

What is right is read and answered as MLflow's own server does. What is wrong is told better: a
cell that is no number is refused by name and never forecast from, and a message repeats neither
the input nor a traceback.
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

from mlops.data.bars import COLUMNS
from mlops.errors import ModelError, RequestRefused
from mlops.features.bar_arrays import FloatArray
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
    """What the short way knows; a body with anything more takes the thorough way."""

    dataframe_split: _Split[_Rows] | UnsetType = UNSET
    instances: _Rows | UnsetType = UNSET
    dataframe_records: msgspec.Raw | UnsetType = UNSET
    inputs: msgspec.Raw | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET


# Plain bars, one window or several, are read in one go; other tensors in two, for their shape
# is looked at.
_BARS_BODY = msgspec.json.Decoder(_Body[list[_Five]])
_BATCH_BODY = msgspec.json.Decoder(_Body[list[list[_Five]]])
_RAW_BODY = msgspec.json.Decoder(_Body[msgspec.Raw])
_BATCH, _HEAD = b"[[[", 64
_FIVE, _SIX = msgspec.json.Decoder(list[_Five]), msgspec.json.Decoder(list[_Six])
_FIVES, _SIXES = msgspec.json.Decoder(list[list[_Five]]), msgspec.json.Decoder(list[list[_Six]])
_NOT_SHORT = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def parse(body: bytes, content_type: str | None, spec: InputSpec) -> list[Window]:
    """The windows of a request; one without a content type is JSON.

    Raises:
        RequestRefused: saying what is wrong, where, and what is allowed.
    """
    media = _media_type(content_type)
    if media == JSON:
        short = _short(body, spec)
        return payloads.json_windows(decode_json(body), spec) if short is None else short
    if media == CSV:
        return payloads.csv_windows(_text(body), spec)
    return payloads.parquet_windows(body, spec)


def render(forecasts: Sequence[FloatArray]) -> bytes:
    """The reply: a record for each bar that has a forecast, of all windows in order.

    Raises:
        RequestRefused: when a window has none.
    """
    records = [{"forecast": value} for value in finite_values(forecasts)]
    return msgspec.json.encode({"predictions": records})


def finite_values(forecasts: Sequence[FloatArray]) -> list[float]:
    """The forecasts that were made, NaN left out.

    Raises:
        RequestRefused: when a window has none.
        ModelError: when one is infinite.
    """
    kept: list[float] = []
    for number, one in enumerate(forecasts):
        # For the few values of a request lists beat arrays.
        values = [value for value in one.tolist() if not math.isnan(value)]
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
    """What goes back instead of forecasts: JSON, but a sentence where the type was not known."""
    if status == 415:
        return message.encode("ascii", "backslashreplace")
    # A message may repeat half a character of the client's, which is no UTF-8.
    return json.dumps({"error_code": code, "message": message, "request_id": request_id}).encode()


def decode_json(body: bytes) -> Any:
    """A JSON body; NaN and Infinity, which JSON has not, are read so that their cell is named.

    Raises:
        RequestRefused: when it is no JSON.
    """
    text = _text(body)
    try:
        return msgspec.json.decode(text)
    except _NOT_SHORT:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refused(f"the body is no JSON: {error}", BAD) from None
    except (RecursionError, ValueError):
        raise refused("the body is no JSON that can be read: too deep or too long", BAD) from None


def bar_tensor(raw: bytes | msgspec.Raw) -> FloatArray:
    """JSON rows, or rows of rows, of 5 or 6 plain numbers as an array (n, 5 or 6) or (n, T, ...).

    Raises:
        msgspec.DecodeError: when it is anything else, or ragged.
    """
    raw = bytes(raw)
    if _is_batch(raw):
        return _batch_tensor(raw)
    try:
        return _packed(_FIVE.decode(raw))
    except msgspec.ValidationError:
        return _packed(_SIX.decode(raw), 6)


def _media_type(content_type: str | None) -> str:
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


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise refused(f"the body is not UTF-8 (byte {error.start})", BAD) from None


# The short way: plain numbers in one of two forms ------------------------------------------------


def _short(body: bytes, spec: InputSpec) -> list[Window] | None:
    """The windows of a request of plain numbers; None for every other, right or wrong."""
    try:
        try:
            if _BATCH in body[:_HEAD]:
                tensor = _tensor(_BATCH_BODY.decode(body), _packed_batch)
            else:
                tensor = _tensor(_BARS_BODY.decode(body), _packed)
        except msgspec.ValidationError:
            tensor = _tensor(_RAW_BODY.decode(body), bar_tensor)
    except _NOT_SHORT:
        return None
    return None if tensor is None else tensor_windows(tensor, spec)


def _tensor(given: _Body[_Rows], read: Callable[[_Rows], FloatArray]) -> FloatArray | None:
    if not given.dataframe_records is given.inputs is given.params is UNSET:
        return None
    split, instances = given.dataframe_split, given.instances
    if isinstance(split, UnsetType):
        return None if isinstance(instances, UnsetType) else read(instances)
    order = _order(tuple(split.columns))
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
def _order(columns: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where a frame has the bars' columns, if it has these and no others."""
    for wanted in (COLUMNS, _TIMED):
        if sorted(columns) == sorted(wanted):
            return tuple(columns.index(name) for name in wanted)
    return None


def _is_batch(raw: bytes) -> bool:
    return raw[:64].translate(None, b" \t\r\n").startswith(b"[[[")


def _batch_tensor(raw: bytes) -> FloatArray:
    windows: list[list[Any]]
    try:
        windows, width = _FIVES.decode(raw), 5
    except msgspec.ValidationError:
        windows, width = _SIXES.decode(raw), 6
    return _packed_batch(windows, width)


def _packed_batch(windows: Sequence[Sequence[tuple[float, ...]]], width: int = 5) -> FloatArray:
    lengths = set(map(len, windows))
    if len(lengths) != 1 or 0 in lengths:
        raise msgspec.ValidationError("the windows are empty, or differ in length")
    bars = lengths.pop()
    return _packed(list(chain.from_iterable(windows)), width).reshape(len(windows), bars, width)


def _packed(rows: Sequence[tuple[float, ...]], width: int = 5) -> FloatArray:
    """Rows, known to be even, as one array; in a third of the time numpy takes to look at each."""
    flat: list[float] = []
    for row in rows:
        flat += row
    return np.frombuffer(struct.pack(f"{len(flat)}d", *flat)).reshape(-1, width)
