"""The OpenAPI 3.1 document of the API, with answers that were really given as examples.

`examples.json` holds them by method, path and status; `tests/mlops/api/test_examples.py` writes it.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mlops.api.problems import list_problems, make_problem_schema

EXAMPLES = files("mlops.api") / "examples.json"

ALWAYS = ("malformed-request", "forbidden", "body-too-large", "internal-error", "not-available")
"""Problems that any route may end in, for they arise before or beneath it."""

DESCRIPTION = """Versions, rollouts, A/B tests, monitoring and training of the platform.

Every path calls one method of `mlops.manager.MLOpsManager`. Times are RFC 3339 in UTC, in the
market's time where they are about bars. A number that is not known is null. Errors are
`application/problem+json` (RFC 9457); their `type` is a page that says what to do.

A POST with the header `Idempotency-Key` may be repeated: it is done once."""


def build_document(api: FastAPI) -> dict[str, Any]:
    """The document of an application; it is built once."""
    if api.openapi_schema is None:
        document = get_openapi(
            title=api.title, version=api.version, description=DESCRIPTION, routes=api.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = make_problem_schema()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _name_body(operation, schemas)
                _complete_answers(operation, _read_examples().get(f"{method.upper()} {path}", {}))
        api.openapi_schema = document
    return api.openapi_schema


def _name_body(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Move a body that a route describes by itself to the named ones: clients need a name."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        title = media["schema"].get("title")
        if title is not None and "properties" in media["schema"]:
            schemas[title] = media["schema"]
            media["schema"] = {"$ref": f"#/components/schemas/{title}"}


def _complete_answers(operation: dict[str, Any], examples: dict[str, Any]) -> None:
    """Add the problems of every route, and the examples of this one."""
    answers = operation["responses"]
    if "422" in answers and "application/json" in answers["422"].get("content", {}):
        answers["422"] = list_problems("invalid-request")[422]
    for status, answer in list_problems(*ALWAYS).items():
        answers.setdefault(str(status), answer)
    for status, example in examples.items():
        content = answers.get(status, {}).get("content", {})
        for media in content.values():
            media["example"] = example


def _read_examples() -> dict[str, Any]:
    examples: dict[str, Any] = orjson.loads(EXAMPLES.read_bytes())
    return examples
