"""What every request passes before its route: an id, the rules of the door, limits, HEAD."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anyio.to_thread import current_default_thread_limiter
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops.api.browsers import DoorRules
from mlops.api.methods import Methods
from mlops.api.problems import BodyRefused, Problem, refuse_method, render_problem
from mlops.serving.http_requests import HttpRequest, RequestIds

log = logging.getLogger(__name__)

THREADS = 8
"""Routes that may touch the store at once: its pool has 15 connections, for the data plane too."""

FAILED = "the server failed on this request; its log has the request_id"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer."""


@dataclass(frozen=True)
class BodyLimits:
    """Bytes that a body may have.

    Args:
        usual: Of every path that is not in ``by_path``.
        setting: The setting that says so, for messages.
        by_path: Bytes and setting of other paths.
    """

    usual: int
    setting: str
    by_path: Mapping[str, tuple[int, str]]

    def of(self, path: str) -> tuple[int, str]:
        """The limit of a path, and its setting."""
        return self.by_path.get(path, (self.usual, self.setting))


class Door:
    """The outermost layer of the API.

    Args:
        app: The routes.
        rules: Who may ask.
        methods: Those of each path.
        limits: How large bodies may be.
        is_draining: Whether the process is about to end, and connections should close.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: DoorRules,
        methods: Methods,
        limits: BodyLimits,
        is_draining: Callable[[], bool],
    ) -> None:
        self.app = app
        self.rules = rules
        self.methods = methods
        self.limits = limits
        self.is_draining = is_draining
        self._ids = RequestIds(uuid.uuid4().hex[:8])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        current_default_thread_limiter().total_tokens = THREADS
        inner = dict(scope) | {"request_id": self._ids.choose(HttpRequest(scope, receive))}
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        answer = _Answer(send, inner["request_id"], self.is_draining(), scope["method"] == "HEAD")
        body = _CountedBody(receive, *self.limits.of(scope["path"]))
        refusal = self._refuse(scope) or body.refuse_stated(scope)
        if refusal is not None:
            await _send_problem(refusal, inner, receive, answer)
            return
        await self._run(inner, body, answer)

    def _refuse(self, scope: Scope) -> Problem | None:
        """Why a request does not reach its route; None where it does."""
        reason = self.rules.refuse(scope)
        if reason is not None:
            return Problem("forbidden", reason)
        method, path = scope["method"], scope["path"]
        if self.methods.is_refused(method, path):
            return refuse_method(method, path, self.methods.list_allowed(path))
        return None

    async def _run(self, scope: Scope, body: _CountedBody, answer: _Answer) -> None:
        """Let the route answer; what it did not foresee is logged and answered as 500."""
        try:
            await self.app(scope, body, answer)
        except Exception:
            log.exception("%s %s failed, request %s", scope["method"], scope["path"],
                          scope["request_id"])  # fmt: skip
            if answer.has_begun:
                raise
            await _send_problem(Problem("internal-error", FAILED), scope, body, answer)


class _CountedBody:
    """Receives a body, and refuses it once it is larger than the limit."""

    def __init__(self, receive: Receive, limit: int, setting: str) -> None:
        self.receive = receive
        self.limit = limit
        self.left = limit
        self.setting = setting

    def refuse_stated(self, scope: Scope) -> Problem | None:
        """Why a body is not read whose length is stated."""
        stated = Headers(scope=scope).get("content-length", "0")
        return self._refusal if stated.isdecimal() and int(stated) > self.limit else None

    @property
    def _refusal(self) -> Problem:
        return Problem(
            "body-too-large",
            f"the body has more than {self.limit:,} bytes; send a smaller one, or raise "
            f"{self.setting}",
            headers={"connection": "close"},
        )

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise BodyRefused(self._refusal)
        return message


class _Answer:
    """Sends an answer with the headers of every answer; that to HEAD has no body."""

    def __init__(self, send: Send, request_id: str, closes: bool, is_head: bool) -> None:
        self.send = send
        self.request_id = request_id
        self.closes = closes
        self.is_head = is_head
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.closes:
                headers["connection"] = "close"
        elif self.is_head:
            message = {**message, "body": b""}
        await self.send(message)


async def _send_problem(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    await render_problem(Request(scope, receive), problem)(scope, receive, send)
