"""The Open Inference Protocol, version 2, over REST: bytes to windows, forecasts to bytes.

One input, ``bars``: rows of open, high, low, close, volume, or the time of the bar and these;
optionally a second, ``open_time``, in epoch nanoseconds. One output, ``forecast``. A client may
send a tensor as JSON, flat or nested, or as bytes behind the JSON; it is answered in JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from mlops.code_version import DISTRIBUTION, release
from mlops.data.bars import COLUMNS
from mlops.errors import RequestRefused
from mlops.features.bar_arrays import FloatArray
from mlops.models.windows import Window
from mlops.serving.protocol.mlflow_scoring import decode_json, finite_values
from mlops.serving.protocol.payloads import BARS
from mlops.serving.protocol.request_bars import (
    BAD,
    OPEN_TIME,
    InputSpec,
    not_a_number,
    refuse_window_count,
    refused,
    shown,
    tensor_windows,
)
from mlops.serving.protocol.request_times import INVALID

FORECAST = "forecast"
_BAR_TYPES = {"FP64": "<f8", "FP32": "<f4"}
_TIME_TYPES = {"INT64": "<i8"}
_BINARY, _SHARED = "binary_data_size", "shared_memory_region"

Tensor: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request: its windows, and what the reply has to repeat or leave out."""

    id: str | None
    windows: list[Window]
    outputs: tuple[str, ...]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | UnsetType = UNSET
    parameters: dict[str, Any] | None = None

    def parameter(self, name: str) -> object:
        return (self.parameters or {}).get(name)


