"""Hooks of schemathesis: real ids in half of the requests, and what a 503 must say.

Random ids would end at the first look-up, so half of the cases get those of the world under test,
which the environment variable `FUZZED_IDS` names as JSON.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

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


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """A 503 says when to try again."""
    if response.status_code == 503:
        assert int(response.headers["retry-after"][0]) >= 1, "a 503 without Retry-After"


def put_ids(values: Any) -> Any:
    """The values with ids that exist, where their own text asks for it."""
    if not isinstance(values, dict):
        return values
    return {name: _put_id(name, value) for name, value in values.items()}


def _put_id(name: str, value: Any) -> Any:
    known = IDS.get(name)
    if not known or not isinstance(value, str):
        return value
    # The choice hangs on the drawn value, so that a case that is made again is the same.
    number = sum(value.encode("utf-8", "surrogatepass"))
    return known[number % len(known)] if number % 2 else value
