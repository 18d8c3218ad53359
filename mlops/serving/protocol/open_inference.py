"""The Open Inference Protocol, version 2, over REST: bytes to windows, forecasts to bytes.

One input, ``bars``: rows of open, high, low, close, volume, or the time of the bar and these;
optionally a second, ``open_time``, in epoch nanoseconds. One output, ``forecast``. A tensor comes
as JSON, flat or nested, or as bytes behind the JSON; the reply is always JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from mlops.arrays import FloatArray
from mlops.code_version import DISTRIBUTION, release
from mlops.data.bars import COLUMNS
from mlops.errors import RequestRefused
from mlops.models.windows import Window
from mlops.serving.protocol.mlflow_scoring import BARS, finite_values
from mlops.serving.protocol.request_bars import (
    BAD,
    NAMES,
    OPEN_TIME,
    InputSpec,
    not_a_number,
    pack_numbers,
    refuse_total_bars,
    refuse_window_count,
    refused,
    shown,
    tensor_windows,
)
from mlops.serving.protocol.request_body import refuse_crowded_json
from mlops.serving.protocol.request_times import INVALID

FORECAST = "forecast"
_BAR_TYPES = {"FP64": "<f8", "FP32": "<f4"}
_TIME_TYPES = {"INT64": "<i8"}
_BINARY, _SHARED = "binary_data_size", "shared_memory_region"

Tensor: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request: its windows, the id that the reply repeats, and the outputs that are wanted."""

    id: str | None
    windows: list[Window]
    outputs: tuple[str, ...]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = UNSET
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


def parse_infer(
    body: bytes, spec: InputSpec, model_name: str, *, header_length: str | None = None
) -> InferRequest:
    """Read a request to infer.

    Args:
        model_name: The service, as messages name it.
        header_length: The Inference-Header-Content-Length header: how many bytes of the body are
            JSON, where tensors follow as bytes.

    Raises:
        RequestRefused: when the request is wrong; the message says what, where and what is allowed.
    """
    head, tail = _split_body(body, header_length)
    refuse_crowded_json(head, spec)
    request = _decode_request(head)
    outputs = tuple(output.name for output in request.outputs or ())
    for name in outputs:
        if name != FORECAST:
            raise refused(f"model {model_name} has no output {shown(name)}; it has {FORECAST}")
    named = _index_inputs(request.inputs, model_name)
    _check_shapes(named, spec)
    tails = _split_tail(request.inputs, tail)
    bars = _read_tensor(named[BARS], _BAR_TYPES, tails).astype(np.float64, copy=False)
    times = _read_tensor(named[OPEN_TIME], _TIME_TYPES, tails) if OPEN_TIME in named else None
    return InferRequest(request.id, tensor_windows(bars, spec, times), outputs or (FORECAST,))


def render_infer(
    request: InferRequest,
    forecasts: Sequence[FloatArray],
    *,
    model_name: str,
    model_version: str,
    parameters: Mapping[str, object],
) -> bytes:
    """Write the reply, with the outputs that were asked for.

    Raises:
        RequestRefused: when a window has no forecast.
        ModelError: when a forecast is infinite.
    """
    values = finite_values(forecasts)
    output = {"name": FORECAST, "shape": [len(values)], "datatype": "FP64", "data": values}
    reply: dict[str, object] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        reply["id"] = request.id
    reply["parameters"] = parameters
    reply["outputs"] = [output for name in dict.fromkeys(request.outputs) if name == FORECAST]
    return msgspec.json.encode(reply)


def server_metadata() -> bytes:
    """The answer of ``GET /v2``."""
    return msgspec.json.encode({"name": DISTRIBUTION, "version": release(), "extensions": []})


def model_metadata(name: str, versions: Sequence[str], spec: InputSpec) -> bytes:
    """The answer of ``GET /v2/models/{name}``; -1 in a shape stands for any length."""
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
    """Write the body of an error."""
    return json.dumps({"error": message}).encode()


# The request -------------------------------------------------------------------------------------


def _split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise refused("Inference-Header-Content-Length is no number of bytes", BAD)
    length = int(header_length)
    if length > len(body):
        raise refused(
            f"Inference-Header-Content-Length is {length:,}, but the body has {len(body):,} bytes",
            BAD,
        )
    return body[:length], memoryview(body)[length:]


