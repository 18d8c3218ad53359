"""Versions written to one file, and models registered from one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlops.errors import ModelFileError
from mlops.features.spec import DEFAULT_FEATURES
from mlops.features.targets import TargetSpec
from mlops.manager.outside_models import OutsideModels
from mlops.models.base import OUTSIDE_FORECASTERS, Forecaster
from mlops.models.file_formats import FileReading, read_file
from mlops.models.model_file import make_model_file
from mlops.registry.claims import check_shape
from mlops.registry.connection import load
from mlops.store import ModelVersion
from mlops.store.audit import SYSTEM
from mlops.store.operations import Operation, read_operation_of_request
from mlops.store.requests import RequestKey
from mlops.store.versions import find_version_of_request


class ModelFiles(OutsideModels):
    """Exports versions as files, and registers files."""

    def export_model(self, model_id: str, path: Path | str | None = None) -> bytes:
        """A version as one safetensors file, which another installation registers.

        A forecaster restored from it forecasts equal to the bit.

        Args:
            path: Where to write the file too.

        Raises:
            VersionNotFound: when there is no such version.
            ModelFileError: when its recipe names code, which no file holds.
        """
        content = make_model_file(load(self.registry, model_id).forecaster)
        if path is not None:
            Path(path).write_bytes(content)
        return content

    async def register_file(
        self,
        content: bytes,
        model_type: str,
        symbol: str,
        metrics: object,
        metadata: Mapping[str, Any] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        actor: str = SYSTEM,
        request: RequestKey | None = None,
    ) -> ModelVersion:
        """Register a model that comes as a file; what is not said here is as in `register_model`.

        Args:
            content: What `export_model` returns, bare weights as safetensors, or an ONNX graph
                where ALLOW_ONNX is set.
            metadata: Of an ONNX graph, ``features`` and ``sequence_length`` say what it is given.
            config: The recipe of bare weights, with scaler and transform.

        Raises:
            ModelFileError: when the file holds no sound model of this type.
            RegistryError, ServiceError, BundleError: as `register_model`.
        """
        reading = self.plan_reading(symbol, metadata or {}, config)
        forecaster = await asyncio.to_thread(_read_model, content, model_type, reading)
        return await self.register_model(
            forecaster, model_type, symbol, metrics, metadata, actor=actor, request=request
        )

    def find_request(self, request: RequestKey) -> ModelVersion | Operation | None:
        """What a request to register has made: a version, or the operation that makes it.

        Raises:
            RequestKeyReused: when the key is that of another request.
        """
        version = find_version_of_request(self.store, request)
        if version is not None:
            return version
        with self.store.read() as connection:
            return read_operation_of_request(connection, request)

    def plan_reading(
        self, symbol: str, metadata: Mapping[str, Any], config: Mapping[str, Any] | None
    ) -> FileReading:
        """How a file for the service that symbol and metadata name is read.

        Raises:
            ServiceError: when they name no service.
            RegistryError: when the metadata describe no input of a model.
        """
        service = self.find_service(symbol, metadata)
        shape = check_shape(dict(metadata))
        return FileReading(
            target=TargetSpec(service.target, service.horizon),
            config=config,
            allow_onnx=self.config.allow_onnx,
            features=shape.get("features", DEFAULT_FEATURES),
            sequence_length=shape.get("sequence_length", 1),
        )


def _read_model(content: bytes, model_type: str, reading: FileReading) -> Forecaster:
    forecaster = read_file(content, reading)
    told = forecaster.recipe.model_type
    # A graph does not say of which type it was before it was exported.
    if told not in OUTSIDE_FORECASTERS and told != model_type:
        raise ModelFileError(
            f"model_type is {model_type!r} and the file holds a model of type "
            f"{told!r}; say that type"
        )
    return forecaster
