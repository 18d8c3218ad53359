"""The HTTP interface of a replica: every path, and the reply to each kind of error.

POST /services/{service}/invocations       MLflow scoring (also /invocations)
POST /v2/models/{service}[/versions/{v}]/infer    Open Inference
GET  /services, /services/{service}/forecast
GET  /ping /health /version   /v2...   /livez /readyz /metrics

A fault of the client is a 4xx that says what to send instead; a replica that is busy or not ready
is a 503 with ``retry-after``; a fault of a model or of the replica is a 500 or 504 without details.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version as installed
from typing import Any, TypeVar

import numpy as np
import orjson

from mlops.arrays import FloatArray
from mlops.errors import (
    ModelFault,
    NotReady,
    QueueFull,
    RequestRefused,
    ServingError,
    TimedOut,
)
from mlops.serving.dispatcher import Answer, Dispatcher
from mlops.serving.http import (
    JSON,
    TEXT,
    Headers,
    HttpRequest,
    Receive,
    Reply,
    RequestIds,
    Send,
    read_body,
    send_reply,
)
from mlops.serving.metrics import Metrics
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.protocol import mlflow_scoring, open_inference
from mlops.serving.protocol.request_bars import InputSpec
from mlops.serving.request_log import RequestLog
from mlops.serving.services import Specs, list_services
from mlops.serving.store_sync import StoreSync

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_AT_ONCE = 64 * 1024
"""Larger bodies are parsed in a thread: parsing would block the event loop for milliseconds."""

METRICS = b"text/plain; version=0.0.4; charset=utf-8"
RETRY_LATER: Headers = ((b"retry-after", b"1"),)
_TIMEOUT = "timeout"
_BUSY = (QueueFull, NotReady, TimedOut)
_UNANSWERED = "no version of this service could answer; the request itself is sound. Try again"
_OUR_FAULT = "the replica failed on this request; its log has the request id"
_INFERENCE_METHODS = {"": "GET", "ready": "GET", "infer": "POST"}
_READY, _NOT_READY = Reply(200, b'{"ready":true}'), Reply(503, b'{"ready":false}')
_NOT_ALLOWED = Reply(405, b'{"detail":"Method Not Allowed"}')


class App:
    """The ASGI application of a replica.

    Args:
        max_body_bytes: Bytes that the body of a request may have.

    Attributes:
        draining: The replica is ending: it is not ready, and asks clients to close connections.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        publisher: ForecastPublisher,
        store_sync: StoreSync,
        specs: Specs,
        metrics: Metrics,
        request_log: RequestLog,
        max_body_bytes: int,
    ) -> None:
        self.dispatcher = dispatcher
        self.publisher = publisher
        self.store_sync = store_sync
        self.specs = specs
        self.metrics = metrics
        self.request_log = request_log
        self.max_body_bytes = max_body_bytes
        self.draining = False
        self._ids = RequestIds(store_sync.identity.incarnation[:8])
        self._variant_headers: dict[tuple[str, str, int], Headers] = {}
        self._fixed_paths: dict[str, Callable[[], Reply]] = {
            "/livez": lambda: Reply(200, b"ok\n", TEXT),
            "/readyz": self._report_readiness,
            "/ping": self._ping,
            "/health": self._ping,
            "/version": lambda: Reply(200, installed("mlflow").encode(), TEXT),
            "/metrics": lambda: Reply(200, metrics.render(), METRICS),
            "/services": lambda: Reply(200, list_services(store_sync, publisher)),
            "/v2": lambda: Reply(200, open_inference.server_metadata()),
            "/v2/health/live": lambda: Reply(200, b'{"live":true}'),
            "/v2/health/ready": lambda: _READY if self._takes_requests() else _NOT_READY,
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = self._ids.choose(headers)
        body = b""
        try:
            if scope["method"] == "POST":
                body = await read_body(receive, headers, self.max_body_bytes)
        except RequestRefused as refused:
            reply = _error_reply(scope["path"], request_id, refused)
        except ConnectionError:
            return
        else:
            request = HttpRequest(scope["method"], scope["path"], headers, body, request_id)
            try:
                reply = await self._dispatch(request)
            except Exception as error:
                reply = _error_reply(request.path, request_id, error)
        await send_reply(send, reply, request_id=request_id, closing=self.draining)
        self._record(reply, request_id, time.perf_counter() - began)

    async def _dispatch(self, request: HttpRequest) -> Reply:
        path = request.path.rstrip("/") or "/"
        if request.method == "GET":
            answer = self._fixed_paths.get(path)
            if answer is not None:
                return answer()
        match path.split("/")[1:]:
            case ["services", service, "forecast"]:
                get = request.method == "GET"
                reply = self._newest_forecast(service) if get else _NOT_ALLOWED
            case ["services", service, "invocations"]:
                reply = await self._invoke(request, service)
            case ["invocations"]:
                reply = await self._invoke(request, None)
            case ["v1", "models", name] if name.endswith(":predict"):
                reply = await self._invoke(request, name.removesuffix(":predict"))
            case ["v2", "models", service, "versions", version, *rest]:
                reply = await self._open_inference(request, service, version, rest)
            case ["v2", "models", service, *rest]:
                reply = await self._open_inference(request, service, None, rest)
            case _ if path in self._fixed_paths:
                reply = _NOT_ALLOWED
            case _:
                reply = Reply(404, b'{"detail":"Not Found"}')
        return reply

    # MLflow scoring --------------------------------------------------------------------------

    async def _invoke(self, request: HttpRequest, service: str | None) -> Reply:
        if request.method != "POST":
            return _NOT_ALLOWED
        service = service or self._find_service(request)
        spec = self._spec(service)
        content_type = request.header(b"content-type")
        windows = await self._parse(request, mlflow_scoring.parse, request.body, content_type, spec)
        answer = await self.dispatcher.answer(
            service, windows, key=request.header(b"x-session-id"), pinned=_pinned_version(request)
        )
        return self._success(service, answer, mlflow_scoring.render(_arrays(answer)))

    async def _parse(self, request: HttpRequest, parse: Callable[..., T], *args: object) -> T:
        if len(request.body) <= READ_AT_ONCE:
            return parse(*args)
        return await asyncio.to_thread(parse, *args)

    def _find_service(self, request: HttpRequest) -> str:
        """The service named in ``x-service``, or the only one there is."""
        named = request.header(b"x-service")
        if named is not None:
            return named
        known = sorted(self.store_sync.route_view().routes)
        if len(known) != 1:
            raise RequestRefused(
                400,
                "BAD_REQUEST",
                f"this replica serves {len(known)} services; post to /services/{{service}}/"
                f"invocations or name one in the x-service header: {', '.join(known) or 'none'}",
            )
        return known[0]

    # Open Inference --------------------------------------------------------------------------

    async def _open_inference(
        self, request: HttpRequest, service: str, version: str | None, rest: list[str]
    ) -> Reply:
        method = _INFERENCE_METHODS.get("/".join(rest))
        if method is None:
            return Reply(404, b'{"error":"no such path of the Open Inference protocol"}')
        if request.method != method:
            return _NOT_ALLOWED
        if rest == ["infer"]:
            return await self._infer(request, service, version)
        if not rest:
            return self._model_metadata(service)
        route = self.dispatcher.route_state(service).route
        model_id = self.dispatcher.resolve_pinned(route, version or route.champion)
        ready = model_id in self.dispatcher.pool.ready()
        body = orjson.dumps({"name": service, "ready": ready})
        return Reply(200 if ready else 503, body, headers=() if ready else RETRY_LATER)

    async def _infer(self, request: HttpRequest, service: str, version: str | None) -> Reply:
        parse = partial(
            open_inference.parse_infer,
            header_length=request.header(b"inference-header-content-length"),
        )
        parsed = await self._parse(request, parse, request.body, self._spec(service), service)
        answer = await self.dispatcher.answer(
            service,
            parsed.windows,
            key=request.header(b"x-session-id"),
            pinned=version or _pinned_version(request),
        )
        body = open_inference.render_infer(
            parsed,
            _arrays(answer),
            model_name=service,
            model_version=answer.model_id,
            parameters={"variant": answer.variant, "generation": answer.generation},
        )
        return self._success(service, answer, body)

    def _model_metadata(self, service: str) -> Reply:
        route = self.dispatcher.route_state(service).route
        ready = self.dispatcher.pool.ready()
        versions = dict.fromkeys((route.champion, route.challenger, route.previous_champion))
        loaded = [model_id for model_id in versions if model_id is not None and model_id in ready]
        return Reply(200, open_inference.model_metadata(service, loaded, self._spec(service)))

    # Services --------------------------------------------------------------------------------

    def _newest_forecast(self, service: str) -> Reply:
        published = self.publisher.latest(service)
        if published is None:
            self.dispatcher.route_state(service)
            why = self.publisher.reasons_missing.get(service, "the first bar is being forecast")
            return _abstain(service, f"no forecast yet: {why}")
        if not published.fresh:
            return _abstain(
                service,
                f"the newest complete bar closed at {published.closed_at:%Y-%m-%d %H:%M} UTC, too "
                "long ago to forecast from; check the feed (FORECAST_MAX_AGE_BARS sets the limit)",
            )
        row = published.row
        headers = self._version_headers(row.model_id, published.variant, row.generation)
        return Reply(200, published.body, headers=headers, service=service, variant="forecast")

    # Health ----------------------------------------------------------------------------------

    def _report_readiness(self) -> Reply:
        if self._takes_requests():
            return Reply(200, b"ready\n", TEXT)
        return Reply(503, b"draining\n" if self.draining else b"starting\n", TEXT, RETRY_LATER)

    def _ping(self) -> Reply:
        return Reply(200, b"\n") if self._takes_requests() else Reply(404, b"\n")

    def _takes_requests(self) -> bool:
        return self.store_sync.ready() and not self.draining

    # Replies ---------------------------------------------------------------------------------

    def _spec(self, service: str) -> InputSpec:
        return self.specs.for_route(self.dispatcher.route_state(service).route)

    def _success(self, service: str, answer: Answer, body: bytes) -> Reply:
        headers = self._version_headers(answer.model_id, answer.variant, answer.generation)
        noted = {"model_id": answer.model_id, "generation": answer.generation}
        return Reply(200, body, JSON, headers, service, answer.variant, noted)

    def _version_headers(self, model_id: str, variant: str, generation: int) -> Headers:
        key = (model_id, variant, generation)
        headers = self._variant_headers.get(key)
        if headers is None:
            if len(self._variant_headers) > 1000:
                self._variant_headers.clear()
            headers = self._variant_headers[key] = (
                (b"x-model-version", model_id.encode()),
                (b"x-variant", variant.encode()),
                (b"x-route-generation", b"%d" % generation),
            )
        return headers

    def _record(self, reply: Reply, request_id: str, seconds: float) -> None:
        self.metrics.count_request(reply.service, reply.variant, reply.status, seconds)
        if reply.noted:
            line = {
                "at": time.time(),
                "id": request_id,
                "service": reply.service,
                "variant": reply.variant,
                "ms": round(seconds * 1e3, 3),
                **reply.noted,
            }
            self.request_log.add(orjson.dumps(line))


def _arrays(answer: Answer) -> list[FloatArray]:
    """The forecasts as the protocols render them: one array a window."""
    return list(np.asarray(answer.forecasts, dtype=np.float64).reshape(-1, 1))


def _pinned_version(request: HttpRequest) -> str | None:
    """The version that the client wants, whatever the split; ``challenger`` for a preview."""
    return request.header(b"x-model-version") or (
        "challenger" if request.header(b"x-variant") == "challenger" else None
    )


def _abstain(service: str, why: str) -> Reply:
    body = {"error_code": "STALE_DATA", "service": service, "forecast": None, "message": why}
    return Reply(503, orjson.dumps(body), headers=RETRY_LATER, service=service)


def _error_reply(path: str, request_id: str, error: Exception) -> Reply:
    """The reply to an error, in the form of the protocol that the path belongs to."""
    status, code, message = _explain(error, request_id)
    headers = RETRY_LATER if isinstance(error, _BUSY) else ()
    if path.startswith("/v2"):
        return Reply(status, open_inference.error_body(message), headers=headers)
    if status == 415:
        return Reply(415, message.encode(), TEXT)
    body = mlflow_scoring.error_body(status, code, message, request_id)
    return Reply(status, body, headers=headers)


def _explain(error: Exception, request_id: str) -> tuple[int, str, str]:
    """Status, error code and message; what must not reach the client goes to the log."""
    if isinstance(error, RequestRefused):
        return error.status, error.code, str(error)
    if isinstance(error, _BUSY):
        return 503, "TEMPORARILY_UNAVAILABLE", str(error)
    if isinstance(error, ModelFault):
        log.warning("request=%s no version answered: %s", request_id, error)
        if error.kind == _TIMEOUT:
            return 504, "DEADLINE_EXCEEDED", _UNANSWERED
        return 500, "INTERNAL_ERROR", _UNANSWERED
    if isinstance(error, ServingError):
        return 500, "INTERNAL_ERROR", str(error)
    log.error("request=%s failed", request_id, exc_info=error)
    return 500, "INTERNAL_ERROR", _OUR_FAULT
