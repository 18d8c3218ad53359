"""Models that come as a file: what a file is, and how each format is read.

Whoever wrote the file is not trusted. Nothing is read as a pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mlops.errors import ModelFileError, UnsupportedFormat
from mlops.features.spec import DEFAULT_FEATURES
from mlops.features.targets import TargetSpec
from mlops.models.base import Forecaster
from mlops.models.model_file import (
    READ_FAMILIES,
    WRITTEN_FAMILIES,
    check_model_file,
    read_model_file,
)
from mlops.models.tensor_file import begins_as_tensor_file

_ONNX_FIRST_FIELD, _ONNX_VERSIONS = 0x08, range(3, 32)


class FileKind(StrEnum):
    """What a model file is, told by its first bytes."""

    TENSORS = "safetensors"
    ONNX = "onnx"


@dataclass(frozen=True, slots=True)
class FileReading:
    """How a file is to be read.

    Args:
        target: What its service forecasts.
        config: The state's JSON beside bare weights.
        allow_onnx: Whether ONNX is read.
        features: What an ONNX graph is given, in this order.
        sequence_length: Bars in one window of an ONNX graph.
    """

    target: TargetSpec
    config: Mapping[str, Any] | None = None
    allow_onnx: bool = False
    features: Sequence[str] = DEFAULT_FEATURES
    sequence_length: int = 1

    @property
    def families(self) -> frozenset[str]:
        """Model types that a safetensors file may hold."""
        return WRITTEN_FAMILIES if self.allow_onnx else READ_FAMILIES


def find_file_kind(content: bytes) -> FileKind:
    """Tell by its first bytes what a file is.

    Raises:
        UnsupportedFormat: when it begins neither as safetensors nor as ONNX.
    """
    if begins_as_tensor_file(content):
        return FileKind.TENSORS
    # The first field of every ONNX file is the version of its format, a small number.
    if len(content) > 2 and content[0] == _ONNX_FIRST_FIELD and content[1] in _ONNX_VERSIONS:
        return FileKind.ONNX
    raise UnsupportedFormat(
        f"the model has {len(content):,} bytes that begin neither as safetensors nor as ONNX; pass "
        "a file made by manager.export_model(model_id), or safetensors with a config. Pickles are "
        "never read"
    )


def check_file(content: bytes, reading: FileReading) -> None:
    """Check what costs little: the format, and of safetensors the header.

    Raises:
        UnsupportedFormat: when this format is not read here.
        ModelFileError: when the header is wrong, or holds what a file may not.
    """
    if find_file_kind(content) is FileKind.ONNX:
        _check_onnx_is_allowed(reading)
    else:
        check_model_file(content, reading.config, target=reading.target, families=reading.families)


def read_file(content: bytes, reading: FileReading) -> Forecaster:
    """Restore the forecaster of a file of any format, whoever wrote it.

    A file may ask for more memory and time than this process may lose; read one of unknown origin
    in a child process with limits.

    Raises:
        UnsupportedFormat: when this format is not read here.
        ModelFileError: for whatever is wrong with it.
    """
    if find_file_kind(content) is FileKind.TENSORS:
        return read_model_file(
            content, reading.config, target=reading.target, families=reading.families
        )
    _check_onnx_is_allowed(reading)
    from mlops.models.onnx_model import read_onnx

    return read_onnx(
        content,
        target=reading.target,
        features=reading.features,
        sequence_length=reading.sequence_length,
    )


def _check_onnx_is_allowed(reading: FileReading) -> None:
    if not reading.allow_onnx:
        raise UnsupportedFormat(
            "the model is an ONNX graph, which is read only where ALLOW_ONNX=true; set that, or "
            "pass safetensors with a config"
        )
    if reading.config is not None:
        raise ModelFileError(
            "an ONNX graph takes no config; leave it out, and name features and sequence_length "
            "in metadata"
        )