class _Output(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_FLOATS, _INTS = msgspec.json.Decoder(list[float]), msgspec.json.Decoder(list[int])


def parse_infer(
    body: bytes, spec: InputSpec, model_name: str, *, header_length: str | None = None
) -> InferRequest:
    """A request to infer.

    ``header_length`` is the Inference-Header-Content-Length header: how many bytes of the body
    are JSON, where tensors follow as bytes.

    Raises:
        RequestRefused: saying what is wrong, where, and what is allowed.
    """
    head, tail = _parts(body, header_length)
    request = _decoded(head)
    outputs = tuple(one.name for one in request.outputs or ())
    for name in outputs:
        if name != FORECAST:
            raise refused(f"model {model_name} has no output {shown(name)}; it has {FORECAST}")
    named = _by_name(request.inputs, model_name)
    _refuse_shape(named, spec)
    tails = _tails(request.inputs, tail)
    bars = _read(named[BARS], _BAR_TYPES, tails).astype(np.float64, copy=False)
    times = _read(named[OPEN_TIME], _TIME_TYPES, tails) if OPEN_TIME in named else None
    return InferRequest(request.id, tensor_windows(bars, spec, times), outputs or (FORECAST,))


def render_infer(
    asked: InferRequest,
    forecasts: Sequence[FloatArray],
    *,
    model_name: str,
    model_version: str,
    parameters: Mapping[str, object],
) -> bytes:
    """The reply, with the outputs that were asked for.

    Raises:
        RequestRefused: when a window has no forecast.
    """
    values = finite_values(forecasts)
    output = {"name": FORECAST, "shape": [len(values)], "datatype": "FP64", "data": values}
    reply: dict[str, object] = {"model_name": model_name, "model_version": model_version}
    if asked.id is not None:
        reply["id"] = asked.id
    reply["parameters"] = parameters
    reply["outputs"] = [output for name in dict.fromkeys(asked.outputs) if name == FORECAST]
    return msgspec.json.encode(reply)


def server_metadata() -> bytes:
    """What GET /v2 answers."""
    return msgspec.json.encode({"name": DISTRIBUTION, "version": release(), "extensions": []})


def model_metadata(name: str, versions: Sequence[str], spec: InputSpec) -> bytes:
    """What GET /v2/models/{name} answers; -1 in a shape is any length."""
    inputs: list[dict[str, object]] = [
        {"name": BARS, "datatype": "FP64", "shape": [-1, -1, len(COLUMNS)]}
    ]
    if spec.needs_clock:
        inputs.append({"name": OPEN_TIME, "datatype": "INT64", "shape": [-1, -1]})
    return msgspec.json.encode(
        {
            "name": name,
            "versions": list(versions),
            "platform": DISTRIBUTION,
            "inputs": inputs,
            "outputs": [{"name": FORECAST, "datatype": "FP64", "shape": [-1]}],
            "parameters": {
                "columns": list(COLUMNS),
                "min_bars": spec.min_bars,
                "max_bars": spec.max_bars,
                "max_windows": spec.max_windows,
            },
        }
    )


def error_body(message: str) -> bytes:
    """What goes back instead of outputs."""
    return json.dumps({"error": message}).encode()


# The request -------------------------------------------------------------------------------------


def _parts(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise refused("Inference-Header-Content-Length is no number of bytes", BAD)
    length = int(header_length)
    if length > len(body):
        raise refused(
            f"Inference-Header-Content-Length is {length:,}, but the body has {len(body):,} bytes",
            BAD,
        )
    return body[:length], body[length:]


def _decoded(head: bytes) -> _Request:
    try:
        return _REQUEST.decode(head)
    except msgspec.ValidationError as error:
        raise refused(f"the request is not as the protocol has it: {error}", BAD) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    try:
        # NaN and Infinity, which JSON has not, become null, whose cell is then named.
        again = msgspec.json.encode(json.loads(head.decode("utf-8")))
        return _REQUEST.decode(again)
    except (ValueError, RecursionError, OverflowError) as error:
        told = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise refused(f"the body is no JSON: {told}", BAD) from None


def _by_name(inputs: Sequence[_Input], model_name: str) -> dict[str, _Input]:
    known = f"model {model_name} takes {BARS} and, if need be, {OPEN_TIME}"
    named: dict[str, _Input] = {}
    for one in inputs:
        if one.name not in (BARS, OPEN_TIME):
            raise refused(f"there is no input {shown(one.name)}; {known}")
        if one.name in named:
            raise refused(f"input {one.name} occurs twice; {known}")
        named[one.name] = one
    if BARS not in named:
        raise refused(f"input {BARS} is missing; {known}")
    return named


def _refuse_shape(named: Mapping[str, _Input], spec: InputSpec) -> None:
    """Shapes are judged before a number is read."""
    bars = named[BARS]
    width = len(COLUMNS)
    if len(bars.shape) not in (2, 3) or bars.shape[-1] not in (width, width + 1):
        raise refused(
            f"input {BARS} has shape {bars.shape[:8]}; send [windows, bars, {width}], or "
            f"[bars, {width}] for one symbol, or {width + 1} columns with the time first"
        )
    if min(bars.shape) < 0:
        raise refused(f"input {BARS} has shape {bars.shape}; a length is 0 or more")
    if len(bars.shape) == 3:
        refuse_window_count(bars.shape[0], spec)
    if bars.shape[-2] > spec.max_bars:
        raise RequestRefused(
            413,
            INVALID,
            f"input {BARS} has {bars.shape[-2]:,} bars, at most {spec.max_bars:,}; send the "
            "newest ones",
        )
    times = named.get(OPEN_TIME)
    if times is None:
        return
    if bars.shape[-1] != width:
        raise refused(f"the times come twice: as the first column of {BARS} and as {OPEN_TIME}")
    if times.shape != bars.shape[:-1]:
        raise refused(
            f"input {OPEN_TIME} has shape {times.shape[:8]} beside {BARS} of {bars.shape}; send "
            f"{bars.shape[:-1]}"
        )


def _tails(inputs: Sequence[_Input], tail: bytes) -> dict[str, bytes]:
    """The bytes of each input that comes as bytes, which follow one another as the inputs do."""
    found: dict[str, bytes] = {}
    start = 0
    for one in inputs:
        size = one.parameter(_BINARY)
        if size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise refused(f"{_BINARY} of input {one.name} is no number of bytes", BAD)
        if start + size > len(tail):
            raise refused(
                f"{_BINARY} of input {one.name} is {size:,}, but {len(tail) - start:,} bytes "
                "follow the JSON; send Inference-Header-Content-Length and all bytes",
                BAD,
            )
        found[one.name] = tail[start : start + size]
        start += size
    if start != len(tail):
        raise refused(f"{len(tail) - start:,} bytes follow that belong to no input", BAD)
    return found


# Tensors -----------------------------------------------------------------------------------------


def _read(given: _Input, types: Mapping[str, str], tails: Mapping[str, bytes]) -> Tensor:
    """The tensor in its shape; every number finite or an int64, none cast."""
    dtype = types.get(given.datatype)
    if dtype is None:
        raise refused(
            f"input {given.name} has datatype {shown(given.datatype)}; send {' or '.join(types)}"
        )
    if given.parameter(_SHARED) is not None:
        raise RequestRefused(
            501, "NOT_IMPLEMENTED", f"input {given.name} lies in shared memory; send its data"
        )
    if given.name in tails:
        return _from_bytes(given, np.dtype(dtype), tails[given.name])
    if given.data is UNSET:
        raise refused(f"input {given.name} has no data", BAD)
    numbers = _numbers(given, whole=dtype == "<i8")
    _refuse_size(given, len(numbers))
    try:
        tensor = np.array(numbers, np.int64 if dtype == "<i8" else np.float64)
    except OverflowError:
        at = next(i for i, number in enumerate(numbers) if not -(2**63) <= number < 2**63)
        raise refused(f"input {given.name}{_place(given, at)}: more than an INT64 holds") from None
    return tensor.reshape(given.shape)


def _from_bytes(given: _Input, dtype: np.dtype[Any], raw: bytes) -> Tensor:
    if given.data is not UNSET:
        raise refused(f"input {given.name} has both data and {_BINARY}; send one", BAD)
    if len(raw) % dtype.itemsize:
        raise refused(f"input {given.name}: {len(raw)} bytes are no whole {given.datatype}", BAD)
    numbers = np.frombuffer(raw, dtype)
    _refuse_size(given, len(numbers))
    # A copy: the bars outlive the request's bytes.
    native: Tensor = numbers.astype(np.int64 if dtype.kind == "i" else np.float64)
    return native.reshape(given.shape)


def _refuse_size(given: _Input, got: int) -> None:
    if got != math.prod(given.shape):
        raise refused(
            f"input {given.name} has {got:,} numbers, but its shape {given.shape} has "
            f"{math.prod(given.shape):,}"
        )


def _numbers(given: _Input, *, whole: bool) -> list[Any]:
    """The data as one flat list of numbers, whichever of the two legal ways it was sent."""
    assert isinstance(given.data, msgspec.Raw)
    try:
        numbers: list[Any] = (_INTS if whole else _FLOATS).decode(given.data)
        return numbers
    except (msgspec.DecodeError, RecursionError):
        pass
    cells = _flat(given, decode_json(bytes(given.data)))
    for at, cell in enumerate(cells):
        what = not_a_number(cell)
        if what is None and whole and not isinstance(cell, int):
            what = f"{cell} where a whole number belongs; nothing is rounded"
        if what is not None:
            raise refused(f"input {given.name}{_place(given, at)}: {what}")
    return cells


def _flat(given: _Input, data: object) -> list[Any]:
    """Nested data unrolled, if its lists are as long as the shape says."""
    if not isinstance(data, list):
        raise refused(f"input {given.name}: its data is no list", BAD)
    level, cells = [data], data
    if not any(isinstance(cell, list) for cell in cells):
        return cells
    for length in given.shape:
        if any(not isinstance(one, list) or len(one) != length for one in level):
            raise refused(
                f"input {given.name}: its data is not nested as its shape {given.shape} says"
            )
        cells = [cell for one in level for cell in one]
        level = cells
    return cells


def _place(given: _Input, at: int) -> str:
    """Where the ``at``-th number stands, in the words of the other refusals."""
    if at >= math.prod(given.shape):
        return f", number {at}"
    index = [int(part) for part in np.unravel_index(at, given.shape)]
    column = ""
    if given.name == BARS:
        names = COLUMNS if given.shape[-1] == len(COLUMNS) else (OPEN_TIME, *COLUMNS)
        column = f", column {names[index.pop()]!r}"
    window = f", window {index[0]}" if len(index) == 2 else ""
    return f"{window}, row {index[-1]}{column}"
