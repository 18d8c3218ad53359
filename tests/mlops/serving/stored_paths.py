"""Requests by path, method and header; and what a replica is asked in each of its states."""

from __future__ import annotations

from dataclasses import replace

from .stored_inferences import inference_refusals, inferences
from .stored_requests import (
    INFER,
    INVOKE,
    JSON,
    ROWS,
    SERVICE_PATH,
    Requests,
    StoredRequest,
    infer,
    invoke,
    rows_of,
    tensor,
)
from .stored_scoring import body_refusals, cell_refusals, json_forms, json_refusals, tables, times

FIXED = (
    "/livez", "/readyz", "/ping", "/health", "/version", "/metrics", "/services", "/v2",
    "/v2/health/live", "/v2/health/ready",
)  # fmt: skip
MODEL = "/v2/models/{service}"


def paths() -> Requests:
    """Every path by right and wrong methods, and paths that are not there."""
    gets = [
        *FIXED, MODEL, f"{MODEL}/ready", f"{MODEL}/versions/{{baseline}}",
        f"{MODEL}/versions/{{baseline}}/ready", f"{MODEL}/versions/nobody/ready",
        f"{SERVICE_PATH}/forecast", "/services/other/forecast", "/", "/nowhere", "/services/",
        "/livez/", "/readyz//", "//livez", "/v2/", "/v2/health", "/v2/models", "/v2/models/other",
        "/v2/models/other/ready", f"{MODEL}/", f"{MODEL}/ready/", f"{MODEL}/nothing", INFER, INVOKE,
        "/invocations", "/v1/models/{service}:predict", "/v1/models/{service}", SERVICE_PATH,
        f"{SERVICE_PATH}/nothing", "/services//forecast", "/LIVEZ", "/livez?verbose=1",
    ]  # fmt: skip
    requests = {f"GET {path}": StoredRequest("GET", path) for path in gets}
    others = [
        "/livez", "/metrics", "/services", "/v2", MODEL, f"{MODEL}/ready",
        f"{SERVICE_PATH}/forecast", "/nowhere", "/", f"{MODEL}/nothing",
    ]  # fmt: skip
    requests |= {f"POST {path}": StoredRequest("POST", path, b"{}", JSON) for path in others}
    methods = {
        "HEAD": ["/", "/livez", "/readyz", "/services", "/metrics", MODEL, INVOKE, "/nowhere"],
        "OPTIONS": ["/", "/livez", f"{SERVICE_PATH}/forecast", INVOKE, INFER, "/nowhere", "*"],
        "PUT": ["/livez", INVOKE, INFER, "/nowhere"],
        "DELETE": ["/services", SERVICE_PATH, MODEL, INVOKE],
        "TRACE": ["/livez"],
        "BREW": ["/livez", INVOKE],
    }
    for method, several in methods.items():
        requests |= {f"{method} {path}": StoredRequest(method, path) for path in several}
    body = invoke({"instances": ROWS})
    requests |= {
        "POST invocations with a slash": replace(body, path=f"{INVOKE}/"),
        "POST infer with a slash": replace(infer(tensor(ROWS)), path=f"{INFER}/"),
        "POST invocations of another service": replace(body, path="/services/other/invocations"),
        "POST v1 of another service": replace(body, path="/v1/models/other:predict"),
        "POST v1 without a service": replace(body, path="/v1/models/:predict"),
    }
    return requests


def headers() -> Requests:
    """Headers that steer a request, right and wrong."""
    several = {
        "a service that is not there": {"x-service": "other"},
        "a version that is not there": {"x-model-version": "nobody"},
        "an empty version": {"x-model-version": ""},
        "the variant champion": {"x-variant": "champion"},
        "the variant challenger without one": {"x-variant": "challenger"},
        "a variant that is none": {"x-variant": "nonsense"},
        "a body in gzip": {"content-encoding": "gzip"},
        "a body in identity": {"content-encoding": "identity"},
        "a long session": {"x-session-id": "s" * 300},
        "an Accept that is not JSON": {"accept": "text/html"},
        "a length that is no number": {"content-length": "x"},
        "a request to wait": {"expect": "100-continue"},
    }
    body = invoke({"instances": ROWS})
    return {
        f"header: {name}": replace(body, path="/invocations", headers=given)
        for name, given in several.items()
    }


def serving() -> Requests:
    """What a replica is asked that has its champion and its baseline loaded."""
    groups = (
        json_forms, json_refusals, cell_refusals, body_refusals, times, tables, inferences,
        inference_refusals, paths, headers,
    )  # fmt: skip
    requests: Requests = {}
    for group in groups:
        made = group()
        assert not requests.keys() & made.keys()
        requests |= made
    return requests


def unready() -> Requests:
    """What a replica is asked that can answer no inference."""
    chosen = [
        *(StoredRequest("GET", path) for path in FIXED if path != "/metrics"),
        StoredRequest("GET", MODEL), StoredRequest("GET", f"{MODEL}/ready"),
        StoredRequest("GET", f"{SERVICE_PATH}/forecast"), invoke({"instances": ROWS}),
        replace(invoke({"instances": ROWS}), path="/invocations"), infer(tensor(ROWS)),
    ]  # fmt: skip
    return {f"{request.method} {request.path}": request for request in chosen}


def rollout() -> Requests:
    """What a replica is asked whose route has a challenger that needs 171 bars, at no share."""
    few, many = invoke({"instances": ROWS}), invoke({"instances": rows_of(200)})
    batch = invoke({"instances": [rows_of(200)] * 2})
    preview = {"x-variant": "challenger"}
    return {
        "rollout: services": StoredRequest("GET", "/services"),
        "rollout: the metadata": StoredRequest("GET", MODEL),
        "rollout: enough bars": many,
        "rollout: bars for the champion alone": few,
        "rollout: windows": batch,
        "rollout: a preview": replace(many, headers=preview),
        "rollout: a preview by v2": replace(infer(tensor(rows_of(200))), headers=preview),
        "rollout: a preview with bars for the champion alone": replace(few, headers=preview),
        "rollout: a preview with windows": replace(batch, headers=preview),
    }
