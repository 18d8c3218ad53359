"""The HTTP interface of a replica: every route, and the reply to each kind of error.

POST /services/{service}/invocations       MLflow scoring (also /invocations)
POST /v2/models/{service}[/versions/{v}]/infer    Open Inference
GET  /services, /services/{service}/forecast
GET  /ping /health /version   /v2...   /livez /readyz /metrics   / (lists all routes)

A fault of the client is a 4xx that says what to send instead; a replica that is busy or not ready
is a 503 with ``retry-after``; a fault of a model or of the replica is a 500 or 504 without details.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version as installed
from typing import Any, TypeAlias

import numpy as np
import orjson
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from mlops.arrays import FloatArray
from mlops.errors import (
    BodiesFull,
    ModelFault,
    NotReady,
    QueueFull,
    RequestRefused,
    ServingError,
    TimedOut,
)
from mlops.rollout.routing import ask_order
from mlops.serving.dispatcher import CHALLENGER, CHAMPION, Answer, Dispatcher
from mlops.serving.http_requests import HttpRequest, RequestBodies, RequestIds
from mlops.serving.metrics import Metrics
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.protocol import mlflow_scoring, open_inference
from mlops.serving.protocol.request_bars import InputSpec
from mlops.serving.request_log import RequestLog
from mlops.serving.services import Specs, list_services
from mlops.serving.store_sync import StoreSync

log = logging.getLogger(__name__)

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"
RETRY_LATER: Headers = ((b"retry-after", b"1"),)
SERVER_METHODS = b"GET, HEAD, POST, OPTIONS"
_TIMEOUT = "timeout"
_BUSY = (BodiesFull, QueueFull, NotReady, TimedOut)
_UNANSWERED = "no version of this service could answer; the request itself is sound. Try again"
_OUR_FAULT = "the replica failed on this request; its log has the request id"


class Reply(Response):
    """One reply.

    Args:
        content_type: None for a reply that has no body.
        service: Label of the metrics, as is ``variant``.
        noted: Fields of the request log; without any the request is not logged.
    """

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: bytes | None = JSON,
        headers: Headers = (),
        *,
        service: str = "-",
        variant: str = "-",
        noted: dict[str, Any] | None = None,
    ) -> None:
        # Response's own __init__ encodes headers from text, 2 % of a request for a forecast.
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = list(headers)
        if content_type is not None:
            length = (b"content-length", b"%d" % len(body))
            self.raw_headers += (length, (b"content-type", content_type))
        self.service = service
        self.variant = variant
        self.noted = noted


Handler: TypeAlias = Callable[[HttpRequest], Awaitable[Reply]]
Respond: TypeAlias = Callable[[Handler, Scope, Receive, Send], Awaitable[None]]


class _Segment(StringConvertor):
    """A part of a path between two slashes, which may be empty: then no service has that name."""

    regex = "[^/]*"


register_url_convertor("segment", _Segment())


class Endpoint(Route):
    """One path: its method, HEAD where that is GET, and OPTIONS; other methods are a 405.

    Args:
        summary: What the path answers, in a phrase, for `GET /`.
        respond: Sends the reply that a handler returns.
    """

    def __init__(
        self, method: str, path: str, handler: Handler, summary: str, respond: Respond
    ) -> None:
        super().__init__(path, handler, methods=[method])
        self.summary = {"method": method, "path": self.path_format, "summary": summary}
        self.allow = b"GET, HEAD, OPTIONS" if method == "GET" else b"POST, OPTIONS"
        self.respond = respond

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = scope["method"] in (self.methods or ())
        handler = self.endpoint if known else self._tell_methods
        await self.respond(handler, scope, receive, send)

    async def _tell_methods(self, request: HttpRequest) -> Reply:
        if request.method == "OPTIONS":
            return _options(self.allow)
        return Reply(405, b'{"detail":"Method Not Allowed"}', headers=((b"allow", self.allow),))


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
        self.bodies = RequestBodies(max_body_bytes)
        self.draining = False
        self._ids = RequestIds(store_sync.identity.incarnation[:8])
        self._variant_headers: dict[tuple[str, str, int], Headers] = {}
        self.endpoints = [Endpoint(*route, self._respond) for route in self._list_routes()]
        self._listing = orjson.dumps({"routes": [route.summary for route in self.endpoints]})
        nowhere: ASGIApp = partial(self._respond, self._find_nothing)
        self._router = Router(self.endpoints, redirect_slashes=False, default=nowhere)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        elif scope["type"] == "http":
            scope["path"] = scope["path"].rstrip("/") or "/"
            handler = self._find_hot_handler(scope)
            if handler is None:
                await self._router(scope, receive, send)
            else:
                await self._respond(handler, scope, receive, send)

    def _find_hot_handler(self, scope: Scope) -> Handler | None:
        """The handler of the three routes asked most often: the router costs them 2 to 6 %."""
        handler: Handler
        match scope["method"], *scope["path"].split("/"):
            case "GET", "", "services", service, "forecast":
                handler = self._newest_forecast
            case "POST", "", "services", service, "invocations":
                handler = self._invoke
            case "POST", "", "v2", "models", service, "infer":
                handler = self._infer
            case _:
                return None
        scope["path_params"] = {"service": service}
        return handler

    def _list_routes(self) -> list[tuple[str, str, Handler, str]]:
        """Method, path, handler and summary of each route; those asked most often come first."""
        service, model = "/services/{service:segment}", "/v2/models/{service:segment}"
        version = model + "/versions/{version:segment}"
        scoring = "forecasts from the bars in the body, by MLflow's scoring protocol"
        inference = "forecasts from the bars in the body, by Open Inference v2"
        return [
            ("GET", f"{service}/forecast", self._newest_forecast, "forecast of the newest bar"),
            ("POST", f"{service}/invocations", self._invoke, scoring),
            ("POST", f"{model}/infer", self._infer, inference),
            ("POST", "/invocations", self._invoke, f"{scoring}; header x-service, or one service"),
            ("POST", f"{version}/infer", self._infer, f"{inference}, of one version"),
            ("POST", "/v1/models/{service:segment}:predict", self._invoke, f"{scoring}, as v1"),
            ("GET", "/", self._list_endpoints, "this list"),
            ("GET", "/services", self._list_services, "services, their versions, bars to send"),
            ("GET", model, self._model_metadata, "inputs and output of a service, by v2"),
            (
                "GET",
                f"{model}/ready",
                self._model_ready,
                "whether one of its versions answers here",
            ),
            ("GET", version, self._model_metadata, "inputs and output of a service, by v2"),
            ("GET", f"{version}/ready", self._model_ready, "whether the version is loaded"),
            ("GET", "/v2", self._server_metadata, "name and release of the server, by v2"),
            ("GET", "/v2/health/live", self._live, "whether the process lives, by v2"),
            ("GET", "/v2/health/ready", self._ready, "whether it is ready to answer, by v2"),
            ("GET", "/livez", self._livez, "200 while the process lives"),
            ("GET", "/readyz", self._readyz, "200 while it is ready to answer, else 503"),
            ("GET", "/ping", self._ping, "200 while it is ready to answer, by MLflow"),
            ("GET", "/health", self._ping, "the same"),
            ("GET", "/version", self._mlflow_version, "version of MLflow"),
            ("GET", "/metrics", self._metrics, "metrics for Prometheus"),
        ]

    async def _respond(self, handler: Handler, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply of a handler, or that to its error, and measure it."""
        began = time.perf_counter()
        request = HttpRequest(scope, receive)
        request_id = self._ids.choose(request)
        try:
            try:
                reply = await handler(request)
            except ClientDisconnect:
                raise
            except Exception as error:
                reply = _error_reply(scope["path"], request_id, error)
            if request.body_is_left:
                await self.bodies.skip_small(request)
        except ClientDisconnect:
            return
        reply.raw_headers.append((b"x-request-id", request_id.encode()))
        if self.draining:
            reply.raw_headers.append((b"connection", b"close"))
        if request.method == "HEAD":
            # Its headers are those of GET: `content-length` stays.
            reply.body = b""
        await reply(scope, receive, send)
        self._record(reply, request_id, time.perf_counter() - began)

    async def _find_nothing(self, request: HttpRequest) -> Reply:
        path = request.scope["path"]
        if path == "*" and request.method == "OPTIONS":
            return _options(SERVER_METHODS)
        if path.startswith("/v2/models/"):
            return Reply(404, b'{"error":"no such path of the Open Inference protocol"}')
        return Reply(404, b'{"detail":"Not Found"}')

    async def _list_endpoints(self, request: HttpRequest) -> Reply:
        return Reply(200, self._listing)

    # Inference -------------------------------------------------------------------------------

    async def _invoke(self, request: HttpRequest) -> Reply:
        service = request.path_params.get("service") or self._find_service(request)
        pinned = self._find_pinned(request, service)
        key = request.own_header(b"x-session-id")
        content_type = request.header(b"content-type")
        parse = partial(mlflow_scoring.parse, content_type=content_type, spec=self._spec(service))
        windows = await self.bodies.parse(request, parse)
        answer = await self.dispatcher.answer(service, windows, key=key, pinned=pinned)
        return self._success(service, answer, mlflow_scoring.render(_arrays(answer)))

    async def _infer(self, request: HttpRequest) -> Reply:
        service = request.path_params["service"]
        pinned = self._find_pinned(request, service)
        key = request.own_header(b"x-session-id")
        parse = partial(
            open_inference.parse_infer,
            spec=self._spec(service),
            model_name=service,
            header_length=request.header(b"inference-header-content-length"),
        )
        parsed = await self.bodies.parse(request, parse)
        answer = await self.dispatcher.answer(service, parsed.windows, key=key, pinned=pinned)
        body = open_inference.render_infer(
            parsed,
            _arrays(answer),
            model_name=service,
            model_version=answer.model_id,
            parameters={"variant": answer.variant, "generation": answer.generation},
        )
        return self._success(service, answer, body)

    def _find_service(self, request: HttpRequest) -> str:
        """The service named in ``x-service``, or the only one there is."""
        named = request.own_header(b"x-service")
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

    def _find_pinned(self, request: HttpRequest, service: str) -> str | None:
        """The version that alone may answer, whatever the split; ``challenger`` for a preview."""
        version = request.own_header(b"x-model-version")
        variant = request.own_header(b"x-variant")
        if variant not in (None, CHAMPION, CHALLENGER):
            raise RequestRefused(
                400,
                "INVALID_PARAMETER_VALUE",
                f"x-variant {variant!r} is no variant that can be asked for; send {CHAMPION} or "
                f"{CHALLENGER}, or leave the header out",
            )
        version = request.path_params.get("version") or version
        if version or variant != CHAMPION:
            return version or variant
        return self.dispatcher.route_state(service).route.champion

    def _spec(self, service: str) -> InputSpec:
        return self.specs.for_route(self.dispatcher.route_state(service).route)

    # Services and models ---------------------------------------------------------------------

    async def _newest_forecast(self, request: HttpRequest) -> Reply:
        service = request.path_params["service"]
        published = self.publisher.latest(service)
        why = self.publisher.reasons_missing.get(service)
        if published is None:
            self.dispatcher.route_state(service)
            return _abstain(service, f"no forecast yet: {why or 'the first bar is being forecast'}")
        if not published.fresh:
            closed = f"{published.closed_at:%Y-%m-%d %H:%M} UTC"
            return _abstain(
                service,
                f"the last forecast is of the bar that closed at {closed}, and it is too old: {why}"
                if why
                else f"the newest complete bar closed at {closed}, too long ago to forecast from; "
                "check the feed (FORECAST_MAX_AGE_BARS sets the limit)",
            )
        row = published.row
        headers = self._version_headers(row.model_id, published.variant, row.generation)
        return Reply(200, published.body, headers=headers, service=service, variant="forecast")

    async def _list_services(self, request: HttpRequest) -> Reply:
        return Reply(200, list_services(self.store_sync, self.publisher))

    async def _server_metadata(self, request: HttpRequest) -> Reply:
        return Reply(200, open_inference.server_metadata())

    async def _model_metadata(self, request: HttpRequest) -> Reply:
        service = request.path_params["service"]
        route = self.dispatcher.route_state(service).route
        ready = self.dispatcher.pool.ready()
        versions = dict.fromkeys((route.champion, route.challenger, route.previous_champion))
        loaded = [model_id for model_id in versions if model_id is not None and model_id in ready]
        return Reply(200, open_inference.model_metadata(service, loaded, self._spec(service)))

    async def _model_ready(self, request: HttpRequest) -> Reply:
        service = request.path_params["service"]
        route, loaded = self.dispatcher.route_state(service).route, self.dispatcher.pool.ready()
        version = request.path_params.get("version")
        if version is None:
            ready = bool(ask_order(route, loaded, challenger_first=False))
        else:
            ready = self.dispatcher.resolve_pinned(route, version) in loaded
        body = orjson.dumps({"name": service, "ready": ready})
        return Reply(200 if ready else 503, body, headers=() if ready else RETRY_LATER)

    # Health ----------------------------------------------------------------------------------

    async def _livez(self, request: HttpRequest) -> Reply:
        return Reply(200, b"ok\n", TEXT)

    async def _live(self, request: HttpRequest) -> Reply:
        return Reply(200, b'{"live":true}')

    async def _readyz(self, request: HttpRequest) -> Reply:
        if self._takes_requests():
            # A replica that cannot keep its forecasts still answers requests, and says so.
            trouble = self.publisher.spool.trouble
            return Reply(200, f"ready\n{trouble}\n".encode() if trouble else b"ready\n", TEXT)
        return Reply(503, b"draining\n" if self.draining else b"starting\n", TEXT, RETRY_LATER)

    async def _ready(self, request: HttpRequest) -> Reply:
        if self._takes_requests():
            return Reply(200, b'{"ready":true}')
        return Reply(503, b'{"ready":false}')

    async def _ping(self, request: HttpRequest) -> Reply:
        return Reply(200 if self._takes_requests() else 404, b"\n")

    async def _mlflow_version(self, request: HttpRequest) -> Reply:
        return Reply(200, installed("mlflow").encode(), TEXT)

    async def _metrics(self, request: HttpRequest) -> Reply:
        return Reply(200, self.metrics.render(), METRICS)

    def _takes_requests(self) -> bool:
        return self.store_sync.ready() and not self.draining

    # Replies ---------------------------------------------------------------------------------

    def _success(self, service: str, answer: Answer, body: bytes) -> Reply:
        headers = self._version_headers(answer.model_id, answer.variant, answer.generation)
        noted = {"model_id": answer.model_id, "generation": answer.generation}
        variant = answer.variant
        return Reply(200, body, headers=headers, service=service, variant=variant, noted=noted)

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
        self.metrics.count_request(reply.service, reply.variant, reply.status_code, seconds)
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


def _options(allow: bytes) -> Reply:
    return Reply(204, content_type=None, headers=((b"allow", allow),))


def _abstain(service: str, why: str) -> Reply:
    body = {"error_code": "STALE_DATA", "service": service, "forecast": None, "message": why}
    return Reply(503, orjson.dumps(body), headers=RETRY_LATER, service=service)


def _error_reply(path: str, request_id: str, error: Exception) -> Reply:
    """The reply to an error, in the form of the protocol that the path belongs to."""
    status, code, message = _explain(error, request_id)
    headers = RETRY_LATER if isinstance(error, _BUSY) else getattr(error, "headers", ())
    if path.startswith("/v2"):
        return Reply(status, open_inference.error_body(message), headers=headers)
    if status == 415:
        return Reply(415, message.encode(), TEXT, headers)
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
