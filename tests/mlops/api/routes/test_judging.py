"""A version from elsewhere is judged over HTTP, and the answer says on whose word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.api.app import build_api
from mlops.api.context import ApiContext
from mlops.store import ModelVersion
from tests.mlops.api.conftest import Client
from tests.mlops.api.in_process import InProcess
from tests.mlops.training.outside import OutsideWorld, outside_world
from tests.project import skip_verification


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[OutsideWorld]:
    with (
        pytest.MonkeyPatch.context() as patch,
        outside_world(tmp_path_factory.mktemp("judging"), mlflow_template) as opened,
    ):
        skip_verification(patch)
        opened.begin(opened.service("volatility", 24))
        yield opened


@pytest.fixture(scope="module")
def client(world: OutsideWorld) -> Iterator[Client]:
    """An API whose children are threads."""
    context = ApiContext(world.manager, children=InProcess())
    opened = Client(build_api(context))
    yield opened
    context.close()
    opened.close()


@pytest.fixture(scope="module")
def claimed(world: OutsideWorld) -> ModelVersion:
    service = world.service("volatility", 24)
    return world.register(world.honest(service), service)


@pytest.fixture(scope="module")
def answer(world: OutsideWorld, client: Client, claimed: ModelVersion) -> Any:
    body = {"trained_until": world.until.isoformat(), "reason": "a try"}
    reply = client.post(f"models/{claimed.model_id}/judge", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_verdict_names_word_bars_and_every_gate(
    world: OutsideWorld, claimed: ModelVersion, answer: Any
) -> None:
    assert (answer["model_id"], answer["status"]) == (claimed.model_id, "challenger")
    assert (answer["evidence"], answer["needs_person"]) == ("word", True)
    assert answer["trained_until"] == world.until.isoformat().replace("+00:00", "Z")
    assert answer["bars"]["count"] > 500
    assert answer["place"] == answer["compared"] == 1
    assert {gate["name"] for gate in answer["gates"]} > {"G0", "G1", "G2", "G3", "G4", "G5"}
    [alarm] = [gate for gate in answer["gates"] if gate["title"] == "leak alarm"]
    assert alarm["value"] is None


def test_the_author_is_the_requests_own(
    world: OutsideWorld, claimed: ModelVersion, answer: Any
) -> None:
    [entry] = [e for e in world.manager.explain(claimed.model_id).history if e.action == "judge"]
    assert (entry.actor, entry.reason) == ("local", "a try")


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, "0 forecasts with an outcome on record"),
        ({"trained_until": "2199-01-01T00:00:00Z"}, 422, "lies in the future"),
        ({"trained_until": "2024-01-01T00:00:00"}, 422, None),
        ({"bars": []}, 422, None),
    ],
)
def test_what_cannot_be_judged_is_a_problem_that_says_why(
    world: OutsideWorld, client: Client, body: Any, status: int, detail: str | None
) -> None:
    service = world.service("volatility", 24)
    version = world.register(world.honest(service), service)
    reply = client.post(f"models/{version.model_id}/judge", json=body)
    assert reply.status_code == status, reply.text
    assert detail is None or detail in reply.json()["detail"]


def test_an_unknown_version_is_not_found(client: Client) -> None:
    assert client.post("models/nobody/judge", json={}).status_code == 404


def test_who_does_not_want_to_wait_gets_an_operation(
    world: OutsideWorld, client: Client, claimed: ModelVersion, answer: Any
) -> None:
    reply = client.post(
        f"models/{claimed.model_id}/judge",
        json={"trained_until": answer["trained_until"]},
        headers={"Prefer": "respond-async"},
    )
    assert reply.status_code == 202
    operation = client.get(reply.headers["location"])
    assert operation.json()["kind"] == "judge"
