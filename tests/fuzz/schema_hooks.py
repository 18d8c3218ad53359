"""Hooks of schemathesis: real ids in half of the requests, and two checks more.

Random ids would end at the first look-up, so half of the cases get those of the world under test,
which the environment variable `FUZZED_IDS` names as JSON.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import schemathesis

from mlops.api.documents import ID_PATTERN

IDS: dict[str, list[str]] = json.loads(os.environ.get("FUZZED_IDS", "{}"))
"""By the name of a parameter or field, the values that exist."""


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> Any:
    """Real ids in about half of the paths."""
    return put_ids(path_parameters)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Real ids in about half of the bodies."""
    return put_ids(body)


@schemathesis.hook
def map_query(context: Any, query: dict[str, Any] | None) -> Any:
    """Real ids in about half of the queries."""
    return put_ids(query)


@schemathesis.check
def retry_after_is_told(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A 503 says when to try again."""
    if response.status_code == 503:
        assert response.headers.get("retry-after"), "a 503 without Retry-After"


@schemathesis.check
def errors_are_problems(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Every answer of 400 or more is a problem."""
    if response.status_code >= 400:
        (media_type,) = response.headers["content-type"]
        assert media_type == "application/problem+json", media_type


def put_ids(values: Any) -> Any:
    """The values with ids that exist, where their own text asks for it."""
    if not isinstance(values, dict):
        return values
    return {name: _put_id(name, value) for name, value in values.items()}


def _put_id(name: str, value: Any) -> Any:
    known = IDS.get(name)
    # A value that is wrong on purpose stays wrong.
    if not known or not isinstance(value, str) or not re.fullmatch(ID_PATTERN, value):
        return value
    # The choice hangs on the drawn value, so that a case that is made again is the same.
    number = sum(value.encode("utf-8", "surrogatepass"))
    return known[number % len(known)] if number % 2 else value
