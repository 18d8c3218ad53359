"""The application of the HTTP API, and the dispatcher that mounts it in front of the data plane."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops.api.browsers import DoorRules
from mlops.api.context import ApiContext
from mlops.api.methods import Methods
from mlops.api.middleware import BodyLimits, Door
from mlops.api.polled import PolledAnswers
from mlops.api.problems import add_handlers
from mlops.api.roles import check_roles, list_routes
from mlops.api.routes import (
    experiments,
    jobs,
    judging,
    models,
    monitoring,
    operations,
    pages,
    records,
    rollouts,
    service_changes,
    services,
    training,
    uploads,
)
from mlops.api.uploads import most_body_bytes
from mlops.code_version import release
from mlops.settings import Settings

ROOT = "/mlops"
PREFIX = f"{ROOT}/api"

ROUTERS: tuple[APIRouter, ...] = (
    # First, because pages poll it: a path is compared with those of each router before its own.
    monitoring.router,
    # Before the versions: a version's id stands where `deploy` does.
    rollouts.router,
    uploads.router,
    training.router,
    judging.router,
    models.router,
    operations.router,
    services.router,
    service_changes.router,
    experiments.router,
    records.router,
    jobs.router,
)


class Dispatcher:
    """Hands requests under ``/mlops`` to the API, and all others to the data plane.

    Args:
        api: The application of `build_api`.
        plane: The data plane, whose requests cost one comparison more.
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
        version=release(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.context = context
    api.state.polled = PolledAnswers(context.manager)
    add_handlers(api)
    for router in ROUTERS:
        api.include_router(router, prefix=PREFIX)
    api.include_router(pages.router)
    check_roles(api.routes)
    api.state.methods = methods = Methods(list_routes(api.routes))
    settings = context.manager.config
    api.add_middleware(
        Door,
        rules=DoorRules(settings.api_allowed_hosts),
        methods=methods,
        limits=_limit_bodies(settings),
        is_draining=context.is_draining,
    )
    return api


def _limit_bodies(settings: Settings) -> BodyLimits:
    register = (most_body_bytes(settings.register_max_mb), "REGISTER_MAX_MB")
    return BodyLimits(
        usual=int(settings.serving_max_body_mb * 1024**2),
        setting="SERVING_MAX_BODY_MB",
        by_path={f"{PREFIX}/models/register": register},
    )
