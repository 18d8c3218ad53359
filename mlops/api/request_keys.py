"""The name of a request: its Idempotency-Key, and the digest of what it asks for."""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeAlias

import orjson
from fastapi import Depends, Header, Request

from mlops.api.documents import KEY_PATTERN
from mlops.api.strict_requests import parse_json
from mlops.store.requests import RequestKey


async def find_request_key(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=KEY_PATTERN,
            description="Names the request; its repeat changes nothing and returns the same thing",
        ),
    ] = None,
) -> RequestKey | None:
    """The name of a request; None where its caller gave none."""
    if key is None:
        return None
    return RequestKey(key, digest_request(request.method, request.url.path, await request.body()))


def digest_request(method: str, path: str, body: bytes) -> str:
    """SHA-256 of what a request asks for; the order of keys and blanks in its JSON do not count."""
    value = parse_json(body) if body else None
    canonical = orjson.dumps([method, path, value], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


RequestName: TypeAlias = Annotated[RequestKey | None, Depends(find_request_key)]
