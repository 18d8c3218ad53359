"""Checks of schemathesis beside its own; `tests.fuzz.http_api` names this module to it."""

from __future__ import annotations

import schemathesis


@schemathesis.check
def retry_after_is_told(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A 503 says when to come again."""
    if response.status_code == 503:
        assert response.headers.get("retry-after"), "a 503 without Retry-After"


@schemathesis.check
def problems_are_told(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Every answer of 400 or more is a problem."""
    if response.status_code >= 400:
        (media_type,) = response.headers["content-type"]
        assert media_type == "application/problem+json", media_type
