"""One request to an ASGI app in this process, with every byte of it under the test's control."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

from .stored_requests import StoredRequest


async def answer_of(app: Any, request: StoredRequest) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the reply, as the app sends them."""
    path, _, query = request.path.partition("?")
    headers = {"x-request-id": "stored", **request.headers}
    if request.content_type is not None:
        headers["content-type"] = request.content_type
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": request.method, "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }  # fmt: skip
    chunks = split_body(request)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    replied = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    body = b"".join(part.get("body", b"") for part in parts)
    if request.method != "HEAD" and "content-length" in replied:
        assert int(replied["content-length"]) == len(body)
    return start["status"], replied, body


def split_body(request: StoredRequest) -> list[bytes]:
    """The body in the chunks that the request names, and the rest as the last one."""
    ends = [0, *accumulate(request.chunks)]
    return [*(request.body[a:b] for a, b in pairwise(ends)), request.body[ends[-1] :]]
