"""Errors as answers: RFC 9457, from one map over the library's tree of errors.

    raise Problem(NOT_FOUND, "there is no operation op-1; GET operations lists them")

An error of the library is raised as it is; `STATUSES` says which problem it is. A problem never
repeats what was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mlops import errors
from mlops.errors import MlopsError

log = logging.getLogger(__name__)

PAGES = "/mlops/problems"
"""Where the page of each kind of problem is."""

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem.

    Args:
        slug: Names its page.
        status: Of HTTP.
        advice: What a caller does about it.
    """

    slug: str
    status: int
    title: str
    advice: str


KINDS: dict[str, Kind] = {
    kind.slug: kind
    for kind in (
        Kind(
            "malformed-request",
            400,
            "The request could not be read",
            "Send JSON in UTF-8, each key once, numbers that are finite, and the header "
            "Content-Type: application/json.",
        ),
        Kind(
            "forbidden",
            403,
            "This request is not answered here",
            "The API answers this machine's own names only, and no request that a browser sends "
            "on behalf of another site. Call it by 127.0.0.1 or localhost, or name the host in "
            "API_ALLOWED_HOSTS.",
        ),
        Kind(
            "not-found",
            404,
            "There is no such thing",
            "Look the id up in the list beside it, such as GET /mlops/api/models.",
        ),
        Kind(
            "method-not-allowed",
            405,
            "This path does not take this method",
            "The header Allow names the methods of the path; /mlops/api/docs lists all paths.",
        ),
        Kind(
            "conflict",
            409,
            "The state of the service does not allow it",
            "Read the detail: it says what is in the way, such as a gate that refused the "
            "version, or another rollout, and what to do about it.",
        ),
        Kind(
            "body-too-large",
            413,
            "The body is too large",
            "Send a smaller body; the detail names the limit and the setting that changes it.",
        ),
        Kind(
            "unsupported-media-type",
            415,
            "The body is in a format that is not read here",
            "Send JSON with the header Content-Type: application/json.",
        ),
        Kind(
            "invalid-request",
            422,
            "A value is not allowed",
            "Each entry of errors names a value by its JSON pointer, and what is allowed.",
        ),
        Kind(
            "unsupported-format",
            422,
            "This is not a model file",
            "Send the base64 of a file that manager.export_model(model_id) or GET "
            "/mlops/api/models/{model_id}/file has written, or safetensors with a config. "
            "Pickles are never read.",
        ),
        Kind(
            "key-reused",
            422,
            "The Idempotency-Key belongs to another request",
            "Give each request a key of its own, and repeat a request with the body it had.",
        ),
        Kind(
            "internal-error",
            500,
            "The server failed on this request",
            "The server's log has the request_id, with the cause.",
        ),
        Kind(
            "not-available",
            503,
            "This is not available now",
            "Try again after the seconds of the header Retry-After; the detail says what is busy "
            "or away.",
        ),
    )
}

STATUSES: dict[type[MlopsError], str] = {
    errors.VersionNotFound: "not-found",
    errors.ServiceNotFound: "not-found",
    errors.RolloutNotFound: "not-found",
    errors.AbTestNotFound: "not-found",
    errors.JobNotFound: "not-found",
    errors.NotLoaded: "not-found",
    errors.AbTestMalformed: "invalid-request",
    errors.RolloutError: "conflict",
    errors.SettingsError: "invalid-request",
    errors.ServiceError: "invalid-request",
    errors.DataError: "invalid-request",
    errors.SourceError: "not-available",
    errors.SplitError: "invalid-request",
    errors.FeatureError: "invalid-request",
    errors.ModelError: "invalid-request",
    errors.GateError: "invalid-request",
    errors.BundleError: "invalid-request",
    errors.BundleUnavailable: "not-available",
    errors.RegistryError: "invalid-request",
    errors.ScheduleError: "invalid-request",
    errors.TrainingError: "conflict",
    errors.UnsupportedFormat: "unsupported-format",
    errors.DiskFull: "not-available",
    errors.OperationNotFound: "not-found",
    errors.ChildError: "internal-error",
    errors.ChildrenBusy: "not-available",
    errors.ChildKilled: "invalid-request",
    errors.StoreError: "not-available",
    errors.RowRefused: "invalid-request",
    errors.WatchRefused: "conflict",
    errors.SchedulerUnavailable: "not-available",
    errors.RequestKeyReused: "key-reused",
    errors.ServingError: "not-available",
    errors.RequestRefused: "invalid-request",
    errors.ModelFault: "internal-error",
    errors.BackupError: "internal-error",
    errors.AlertNotSent: "not-available",
}
"""The problem that each error of the library is; a class without an entry is its parent's."""


