"""Reads bodies of JSON strictly: UTF-8, finite numbers, each key once."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from mlops.api.problems import BodyRefused, Problem


class StrictRequest(Request):
    """A request whose JSON is read by `parse_json`."""

    async def json(self) -> Any:
        try:
            return parse_json(await self.body())
        except Problem as problem:
            raise BodyRefused(problem) from problem


class StrictRoute(APIRoute):
    """A route whose bodies are read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return handle


def parse_json(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        Problem: for what is no JSON, a number that is not finite, half of a surrogate pair, or a
            key that stands twice in an object.
    """
    try:
        value = orjson.loads(body)
        # orjson takes the last of equal keys, and says nothing.
        json.loads(body, object_pairs_hook=_refuse_duplicates)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise Problem(
            "malformed-request",
            f"the body is no JSON: {error}; send UTF-8 text with finite numbers",
        ) from error
    return value


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem("malformed-request", f"the key {twice[:80]!r} stands twice in one object")
