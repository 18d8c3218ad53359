"""The application of the HTTP API, and the dispatcher that mounts it in front of the data plane."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops.api.context import ApiContext
from mlops.api.problems import add_handlers
from mlops.api.roles import check_roles
from mlops.api.routes import models

ROOT = "/mlops"
PREFIX = f"{ROOT}/api"

ROUTERS: tuple[APIRouter, ...] = (models.router,)


class Dispatcher:
    """Hands requests under ``/mlops`` to the API, and all others to the data plane.

    Args:
        api: The application of `build_api`.
        plane: The data plane, which a request costs no more than a comparison.
    """

    def __init__(self, api: ASGIApp, plane: ASGIApp) -> None:
        self.api = api
        self.plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/mlops/") or path == ROOT:
            await self.api(scope, receive, send)
        else:
            await self.plane(scope, receive, send)


def build_api(context: ApiContext) -> FastAPI:
    """The API of one process.

    Raises:
        SettingsError: when a route has no role.
    """
    api = FastAPI(
        title="MLOps platform",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.context = context
    add_handlers(api)
    for router in ROUTERS:
        api.include_router(router, prefix=PREFIX)
    check_roles(api.routes)
    return api
