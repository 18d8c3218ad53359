"""The header of a safetensors file, read and checked before any library touches the file.

The format: 8 bytes with the length of the header (little endian), the header as JSON, then the
bytes of all tensors without a gap. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.errors import ModelFileError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 * 1024**2
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "U8": 1}
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The checked header: the shape of each tensor, and the texts beside them."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def begins_as_tensor_file(content: bytes) -> bool:
    """Whether the bytes begin with a length and the JSON object of a header."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    return content[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and length <= len(content)


def read_tensor_header(content: bytes) -> TensorHeader:
    """Read and check the header of a whole safetensors file.

    Raises:
        ModelFileError: when the header is no such JSON, a type of number is not read here, or the
            tensors do not fill the file without gap and overlap.
    """
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    room = min(len(content) - LENGTH_BYTES, MAX_HEADER_BYTES)
    if not 2 <= length <= room:
        raise ModelFileError(
            f"the header says that it has {length:,} bytes; from 2 to {room:,} are possible here"
        )
    header = parse_json_object(content[LENGTH_BYTES : LENGTH_BYTES + length], "the header")
    metadata = _read_metadata(header.pop(METADATA, {}))
    if len(header) > MAX_TENSORS:
        raise ModelFileError(f"{len(header):,} tensors; at most {MAX_TENSORS:,} are allowed")
    places = [_read_place(name, entry) for name, entry in header.items()]
    _check_places(places, len(content) - LENGTH_BYTES - length)
    return TensorHeader({place.name: place.shape for place in places}, metadata)


def write_tensor_file(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; equal tensors and texts give equal bytes."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    content = save(arrays, metadata=dict(metadata))
    # The library writes the texts in an order that changes from call to call.
    end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.dumps(
        json.loads(content[LENGTH_BYTES:end]), sort_keys=True, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + content[end:]


def parse_json_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Parse a JSON object that names no key twice and holds finite numbers only.

    Args:
        what: The text's name for messages.

    Raises:
        ModelFileError: when it is none.
    """
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_build_object,
            parse_constant=_read_finite,
            parse_float=_read_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is not the JSON it has to be: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelFileError(f"{what} is a JSON {type(parsed).__name__}; an object is needed")
    return parsed


def _build_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) < len(pairs):
        raise ValueError("a key is named twice")
    return built


def _read_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


def _read_metadata(given: object) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise ModelFileError(f"{METADATA} of the header is not an object of texts")
    return given


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _read_place(name: str, entry: object) -> _Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(
            f"tensor {name[:80]!r} has no dtype, shape and data_offsets, or more than these"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        allowed = ", ".join(DTYPE_BYTES)
        raise ModelFileError(
            f"tensor {name[:80]!r} has numbers of type {str(dtype)[:20]!r}; allowed are {allowed}"
        )
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelFileError(
            f"tensor {name[:80]!r} has no shape of at most {MAX_DIMENSIONS} whole numbers"
        )
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ModelFileError(f"tensor {name[:80]!r} has no two offsets")
    begin, end = offsets
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != size:
        raise ModelFileError(
            f"tensor {name[:80]!r} has the offsets {begin} and {end}; its shape needs {size} bytes"
        )
    return _Place(name, tuple(shape), begin, end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
        for value in values
    )


def _check_places(places: Sequence[_Place], size: int) -> None:
    """Require that the tensors fill ``size`` bytes, one after the other."""
    at = 0
    for place in sorted(places, key=lambda place: (place.begin, place.end)):
        if place.begin != at:
            raise ModelFileError(
                f"tensor {place.name[:80]!r} begins at byte {place.begin}, not at {at}; tensors "
                "follow each other without gap and overlap"
            )
        at = place.end
    if at != size:
        raise ModelFileError(f"the tensors end at byte {at}, the file at {size}; it was cut")
