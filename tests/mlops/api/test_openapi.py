"""The OpenAPI document, the page that draws it, and the files of others that it needs."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

from mlops.api.roles import ROLES
from tests.mlops.api.conftest import Client

VENDOR = Path(str(files("mlops.api"))) / "page" / "vendor"
PAGES = {"/mlops/api/openapi.json", "/mlops/api/docs", "/mlops/api/docs/{name}",
         "/mlops/problems/{slug}"}  # fmt: skip


def test_the_document_lists_every_route_with_its_problems(client: Client) -> None:
    document = client.get("openapi.json").json()
    assert document["openapi"].startswith("3.1")
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert listed == {route for route in ROLES if route[1] not in PAGES}
    for operations in document["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            assert {"400", "403", "413", "500", "503"} <= set(answers)
            problem = answers["500"]["content"]["application/problem+json"]["schema"]
            assert problem == {"$ref": "#/components/schemas/Problem"}
    assert "HTTPValidationError" not in json.dumps(document)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert "security" not in document


def test_a_generated_client_gets_plain_names_each_once(client: Client) -> None:
    document = client.get("openapi.json").json()
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert sorted(set(names)) == sorted(names)
    # Two classes of one name would get the paths of their modules, which generators refuse.
    assert [name for name in (*names, *document["components"]["schemas"]) if "__" in name] == []


def test_the_page_loads_only_what_is_here(client: Client) -> None:
    page = client.get("docs")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    for address in loaded:
        assert "//" not in address
        assert client.get(f"/mlops/api/{address}").status_code == 200
    assert client.get("docs/none.js").status_code == 404


def test_the_files_of_others_are_those_of_the_list() -> None:
    listed = json.loads((VENDOR / "vendor.json").read_text())
    wanted = {
        name: digest for package in listed["packages"] for name, digest in package["files"].items()
    }
    there = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.iterdir()
        if file.name != "vendor.json"
    }
    assert there == wanted
    assert all(package["licence"] and package["version"] for package in listed["packages"])
