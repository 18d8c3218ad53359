"""The dispatcher hands the API its paths, and leaves all others to the data plane."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from mlops.api.app import Dispatcher


async def ask(path: str) -> str:
    """Who is asked for a path."""
    asked: list[str] = []

    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append("api")

    async def plane(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append("plane")

    async def nothing(*_: object) -> dict[str, object]:
        return {}

    await Dispatcher(api, plane)({"type": "http", "path": path}, nothing, nothing)  # type: ignore[arg-type]
    return asked[0]


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("/mlops/api/models", "api"),
        ("/mlops/", "api"),
        ("/mlops", "api"),
        ("/mlopsy", "plane"),
        ("/", "plane"),
        ("", "plane"),
        ("/services/mlops/forecast", "plane"),
    ],
)
def test_a_path_goes_to_whom_it_belongs(path: str, who: str) -> None:
    assert asyncio.run(ask(path)) == who
