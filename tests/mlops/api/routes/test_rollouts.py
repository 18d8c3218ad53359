"""Versions taken live over HTTP, and rollouts listed and undone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from mlops.store import get_route
from tests.mlops.api.conftest import Client, Library, World, made_world
from tests.replicas import acknowledging


def deploy(
    world: World, query: str = "", headers: dict[str, str] | None = None, **body: object
) -> httpx.Response:
    values = {"model_id": world.challenger, "deployment_strategy": "blue_green"} | body
    return world.client.post(f"models/deploy{query}", json=values, headers=headers)


def test_a_deployment_is_accepted_listed_and_undone(own_world: World) -> None:
    world, client = own_world, own_world.client
    answer = deploy(world)
    assert answer.status_code == 202
    document = answer.json()
    assert document["success"] is None
    assert document["status"] == "pending"
    assert document["from_model_id"] == world.champion
    assert answer.headers["location"] == f"/mlops/api/rollouts/{document['rollout_id']}"

    listed = client.get("rollouts", params={"service": world.service}).json()
    assert [row["rollout_id"] for row in listed["rollouts"]] == [document["rollout_id"]]
    assert listed["next"] is None
    aborted = client.post(f"rollouts/{document['rollout_id']}/abort", json={"reason": "too soon"})
    assert aborted.status_code == 202
    assert aborted.json()["abort_requested"] == "local: too soon"
    history = client.get(f"rollouts/{document['rollout_id']}").json()
    assert history["rollout"]["requested_by"] == "local"
    assert history["events"][0]["to_status"] == "pending"


def test_a_repeated_request_makes_one_rollout(own_world: World) -> None:
    key = {"idempotency-key": "first"}
    first, second = deploy(own_world, headers=key), deploy(own_world, headers=key)
    assert first.json()["rollout_id"] == second.json()["rollout_id"]
    other = deploy(own_world, headers=key, reason="another body")
    assert other.status_code == 422
    assert other.json()["type"] == "/mlops/problems/key-reused"
    assert deploy(own_world, headers={"idempotency-key": "k" * 129}).status_code == 422
    assert len(own_world.manager.rollouts()) == 1


def test_a_second_deployment_is_a_conflict(own_world: World) -> None:
    deploy(own_world)
    answer = deploy(own_world)
    assert answer.status_code == 409
    assert answer.json()["type"] == "/mlops/problems/conflict"


def test_the_champion_is_live_already(world: World) -> None:
    answer = deploy(world, model_id=world.champion)
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    assert answer.json()["rollout_id"] is None


def test_a_version_that_its_gates_refused_is_a_conflict_with_each_gate(own_world: World) -> None:
    answer = deploy(own_world, model_id=own_world.refused)
    assert answer.status_code == 409
    assert answer.json()["errors"] == [{"pointer": "/model_id", "detail": "G2 skill: noise"}]
    assert (
        "a person and a reason"
        in deploy(own_world, model_id=own_world.refused, force=True).json()["detail"]
    )
    forced = deploy(own_world, model_id=own_world.refused, force=True, reason="an exercise")
    assert forced.status_code == 202


def test_a_held_answer_says_when_the_version_is_live(library_once: Library, tmp_path: Path) -> None:
    quick = {"rollout_dwell_seconds": 0, "rollout_bake_seconds": 0}
    key = {"idempotency-key": "first"}
    with made_world(library_once, tmp_path, **quick) as world, acknowledging(world.store):
        early = deploy(world, "?wait=0.01", headers=key)
        assert (early.status_code, early.json()["success"]) == (202, None)
        asyncio.run(world.manager.follow_rollout(early.json()["rollout_id"]))
        answer = deploy(world, "?wait=60", headers=key)
        assert (answer.status_code, answer.json()["success"]) == (200, True)
        route = get_route(world.store, world.service)
        assert route is not None
        assert route.champion == world.challenger


def test_pages_of_rollouts_join(own_world: World) -> None:
    world, client = own_world, own_world.client
    for _ in range(3):
        made = deploy(world).json()["rollout_id"]
        world.manager.request_abort(made, actor="anna", reason="")
        world.end_rollouts()
    first = client.get("rollouts?limit=2").json()
    second = client.get("rollouts", params={"limit": 2, "cursor": first["next"]}).json()
    ids = [row["rollout_id"] for row in first["rollouts"] + second["rollouts"]]
    assert ids == [row.id for row in world.manager.rollouts()]
    assert second["next"] is None


def test_unknown_ids_are_not_found(client: Client) -> None:
    assert client.get("rollouts/rollout-1").status_code == 404
    assert client.post("rollouts/rollout-1/abort").status_code == 404
    assert client.post("models/deploy", json={"model_id": "none"}).status_code == 404
    assert client.get("rollouts?service=none").json() == {"rollouts": [], "next": None}
