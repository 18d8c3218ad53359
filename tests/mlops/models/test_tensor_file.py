"""The header of a safetensors file: bounds, types, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save

from mlops.errors import ModelFileError
from mlops.models.tensor_file import begins_as_tensor_file, read_tensor_header

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def write(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_file_of_the_library_is_read():
    tensors = {"b": np.zeros((2, 3), np.float32), "a": np.ones(4), "none": np.zeros((0, 5))}
    content = save(tensors, metadata={"k": "v"})
    header = read_tensor_header(content)
    assert begins_as_tensor_file(content)
    assert header.shapes == {"b": (2, 3), "a": (4,), "none": (0, 5)}
    assert header.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (write(GOOD)[:-1], "it was cut"),
        (write(GOOD) + b"x", "it was cut"),
        ((10**9).to_bytes(8, "little") + b"{}", "from 2 to"),
        ((2**63).to_bytes(8, "little") + b"{" * 10, "from 2 to"),
        (write(b"[]"), "an object is needed"),
        (write(b"\xff\xff"), "is not the JSON"),
        (write(b'{"a":' * 50_000), "is not the JSON"),
        (write(b'{"a":1,"a":2}'), "named twice"),
        (write(b'{"__metadata__":{"x":NaN}}'), "no finite number"),
        (write({"__metadata__": {"x": 1}}), "not an object of texts"),
        (write({"a": 1}), "has no dtype"),
        (write({"a": GOOD["a"] | {"more": 1}}), "or more than these"),
        (write({"a": GOOD["a"] | {"dtype": "BF16"}}), "'BF16'; allowed are F64"),
        (write({"a": GOOD["a"] | {"dtype": ["F32"]}}), "allowed are F64"),
        (write({"a": GOOD["a"] | {"shape": [-2]}}), "no shape"),
        (write({"a": GOOD["a"] | {"shape": [2.0]}}), "no shape"),
        (write({"a": GOOD["a"] | {"shape": [True]}}), "no shape"),
        (write({"a": GOOD["a"] | {"shape": [1] * 9}}), "at most 8"),
        (write({"a": GOOD["a"] | {"shape": [2**52, 2**52]}}), "its shape needs"),
        (write({"a": GOOD["a"] | {"data_offsets": [8, 0]}}), "its shape needs"),
        (write({"a": GOOD["a"] | {"data_offsets": [0]}}), "no two offsets"),
        (write({"a": GOOD["a"] | {"data_offsets": [8, 16]}}, bytes(16)), "begins at byte 8"),
        (write({"a": GOOD["a"], "b": GOOD["a"]}), "begins at byte 0, not at 8"),
    ],
)
def test_a_wrong_header_is_refused_with_its_fault(content, message):
    with pytest.raises(ModelFileError, match=message):
        read_tensor_header(content)


def test_too_many_tensors_are_refused():
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = {str(number): empty for number in range(10_001)}
    with pytest.raises(ModelFileError, match="at most 10,000"):
        read_tensor_header(write(header, b""))
