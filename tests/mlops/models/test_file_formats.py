"""What a model file is, told by its bytes, and which formats are read."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.errors import ModelFileError, UnsupportedFormat
from mlops.features.targets import TargetSpec
from mlops.models.file_formats import (
    FileKind,
    FileReading,
    check_file,
    find_file_kind,
    read_file,
)
from mlops.models.model_file import make_model_file
from mlops.service import Target

READING = FileReading(TargetSpec(Target.VOLATILITY, 4))
ONNX = b"\x08\x09\x12\x03abc"


@pytest.fixture(scope="module")
def linear(small_recipe, fitted):
    return fitted(small_recipe("linear", READING.target), READING.target)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x05.", b"PK\x03\x04", b"base64_encoded_", b"\x08", b"{}"],
    ids=["empty", "pickle", "zip", "text", "short", "json"],
)
def test_other_files_are_refused_with_what_to_send(content):
    with pytest.raises(UnsupportedFormat, match="neither as safetensors nor as ONNX"):
        find_file_kind(content)


def test_the_kind_of_a_file_is_told_by_its_first_bytes(linear):
    assert find_file_kind(make_model_file(linear)) is FileKind.TENSORS
    assert find_file_kind(ONNX) is FileKind.ONNX


def test_safetensors_are_checked_and_read(linear, dataset_of):
    content = make_model_file(linear)
    check_file(content, READING)
    rows = np.arange(710, 720)
    data = dataset_of(READING.target)
    np.testing.assert_array_equal(
        read_file(content, READING).predict(data, rows), linear.predict(data, rows)
    )


@pytest.mark.parametrize("work", [check_file, read_file])
def test_onnx_is_refused_where_it_is_not_allowed(work):
    with pytest.raises(UnsupportedFormat, match="only where ALLOW_ONNX=true"):
        work(ONNX, READING)


def test_onnx_with_a_config_is_refused():
    with pytest.raises(ModelFileError, match="takes no config"):
        check_file(ONNX, FileReading(READING.target, config={}, allow_onnx=True))