class ProblemDocument(BaseModel):
    """An answer that says what was wrong, and what to do (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[dict[str, str]]


def make_problem_schema() -> dict[str, Any]:
    """The JSON schema of every problem."""
    return ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")


class Problem(Exception):
    """A problem for which the library has no error.

    Args:
        slug: One of `KINDS`.
        detail: What was got, what is allowed and what to do.
        entries: JSON pointers of the values at fault, each with what is wrong.
        headers: Of the answer, in small letters.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        entries: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[slug]
        self.entries = entries
        self.headers = dict(headers or {})


def refuse_method(method: str, path: str, allowed: str) -> Problem:
    """The problem of a method that a path does not take."""
    detail = f"{path} does not take {method}; it takes {allowed}"
    return Problem("method-not-allowed", detail, headers={"allow": allowed})


class BodyRefused(HTTPException):
    """A problem with a body while it is read: FastAPI lets this class alone pass there."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind.status, str(problem))
        self.problem = problem


def find_slug(error: MlopsError) -> str:
    """The kind of problem that an error of the library is."""
    for parent in type(error).__mro__:
        if parent in STATUSES:
            return STATUSES[parent]
    return "internal-error"


def describe_problem(error: Exception) -> dict[str, Any]:
    """The problem of a request that was answered before it failed, as JSON."""
    known = isinstance(error, MlopsError)
    kind = KINDS[find_slug(error)] if isinstance(error, MlopsError) else KINDS["internal-error"]
    return {
        "type": f"{PAGES}/{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": str(error) if known else kind.advice,
    }


def render_problem(request: Request, problem: Problem) -> Response:
    """The answer to a request that failed."""
    kind = problem.kind
    document = {
        "type": f"{PAGES}/{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": str(problem),
        "instance": request.url.path,
        "request_id": request.scope.get("request_id", ""),
        "errors": [{"pointer": pointer, "detail": text} for pointer, text in problem.entries],
    }
    headers = dict(problem.headers)
    if kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("retry-after", str(RETRY_AFTER_S))
    return Response(orjson.dumps(document), kind.status, headers, media_type=MEDIA_TYPE)


def list_problems(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may end in these kinds of problem."""
    statuses = sorted({KINDS[slug].status for slug in slugs})
    return {
        status: {
            "description": "; ".join(
                KINDS[slug].title for slug in slugs if KINDS[slug].status == status
            ),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def add_handlers(api: FastAPI) -> None:
    """Let every error of an application be answered as a problem."""
    api.add_exception_handler(Problem, _answer_problem)  # type: ignore[arg-type]
    api.add_exception_handler(MlopsError, _answer_error)  # type: ignore[arg-type]
    api.add_exception_handler(RequestValidationError, _answer_invalid)  # type: ignore[arg-type]
    api.add_exception_handler(BodyRefused, _answer_refused_body)  # type: ignore[arg-type]
    api.add_exception_handler(HTTPException, _answer_http)  # type: ignore[arg-type]


def _answer_problem(request: Request, problem: Problem) -> Response:
    return render_problem(request, problem)


def _answer_refused_body(request: Request, refused: BodyRefused) -> Response:
    return render_problem(request, refused.problem)


def _answer_error(request: Request, error: MlopsError) -> Response:
    slug = find_slug(error)
    if KINDS[slug].status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s failed", request.url.path, exc_info=error)
    wait_s = getattr(error, "retry_after_s", None)
    headers = None if wait_s is None else {"retry-after": str(wait_s)}
    gates = error.gates if isinstance(error, errors.RolloutRefused) else ()
    entries = [("/model_id", gate) for gate in gates]
    return render_problem(request, Problem(slug, str(error), entries=entries, headers=headers))


def _answer_invalid(request: Request, error: RequestValidationError) -> Response:
    entries = [(_pointer_of(entry["loc"]), str(entry["msg"])) for entry in error.errors()]
    detail = "; ".join(f"{pointer or 'the body'}: {text}" for pointer, text in entries[:5])
    return render_problem(request, Problem("invalid-request", detail, entries=entries))


def _answer_http(request: Request, error: HTTPException) -> Response:
    slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code)
    if slug is None:
        slug = "malformed-request" if error.status_code < 500 else "internal-error"
    path = request.url.path
    if slug == "method-not-allowed":
        allowed = request.app.state.methods.list_allowed(path)
        return render_problem(request, refuse_method(request.method, path, allowed))
    nowhere = f"there is no path {path}; /mlops/api/docs lists them"
    detail = nowhere if slug == "not-found" else str(error.detail)
    return render_problem(request, Problem(slug, detail, headers=error.headers))


def _pointer_of(place: Sequence[int | str]) -> str:
    """RFC 6901 for a place in the body; ``query/limit`` and the like for a parameter."""
    source, *parts = place
    escaped = [str(part).replace("~", "~0").replace("/", "~1") for part in parts]
    if source == "body":
        return "".join(f"/{part}" for part in escaped)
    return "/".join([str(source), *escaped])