def _decode_request(head: bytes) -> _Request:
    try:
        return _REQUEST.decode(head)
    except msgspec.ValidationError as error:
        wrong = str(error)
        # Only a number that no float holds is wrong in data; json reads it, and its cell is named.
        if ".data" not in wrong:
            raise refused(f"the request is not as the protocol has it: {wrong}", BAD) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        wrong = ""
    try:
        document = json.loads(head.decode("utf-8"))
        if wrong:
            return msgspec.convert(document, _Request)
        # msgspec writes NaN and Infinity as null, whose cell is then named.
        return _REQUEST.decode(msgspec.json.encode(document))
    except (ValueError, RecursionError, OverflowError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise refused(f"the body is no JSON: {reason}", BAD) from None


def _index_inputs(inputs: Sequence[_Input], model_name: str) -> dict[str, _Input]:
    known = f"model {model_name} takes {BARS} and, if need be, {OPEN_TIME}"
    named: dict[str, _Input] = {}
    for given in inputs:
        if given.name not in (BARS, OPEN_TIME):
            raise refused(f"there is no input {shown(given.name)}; {known}")
        if given.name in named:
            raise refused(f"input {given.name} occurs twice; {known}")
        named[given.name] = given
    if BARS not in named:
        raise refused(f"input {BARS} is missing; {known}")
    return named


def _check_shapes(named: Mapping[str, _Input], spec: InputSpec) -> None:
    """Refuse wrong shapes before a number is read."""
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
    refuse_total_bars(math.prod(bars.shape[:-1]), spec)
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


def _split_tail(inputs: Sequence[_Input], tail: memoryview) -> dict[str, memoryview]:
    """The bytes of each input that is sent as bytes; they stand in the order of the inputs."""
    tails: dict[str, memoryview] = {}
    start = 0
    for given in inputs:
        size = given.parameter(_BINARY)
        if size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise refused(f"{_BINARY} of input {given.name} is no number of bytes", BAD)
        if start + size > len(tail):
            raise refused(
                f"{_BINARY} of input {given.name} is {size:,}, but {len(tail) - start:,} bytes "
                "follow the JSON; send Inference-Header-Content-Length and all bytes",
                BAD,
            )
        tails[given.name] = tail[start : start + size]
        start += size
    if start != len(tail):
        raise refused(f"{len(tail) - start:,} bytes follow that belong to no input", BAD)
    return tails


# Tensors -----------------------------------------------------------------------------------------


def _read_tensor(
    given: _Input, types: Mapping[str, str], tails: Mapping[str, memoryview]
) -> Tensor:
    """Read one input as a tensor of its shape; integers are int64, all else is float64."""
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
        return _decode_binary(given, np.dtype(dtype), tails[given.name])
    if given.data is UNSET:
        raise refused(f"input {given.name} has no data", BAD)
    tensor = _pack_whole(given) if dtype == "<i8" else _pack_floats(given)
    return tensor.reshape(given.shape)


def _decode_binary(given: _Input, dtype: np.dtype[Any], raw: memoryview) -> Tensor:
    if given.data is not UNSET:
        raise refused(f"input {given.name} has both data and {_BINARY}; send one", BAD)
    if len(raw) % dtype.itemsize:
        raise refused(f"input {given.name}: {len(raw)} bytes are no whole {given.datatype}", BAD)
    numbers = np.frombuffer(raw, dtype)
    _check_size(given, len(numbers))
    # A copy, so that a window does not keep the whole body in memory.
    native: Tensor = numbers.astype(np.int64 if dtype.kind == "i" else np.float64)
    return native.reshape(given.shape)


def _check_size(given: _Input, got: int) -> None:
    if got != math.prod(given.shape):
        raise refused(
            f"input {given.name} has {got:,} numbers, but its shape {given.shape} has "
            f"{math.prod(given.shape):,}"
        )


def _pack_floats(given: _Input) -> Tensor:
    cells = _flatten(given)
    numbers = pack_numbers(cells)
    if numbers is None:
        _refuse_cells(given, cells, whole=False)
        raise AssertionError("every cell that is a number is packed")
    _check_size(given, len(cells))
    return numbers


def _pack_whole(given: _Input) -> Tensor:
    cells = _flatten(given)
    if set(map(type, cells)) - {int}:
        _refuse_cells(given, cells, whole=True)
    _check_size(given, len(cells))
    try:
        return np.array(cells, np.int64)
    except OverflowError:
        at = next(i for i, number in enumerate(cells) if not -(2**63) <= number < 2**63)
        raise refused(
            f"input {given.name}{_describe_place(given, at)}: more than an INT64 holds"
        ) from None


def _refuse_cells(given: _Input, cells: list[Any], *, whole: bool) -> None:
    """Refuse the first cell that is no number, or no whole number."""
    for at, cell in enumerate(cells):
        what = not_a_number(cell)
        if what is None and whole and not isinstance(cell, int):
            what = f"{cell} where a whole number belongs; nothing is rounded"
        if what is not None:
            raise refused(f"input {given.name}{_describe_place(given, at)}: {what}")


def _flatten(given: _Input) -> list[Any]:
    """The cells of flat data, or of nested data whose lists have the lengths of the shape."""
    data = given.data
    if not isinstance(data, list):
        raise refused(f"input {given.name}: its data is no list", BAD)
    if list not in set(map(type, data)):
        return data
    level: list[Any] = [data]
    cells = data
    for length in given.shape:
        if any(not isinstance(row, list) or len(row) != length for row in level):
            raise refused(
                f"input {given.name}: its data is not nested as its shape {given.shape} says"
            )
        cells = [cell for row in level for cell in row]
        level = cells
    return cells


def _describe_place(given: _Input, at: int) -> str:
    """Where the ``at``-th number stands: window, row and column."""
    if at >= math.prod(given.shape):
        return f", number {at}"
    index = [int(part) for part in np.unravel_index(at, given.shape)]
    column = ""
    if given.name == BARS:
        names = COLUMNS if given.shape[-1] == len(COLUMNS) else NAMES
        column = f", column {names[index.pop()]!r}"
    window = f", window {index[0]}" if len(index) == 2 else ""
    return f"{window}, row {index[-1]}{column}"
