"""Versions over HTTP."""

from __future__ import annotations

from tests.mlops.api.conftest import Client, World


def test_a_version_is_told_with_its_report(world: World, client: Client) -> None:
    answer = client.get(f"models/{world.refused}")
    assert answer.status_code == 200
    document = answer.json()
    assert document["model_id"] == world.refused
    assert document["status"] == "refused"
    assert document["report"]["results"][0]["reason"] == "noise"
    assert document["created_at"].endswith("Z")


def test_an_unknown_version_is_a_problem_that_says_which_there_are(
    world: World, client: Client
) -> None:
    answer = client.get("models/lstm_BTC_1")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/mlops/problems/not-found"
    assert problem["instance"] == "/mlops/api/models/lstm_BTC_1"
    assert world.refused in problem["detail"]
