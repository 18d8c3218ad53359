"""A/B tests over HTTP: planned, started, looked at, extended, stopped, listed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.mlops.api.conftest import Client, World


def body_of(world: World, **changes: object) -> dict[str, Any]:
    """The body of the platform README, of two real versions."""
    return {
        "model_a_id": world.champion,
        "model_b_id": world.challenger,
        "test_name": "LSTM vs Transformer",
        "traffic_split": 0.5,
        "duration_hours": 48,
        **changes,
    }


def test_a_test_lives_from_plan_to_stop(own_world: World) -> None:
    world, client = own_world, own_world.client
    asked = body_of(world)
    plan = client.post("experiments/ab-test/plan", json=asked | {"test_name": "x"})
    assert plan.status_code == 422
    plan = client.post(
        "experiments/ab-test/plan",
        json={name: asked[name] for name in ("model_a_id", "model_b_id", "duration_hours")},
    )
    assert plan.status_code == 200
    assert plan.json()["pairs"] == 24

    begun = client.post("experiments/ab-test", json=asked)
    assert begun.status_code == 201
    document = begun.json()
    path = f"experiments/{document['experiment_id']}"
    assert begun.headers["location"] == f"/mlops/api/{path}"
    assert document["champion"] == "model_a"
    assert document["status"] == "collecting"
    assert document["plan"]["can_decide"] is False
    assert "on_short_plan=extend" in document["warnings"][0]

    evaluation = client.post(f"{path}/evaluate").json()
    assert evaluation["verdict"] is None
    assert (evaluation["pairs"], evaluation["pairs_needed"]) == (0, 3360)
    assert evaluation["pairs_missing"] == 3360
    assert evaluation["p_value"] is None
    assert evaluation["requests"] == {"a": 0, "b": 0}
    longer = client.post(f"{path}/extend", json={"hours": 24}).json()
    assert _hours_between(document["until_bar"], longer["until_bar"]) == 24
    stopped = client.post(f"{path}/stop", json={"reason": "a wrong recipe"}).json()
    assert (stopped["status"], stopped["verdict"]) == ("concluded", "stopped")
    assert client.get(path).json() == stopped
    assert client.get("experiments").json() == {"experiments": [stopped], "next": None}
    assert client.get(f"{path}/looks").json()["looks"] == []
    assert client.post(f"{path}/stop").status_code == 409


def _hours_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds() / 3600


def test_a_repeated_request_begins_one_test(own_world: World) -> None:
    client, key = own_world.client, {"idempotency-key": "weekly"}
    first = client.post("experiments/ab-test", json=body_of(own_world), headers=key)
    again = client.post("experiments/ab-test", json=body_of(own_world), headers=key)
    assert first.json()["experiment_id"] == again.json()["experiment_id"]
    other = client.post(
        "experiments/ab-test", json=body_of(own_world, duration_hours=72), headers=key
    )
    assert (other.status_code, other.json()["type"]) == (422, "/mlops/problems/key-reused")


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"duration_hours": 12}, 422, "AB_TEST_MIN_DURATION_HOURS=24"),
        ({"traffic_split": 0.99}, 422, "0 to 95%"),
        ({"traffic_split": 1.01}, 422, "/traffic_split"),
        ({"model_b_id": "none"}, 404, "none"),
        ({"on_short_plan": "refuse"}, 409, "on_short_plan"),
    ],
)
def test_a_test_that_cannot_be_is_refused(
    world: World, changes: dict[str, object], status: int, words: str
) -> None:
    answer = world.client.post("experiments/ab-test", json=body_of(world, **changes))
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_two_versions_of_which_none_is_live_are_a_conflict(world: World) -> None:
    answer = world.client.post(
        "experiments/ab-test", json=body_of(world, model_a_id=world.baseline)
    )
    assert answer.status_code == 409
    assert "is live" in answer.json()["detail"]


def test_an_unknown_test_is_not_found(client: Client) -> None:
    for call in ("evaluate", "stop"):
        assert client.post(f"experiments/ab-none/{call}").status_code == 404
    assert client.post("experiments/ab-none/extend", json={"hours": 1}).status_code == 404
    for path in ("experiments/ab-none", "experiments/ab-none/looks"):
        assert client.get(path).status_code == 404
