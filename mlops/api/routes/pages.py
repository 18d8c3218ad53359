"""The pages of the API: its document, the page that draws it, and one page a kind of problem."""

from __future__ import annotations

import html
from importlib.resources import files
from string import Template
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from mlops.api.openapi import build_document
from mlops.api.problems import KINDS, Problem

router = APIRouter(include_in_schema=False)

PAGE = files("mlops.api") / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Swagger UI sets style attributes, which need 'unsafe-inline' of styles."""

FILES = {
    "docs.js": (PAGE / "docs.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (PAGE / "vendor" / "swagger-ui.css", "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": (
        PAGE / "vendor" / "swagger-ui-bundle.js",
        "text/javascript; charset=utf-8",
    ),
}


@router.get("/mlops/api/openapi.json")
def get_document(request: Request) -> dict[str, Any]:
    """The OpenAPI 3.1 document, with answers that were really given as examples."""
    return build_document(request.app)


@router.get("/mlops/api/docs")
def get_docs() -> Response:
    """All paths, drawn from the document by Swagger UI; nothing is loaded from elsewhere."""
    return _send_page((PAGE / "docs.html").read_text(encoding="utf-8"))


@router.get("/mlops/api/docs/{name}")
def get_docs_file(name: Annotated[str, Path(max_length=100)]) -> Response:
    """A script or a style sheet of the page."""
    if name not in FILES:
        raise Problem("not-found", f"the page has no such file; it has {', '.join(FILES)}")
    file, media_type = FILES[name]
    headers = {"cache-control": "max-age=3600"}
    return Response(file.read_bytes(), headers=headers, media_type=media_type)


@router.get("/mlops/problems/{slug}")
def get_problem_page(slug: Annotated[str, Path(max_length=100)]) -> Response:
    """What to do about a kind of problem."""
    kind = KINDS.get(slug)
    if kind is None:
        raise Problem("not-found", f"no kind of problem is so called; there are {', '.join(KINDS)}")
    page = Template((PAGE / "problem.html").read_text(encoding="utf-8"))
    words = {"title": kind.title, "status": kind.status, "slug": slug, "advice": kind.advice}
    return _send_page(page.substitute({key: html.escape(str(text)) for key, text in words.items()}))


def _send_page(text: str) -> Response:
    return Response(
        text, headers={"content-security-policy": POLICY}, media_type="text/html; charset=utf-8"
    )
