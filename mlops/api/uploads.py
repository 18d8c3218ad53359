"""Models that are sent: read with a limit, checked cheaply, registered in a child."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from mlops.api.documents import Body, Name, Number, Whole
from mlops.api.problems import Problem
from mlops.api.strict_requests import parse_json
from mlops.errors import MlopsError, RegistryError, UnsupportedFormat
from mlops.manager import MLOpsManager
from mlops.models.file_formats import check_file
from mlops.models.model_file import RUNS_CODE
from mlops.registry.claims import checked_claims
from mlops.registry.registration import check_size_and_disk
from mlops.settings import Settings
from mlops.store.requests import RequestKey

BODY_WITHIN_S = 120.0
"""How long a body may take to arrive: nobody else can send a model meanwhile."""

MB = 1024**2
OTHER_FIELDS_BYTES = 1024**2
"""Room in a body for everything but the model."""

_SERVICE_FIELDS = ("venue", "timeframe", "target", "horizon")
_CHUNK = 4 * 1024**2  # a multiple of four characters
_URL_SAFE = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}", re.ASCII)


class RegisterBody(Body):
    """A model that was trained elsewhere.

    ``model_data`` is the base64 of a file that ``GET /mlops/api/models/{model_id}/file`` or
    ``manager.export_model(model_id)`` has written, of bare weights as safetensors, which need
    ``config``, or of an ONNX graph where ``ALLOW_ONNX`` is set. ``metrics`` are claims.
    """

    model_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    symbol: Name
    model_data: Annotated[str, Field(min_length=1)]
    metrics: dict[Name, Number | None] = Field(default_factory=dict, max_length=100)
    venue: Name | None = None
    timeframe: Name | None = None
    target: Name | None = None
    horizon: Whole | None = None
    metadata: dict[Name, Any] = Field(default_factory=dict, max_length=1000)
    config: dict[str, Any] | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """The metadata, with the fields that name the service among them.

        Raises:
            RegistryError: when a field stands in both.
        """
        own = {name: getattr(self, name) for name in _SERVICE_FIELDS}
        given = {name: value for name, value in own.items() if value is not None}
        twice = sorted(given.keys() & self.metadata.keys())
        if twice:
            raise RegistryError(f"{twice[0]} stands in the body and in metadata; give it once")
        return {**self.metadata, **given}


@dataclass(frozen=True, slots=True)
class Upload:
    """A checked request to register a model.

    Args:
        content: The bytes of the file.
        request: Names the request.
    """

    model_type: str
    symbol: str
    content: bytes
    metrics: Mapping[str, float | None]
    notes: Mapping[str, Any]
    config: Mapping[str, Any] | None
    actor: str
    request: RequestKey | None


def most_body_bytes(max_mb: float) -> int:
    """Bytes of the largest body: base64 makes a model a third larger.

    Args:
        max_mb: Largest model, in megabytes.
    """
    return int(max_mb * MB * 4 / 3) + OTHER_FIELDS_BYTES


async def read_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        Problem: when it is too slow, or of another type.
    """
    _check_media_type(request)
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.body()
    except TimeoutError as error:
        raise Problem(
            "malformed-request", f"the body did not arrive within {BODY_WITHIN_S:g} s; send it anew"
        ) from error


def parse_upload(
    manager: MLOpsManager, body: bytes, *, actor: str, request: RequestKey | None
) -> Upload:
    """Check of a request what can be checked without reading the model.

    Raises:
        Problem, RequestValidationError: when the body is not what is expected.
        RegistryError: when metrics or metadata are not allowed, or the disk is full.
        ModelFileError: when the header of the file is wrong.
        ServiceError: when symbol and fields name no service.
    """
    try:
        parsed = RegisterBody.model_validate(parse_json(body))
    except ValidationError as error:
        entries = [
            {**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_input=False)
        ]
        raise RequestValidationError(entries) from error
    if parsed.model_type in RUNS_CODE:
        raise _refuse_at(
            "/model_type",
            f"a model of type {parsed.model_type} names code of its own, and none is taken over "
            "HTTP; register it in Python, where CUSTOM_MODEL_MODULES allows its module",
        )
    content = decode_model(parsed.model_data, manager.config.register_max_mb)
    reading = manager.plan_reading(parsed.symbol, parsed.notes, parsed.config)
    try:
        check_file(content, reading)
    except UnsupportedFormat as error:
        raise _unsupported(content, parsed.model_data, error) from error
    except MlopsError as error:
        raise _refuse_at("/model_data", str(error)) from error
    try:
        checked_claims(parsed.metrics)
    except RegistryError as error:
        raise _refuse_at("/metrics", str(error)) from error
    check_size_and_disk(manager.installation.home, len(content))
    return Upload(
        model_type=parsed.model_type, symbol=parsed.symbol, content=content,
        metrics=parsed.metrics, notes=parsed.notes, config=parsed.config,
        actor=actor, request=request,
    )  # fmt: skip


def decode_model(text: str, max_mb: float) -> bytes:
    """The bytes of a base64 text, of either alphabet, padded or not.

    Raises:
        Problem: when it is no base64, or more than ``max_mb`` megabytes.
    """
    if not _BASE64.fullmatch(text):
        raise _refuse_at("/model_data", "it holds a character that is not of base64")
    plain = text.rstrip("=").translate(_URL_SAFE)
    plain += "=" * (-len(plain) % 4)
    try:
        # In parts: the interpreter is held for milliseconds only, and answers others in between.
        content = b"".join(
            binascii.a2b_base64(plain[at : at + _CHUNK], strict_mode=True)
            for at in range(0, len(plain), _CHUNK)
        )
    except binascii.Error as error:
        raise _refuse_at("/model_data", f"it is no base64: {error}") from error
    if len(content) > max_mb * MB:
        raise _too_large(max_mb)
    return content


def register_upload(settings: Settings, upload: Upload) -> dict[str, str]:
    """Register an upload; a child does it, which answers with the id of the version."""
    manager = MLOpsManager(settings)
    version = asyncio.run(
        manager.register_file(
            upload.content,
            upload.model_type,
            upload.symbol,
            upload.metrics,
            upload.notes,
            config=upload.config,
            actor=upload.actor,
            request=upload.request,
        )
    )
    return {"model_id": version.model_id}


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise Problem(
            "unsupported-media-type",
            f"the content type is {given[:80]!r}; send JSON as application/json",
        )


def _unsupported(content: bytes, text: str, error: UnsupportedFormat) -> Problem:
    alphabet = "URL-safe base64" if set(text) & set("-_") else "base64"
    detail = str(error)
    if "neither" in detail:
        detail = (
            f"model_data holds {len(content):,} bytes that begin neither as safetensors nor as "
            "ONNX. Send the base64 of a file made by manager.export_model(model_id), or "
            "safetensors with a config; pickles are never read"
        )
    entry = ("/model_data", f"{len(content):,} bytes, read as {alphabet}")
    return Problem("unsupported-format", detail, entries=[entry])


def _refuse_at(pointer: str, detail: str) -> Problem:
    return Problem("invalid-request", f"{pointer}: {detail}", entries=[(pointer, detail)])


def _too_large(max_mb: float) -> Problem:
    return Problem(
        "body-too-large",
        f"a model of at most {max_mb:g} MB is registered here; send a smaller one, or raise "
        "REGISTER_MAX_MB",
    )
