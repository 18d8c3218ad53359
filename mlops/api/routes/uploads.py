"""Versions as files: sent, and fetched."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from mlops.api.children import Work
from mlops.api.context import Actor, ApiContext, Context
from mlops.api.documents import KEY_PATTERN, PathId
from mlops.api.model_documents import ModelDocument
from mlops.api.operations import (
    ANSWER_WITHIN_S,
    OperationDocument,
    answer_operation,
    prefers_async,
)
from mlops.api.problems import list_problems
from mlops.api.strict_requests import StrictRoute
from mlops.api.uploads import RegisterBody, parse_upload, read_body, register_upload
from mlops.store.operations import Operation
from mlops.store.requests import RequestKey

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)

KIND = "register"
FILE_TYPE = "application/octet-stream"
_MODELS = "/mlops/api/models"

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="Names the request; its repeat changes nothing and returns the same thing",
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description="respond-async: answer 202 with an operation at once (RFC 7240)",
    ),
]


@router.post(
    "/register",
    status_code=201,
    response_model=ModelDocument,
    responses={
        200: {"model": ModelDocument, "description": "An earlier request has registered it"},
        202: {"model": OperationDocument, "description": "It is being registered"},
        **list_problems(
            "malformed-request",
            "body-too-large",
            "unsupported-media-type",
            "invalid-request",
            "unsupported-format",
            "not-available",
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": RegisterBody.model_json_schema()}},
        }
    },
)
async def register_model(
    request: Request, context: Context, actor: Actor, key: Key = None, prefer: Prefer = None
) -> Response:
    """Register a model that was trained elsewhere, from a file; one at a time is registered.

    Its figures are claims: no gate has judged it, so its status is ``refused``, and only a shadow
    rollout takes it.
    """
    settings = context.manager.config
    with context.children.reserve(Work.UPLOAD) as place:
        body = await read_body(request)
        name = None if key is None else RequestKey(key, hashlib.sha256(body).hexdigest())
        earlier = await to_thread.run_sync(partial(_find_earlier, context, name))
        if earlier is not None:
            return earlier
        parse = partial(parse_upload, context.manager, body, actor=actor, request=name)
        upload = await to_thread.run_sync(parse)
        del body
        work = context.children.start(place, register_upload, settings, upload)
    answer = await context.operations.await_work(
        work,
        KIND,
        partial(_describe_registered, context),
        actor=actor,
        request=name,
        within_s=0.0 if prefers_async(prefer) else ANSWER_WITHIN_S,
    )
    return _answer(answer, status=201)


@router.get(
    "/{model_id}/file",
    response_class=Response,
    responses={
        200: {
            "content": {FILE_TYPE: {"schema": {"type": "string", "format": "binary"}}},
            "description": "A safetensors file with the whole forecaster",
        },
        **list_problems("not-found", "invalid-request", "not-available"),
    },
)
def get_model_file(model_id: PathId, context: Context) -> Response:
    """A version as one file, which another installation registers; it forecasts the same there."""
    content = context.manager.export_model(model_id)
    name = f'attachment; filename="{model_id}.safetensors"'
    return Response(content, headers={"content-disposition": name}, media_type=FILE_TYPE)


def _find_earlier(context: ApiContext, name: RequestKey | None) -> Response | None:
    """The answer to a request that was made before; None where it was not."""
    if name is None:
        return None
    made = context.manager.find_request(name)
    if made is None:
        return None
    return _answer(
        made if isinstance(made, Operation) else ModelDocument.of_version(made), status=200
    )


def _describe_registered(context: ApiContext, value: Any) -> ModelDocument:
    return ModelDocument.of_version(context.manager.get_model(value["model_id"]))


def _answer(made: Any, status: int) -> Response:
    if isinstance(made, Operation):
        return answer_operation(made)
    place = {"location": f"{_MODELS}/{made.model_id}"}
    return Response(made.model_dump_json(), status, place, media_type="application/json")
