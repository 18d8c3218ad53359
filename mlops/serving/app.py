"""The data plane of a replica: every route, and what each kind of trouble answers.

POST /services/{service}/invocations       MLflow scoring (also /invocations)
POST /v2/models/{service}[/versions/{v}]/infer    Open Inference
GET  /services, /services/{service}/forecast
GET  /ping /health /version   /v2...   /livez /readyz /metrics
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
from numpy.typing import NDArray

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
"""Bytes of a body that are read within a millisecond or two."""

RETRY_LATER: Headers = ((b"retry-after", b"1"),)
_FAILED_IN_TIME = "timeout"


class App:
    """An ASGI application over one dispatcher."""

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
        self._plain: dict[str, Callable[[], Reply]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/ping": self._ping,
            "/health": self._ping,
            "/version": self._version,
            "/metrics": self._metrics,
            "/services": self._services,
            "/v2": self._v2,
            "/v2/health/live": self._v2_live,
            "/v2/health/ready": self._v2_ready,
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = self._ids.choose(headers)
        try:
            body = b""
            if scope["method"] == "POST":
                body = await read_body(receive, headers, self.max_body_bytes)
            request = HttpRequest(scope["method"], scope["path"], headers, body, request_id)
            reply = await self._answered(request)
        except RequestRefused as refused:
            reply = _refusal(scope["path"], refused, request_id)
        except ConnectionError:
            return
        await send_reply(send, reply, request_id=request_id, closing=self.draining)
        self._note(reply, request_id, time.perf_counter() - began)

    async def _answered(self, request: HttpRequest) -> Reply:
        try:
            return await self._routed(request)
        except RequestRefused:
            raise
        except (QueueFull, NotReady, TimedOut) as busy:
            return _trouble(request, 503, "TEMPORARILY_UNAVAILABLE", str(busy), RETRY_LATER)
        except ModelFault as fault:
            late = fault.kind == _FAILED_IN_TIME
            code = "DEADLINE_EXCEEDED" if late else "INTERNAL_ERROR"
            log.warning("request=%s no version answered: %s", request.id, fault)
            return _trouble(request, 504 if late else 500, code, _UNANSWERED)
        except ServingError as error:
            return _trouble(request, 500, "INTERNAL_ERROR", str(error))
        except Exception:
            log.exception("request=%s failed", request.id)
            return _trouble(request, 500, "INTERNAL_ERROR", _OUR_FAULT)

    async def _routed(self, request: HttpRequest) -> Reply:
        path = request.path.rstrip("/") or "/"
        if request.method == "GET":
            plain = self._plain.get(path)
            if plain is not None:
                return plain()
        match path.split("/")[1:]:
            case ["services", service, "forecast"]:
                reply = self._only("GET", request) or self._forecast(service)
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
            case _ if path in self._plain:
                reply = _not_allowed()
            case _:
                reply = Reply(404, b'{"detail":"Not Found"}')
        return reply

    # MLflow scoring --------------------------------------------------------------------------

    async def _invoke(self, request: HttpRequest, service: str | None) -> Reply:
        if request.method != "POST":
            return _not_allowed()
        service = service or self._the_service(request)
        spec = self._spec(service)
        content_type = request.header(b"content-type")
        windows = await self._read(request, mlflow_scoring.parse, request.body, content_type, spec)
        answer = await self.dispatcher.answer(
            service, windows, key=request.header(b"x-session-id"), pinned=_pinned(request)
        )
        return self._replied(service, answer, mlflow_scoring.render(_arrays(answer)))

    async def _read(self, request: HttpRequest, parse: Callable[..., T], *given: object) -> T:
        """Read a body; a large one beside the event loop, so that the others need not wait."""
        if len(request.body) <= READ_AT_ONCE:
            return parse(*given)
        return await asyncio.to_thread(parse, *given)

    def _the_service(self, request: HttpRequest) -> str:
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
        match rest:
            case []:
                return self._only("GET", request) or self._model_metadata(service)
            case ["ready"]:
                return self._only("GET", request) or self._model_ready(service, version)
            case ["infer"]:
                return self._only("POST", request) or await self._infer(request, service, version)
        return Reply(404, b'{"error":"no such path of the Open Inference protocol"}')

    async def _infer(self, request: HttpRequest, service: str, version: str | None) -> Reply:
        parse = partial(
            open_inference.parse_infer,
            header_length=request.header(b"inference-header-content-length"),
        )
        asked = await self._read(request, parse, request.body, self._spec(service), service)
        answer = await self.dispatcher.answer(
            service,
            asked.windows,
            key=request.header(b"x-session-id"),
            pinned=version or _pinned(request),
        )
        body = open_inference.render_infer(
            asked,
            _arrays(answer),
            model_name=service,
            model_version=answer.model_id,
            parameters={"variant": answer.variant, "generation": answer.generation},
        )
        return self._replied(service, answer, body)

    def _model_metadata(self, service: str) -> Reply:
        route = self.dispatcher.route_state(service).route
        ready = self.dispatcher.pool.ready()
        versions = [m for m in (route.champion, route.challenger, route.previous_champion) if m]
        held = [model_id for model_id in dict.fromkeys(versions) if model_id in ready]
        return Reply(200, open_inference.model_metadata(service, held, self._spec(service)))

    def _model_ready(self, service: str, version: str | None) -> Reply:
        wanted = version or self.dispatcher.route_state(service).route.champion
        ready = wanted in self.dispatcher.pool.ready()
        body = orjson.dumps({"name": service, "ready": ready})
        return Reply(200 if ready else 503, body, headers=() if ready else RETRY_LATER)

    def _v2(self) -> Reply:
        return Reply(200, open_inference.server_metadata())

    def _v2_live(self) -> Reply:
        return Reply(200, b'{"live":true}')

    def _v2_ready(self) -> Reply:
        ready = self._takes_requests()
        return Reply(200 if ready else 503, orjson.dumps({"ready": ready}))

    # Services --------------------------------------------------------------------------------

    def _forecast(self, service: str) -> Reply:
        published = self.publisher.latest(service)
        if published is None:
            self.dispatcher.route_state(service)
            why = self.publisher.reasons_missing.get(service, "the first bar is being forecast")
            return _abstained(service, f"no forecast yet: {why}")
        if not published.fresh:
            return _abstained(
                service,
                f"the newest complete bar closed at {published.closed_at:%Y-%m-%d %H:%M} UTC, too "
                "long ago to forecast from; check the feed (FORECAST_MAX_AGE_BARS sets the limit)",
            )
        row = published.row
        headers = self._headers(row.model_id, published.variant, row.generation)
        return Reply(200, published.body, headers=headers, service=service, variant="forecast")

    def _services(self) -> Reply:
        return Reply(200, list_services(self.store_sync, self.publisher))

    # Health ----------------------------------------------------------------------------------

    def _livez(self) -> Reply:
        return Reply(200, b"ok\n", TEXT)

    def _readyz(self) -> Reply:
        if self._takes_requests():
            return Reply(200, b"ready\n", TEXT)
        return Reply(503, b"draining\n" if self.draining else b"starting\n", TEXT, RETRY_LATER)

    def _ping(self) -> Reply:
        return Reply(200, b"\n") if self._takes_requests() else Reply(404, b"\n")

    def _version(self) -> Reply:
        return Reply(200, installed("mlflow").encode(), TEXT)

    def _metrics(self) -> Reply:
        return Reply(200, self.metrics.render(), b"text/plain; version=0.0.4; charset=utf-8")

    def _takes_requests(self) -> bool:
        return self.store_sync.ready() and not self.draining

    # Replies ---------------------------------------------------------------------------------

    def _spec(self, service: str) -> InputSpec:
        return self.specs.for_route(self.dispatcher.route_state(service).route)

    def _replied(self, service: str, answer: Answer, body: bytes) -> Reply:
        headers = self._headers(answer.model_id, answer.variant, answer.generation)
        noted = {"model_id": answer.model_id, "generation": answer.generation}
        return Reply(200, body, JSON, headers, service, answer.variant, noted)

    def _headers(self, model_id: str, variant: str, generation: int) -> Headers:
        key = (model_id, variant, generation)
        known = self._variant_headers.get(key)
        if known is None:
            if len(self._variant_headers) > 1000:
                self._variant_headers.clear()
            known = self._variant_headers[key] = (
                (b"x-model-version", model_id.encode()),
                (b"x-variant", variant.encode()),
                (b"x-route-generation", b"%d" % generation),
            )
        return known

    def _only(self, method: str, request: HttpRequest) -> Reply | None:
        return None if request.method == method else _not_allowed()

    def _note(self, reply: Reply, request_id: str, seconds: float) -> None:
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


_UNANSWERED = "no version of this service could answer; the request itself is sound. Try again"
_OUR_FAULT = "the replica failed on this request; its log has the request id"


def _arrays(answer: Answer) -> list[NDArray[np.float64]]:
    """As the protocols write them: one array a window."""
    return list(np.asarray(answer.forecasts, dtype=np.float64).reshape(-1, 1))


def _pinned(request: HttpRequest) -> str | None:
    """A preview, or one version; it takes no part in the split."""
    return request.header(b"x-model-version") or (
        "challenger" if request.header(b"x-variant") == "challenger" else None
    )


def _not_allowed() -> Reply:
    return Reply(405, b'{"detail":"Method Not Allowed"}')


def _abstained(service: str, why: str) -> Reply:
    body = {"error_code": "STALE_DATA", "service": service, "forecast": None, "message": why}
    return Reply(503, orjson.dumps(body), headers=RETRY_LATER, service=service)


def _speaks_open_inference(path: str) -> bool:
    return path.startswith("/v2")


def _trouble(
    request: HttpRequest, status: int, code: str, message: str, headers: Headers = ()
) -> Reply:
    if _speaks_open_inference(request.path):
        return Reply(status, open_inference.error_body(message), headers=headers)
    return Reply(
        status, mlflow_scoring.error_body(status, code, message, request.id), headers=headers
    )


def _refusal(path: str, refused: RequestRefused, request_id: str) -> Reply:
    if _speaks_open_inference(path):
        return Reply(refused.status, open_inference.error_body(str(refused)))
    if refused.status == 415:
        return Reply(415, str(refused).encode(), TEXT)
    body = mlflow_scoring.error_body(refused.status, refused.code, str(refused), request_id)
    return Reply(refused.status, body)
