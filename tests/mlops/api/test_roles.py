"""Every route has a role, and a body may ask for more than its route."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI

from mlops.api.roles import ROLES, Role, check_roles, list_routes, role_of
from mlops.errors import SettingsError
from tests.mlops.api.conftest import Client


def test_the_table_and_the_routes_are_the_same(client: Client) -> None:
    assert set(list_routes(client.app.routes)) == set(ROLES)


def test_an_application_with_a_route_without_a_role_does_not_start() -> None:
    router = APIRouter()
    router.add_api_route("/secret", lambda: None)
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    api.include_router(router, prefix="/mlops/api")
    with pytest.raises(SettingsError, match="GET /mlops/api/secret"):
        check_roles(api.routes)


@pytest.mark.parametrize(
    ("path", "body", "role"),
    [
        ("deploy", {"model_id": "x"}, Role.DEPLOYER),
        ("deploy", {"model_id": "x", "force": True}, Role.ADMIN),
        ("deploy", {"model_id": "x", "force": False}, Role.DEPLOYER),
        ("train", {"model_type": "lstm"}, Role.TRAINER),
        ("train", {"deployment_config": {"auto_deploy": True}}, Role.DEPLOYER),
        ("train", {"deployment_config": {"ab_test": {"traffic_split": 0.5}}}, Role.DEPLOYER),
        ("train", {"training": {"leak_override": "a reason"}}, Role.ADMIN),
    ],
)
def test_the_strongest_field_says_who_may_ask(path: str, body: object, role: Role) -> None:
    assert role_of("POST", f"/mlops/api/models/{path}", body) is role
