"""Who may call which route: a table, which is complete or the API does not start.

Identities come later; today every caller is a user of this machine and may do all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from mlops.errors import SettingsError


class Role(StrEnum):
    """A role; each later one may do what the earlier ones may."""

    VIEWER = "viewer"
    TRAINER = "trainer"
    DEPLOYER = "deployer"
    ADMIN = "admin"


V, T, D, A = Role.VIEWER, Role.TRAINER, Role.DEPLOYER, Role.ADMIN

_BY_ROUTE: dict[str, Role] = {
    "POST /models/register": T,
    "POST /models/{model_id}/judge": T,
    "POST /models/deploy": D,
    "POST /models/train": T,
    "GET /models": V,
    "GET /models/{model_id}": V,
    "GET /models/{model_id}/explain": V,
    "GET /models/{model_id}/trace": V,
    "GET /models/{model_id}/performance": V,
    "GET /models/{model_id}/file": T,
    "POST /monitoring/drift": V,
    "POST /monitoring/start-continuous": T,
    "POST /monitoring/stop-continuous": T,
    "GET /monitoring/continuous": V,
    "GET /monitoring/dashboard": V,
    "GET /monitoring/live": V,
    "POST /experiments/ab-test": D,
    "POST /experiments/ab-test/plan": V,
    "POST /experiments/{experiment_id}/evaluate": D,
    "POST /experiments/{experiment_id}/stop": D,
    "POST /experiments/{experiment_id}/extend": D,
    "GET /experiments": V,
    "GET /experiments/{experiment_id}": V,
    "GET /experiments/{experiment_id}/looks": V,
    "GET /services": V,
    "GET /services/{service}": V,
    "GET /services/{service}/history": V,
    "GET /services/{service}/forecasts": V,
    "GET /services/{service}/live": V,
    "POST /services/{service}/rollback": D,
    "POST /services/{service}/retire": A,
    "POST /services/{service}/restore": A,
    "GET /rollouts": V,
    "GET /rollouts/{rollout_id}": V,
    "POST /rollouts/{rollout_id}/abort": D,
    "GET /alerts": V,
    "GET /checks": V,
    "GET /triggers": V,
    "GET /operations/{operation_id}": V,
    "GET /jobs": V,
    "POST /jobs": T,
    "GET /jobs/{job_id}": V,
    "DELETE /jobs/{job_id}": T,
    "POST /jobs/{job_id}/pause": T,
    "POST /jobs/{job_id}/resume": T,
    "POST /jobs/{job_id}/run": T,
    "GET /openapi.json": V,
    "GET /docs": V,
    "GET /docs/{name}": V,
}


def _complete_paths() -> Iterator[tuple[tuple[str, str], Role]]:
    for route, role in _BY_ROUTE.items():
        method, path = route.split(" ")
        yield (method, f"/mlops/api{path}"), role


ROLES: dict[tuple[str, str], Role] = {
    **dict(_complete_paths()),
    ("GET", "/mlops/problems/{slug}"): Role.VIEWER,
}
"""Role by method and path template."""

STRONGER_FIELDS: dict[str, Role] = {
    "auto_deploy": D,
    "ab_test": D,
    "force": A,
    "leak_override": A,
}
"""Fields of a body that ask for more than the route does: where one of them is set, the caller
needs this role. ``auto_deploy`` and ``ab_test`` of a job are checked again, for its owner, when it
fires."""


def role_of(method: str, template: str, body: object = None) -> Role:
    """The role that a request needs: the route's, or that of the strongest field it sets.

    Args:
        template: The path with its parameters in braces.
        body: The JSON of the request.
    """
    roles = [ROLES[method, template], *_roles_of_fields(body)]
    return max(roles, key=list(Role).index)


def list_routes(routes: Sequence[BaseRoute]) -> list[tuple[str, str]]:
    """Method and path template of every route of an application, those of its routers included."""
    return [
        (method, str(route.path))
        for route in iter_route_contexts(routes)
        for method in sorted(route.methods or ())
    ]


def check_roles(routes: Sequence[BaseRoute]) -> None:
    """Refuse an application with a route that has no role.

    Raises:
        SettingsError: naming the routes.
    """
    missing = [f"{method} {path}" for method, path in list_routes(routes)
               if (method, path) not in ROLES]  # fmt: skip
    if missing:
        raise SettingsError(
            f"no role may call {', '.join(missing)}; give each route its role in mlops/api/roles.py"
        )


def _roles_of_fields(value: object) -> list[Role]:
    if isinstance(value, dict):
        own = [role for name, role in STRONGER_FIELDS.items() if value.get(name)]
        return own + [role for part in value.values() for role in _roles_of_fields(part)]
    return []
