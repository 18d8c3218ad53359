"""Versions over HTTP."""

from __future__ import annotations

import pytest

from mlops.api.documents import write_moment
from tests.mlops.api.conftest import FIRST_BAR, HOUR, OUTCOMES, Client, World


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


def test_versions_are_listed_by_pages_without_reports(world: World, client: Client) -> None:
    first = client.get("models?limit=2").json()
    second = client.get(f"models?limit=2&cursor={first['next']}").json()
    listed = [row["model_id"] for row in (*first["models"], *second["models"])]
    assert sorted(listed) == sorted(
        [world.baseline, world.champion, world.challenger, world.refused]
    )
    assert second["next"] is None
    assert set(first["models"][0]) == {
        "model_id", "service", "model_type", "symbol", "status", "version", "metrics",
        "claims_only", "trained_until", "created_at",
    }  # fmt: skip


def test_the_platforms_filters_find_versions(world: World, client: Client) -> None:
    symbol = world.manager.get_model(world.champion).symbol
    found = client.get(f"models?model_type=linear&symbol={symbol}&status=deployed").json()
    assert [row["model_id"] for row in found["models"]] == [world.champion]
    assert client.get("models?symbol=NONE/USD").json() == {"models": [], "next": None}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=live", "deployed"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=AAAA", "cursor"),
        ("symbol=a%2F%2Fb", "symbol"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_with_what_is_allowed(
    client: Client, query: str, named: str
) -> None:
    answer = client.get(f"models?{query}")
    assert answer.status_code == 422
    assert named in answer.json()["detail"]


def test_a_version_is_explained_with_its_history(world: World, client: Client) -> None:
    document = client.get(f"models/{world.champion}/explain").json()
    assert document["status"] == "deployed"
    assert "no gate judged it" in document["verdict"]
    assert document["history"][0]["action"] == "register"
    assert document["history"][0]["at"].endswith("Z")
    assert client.get("models/nobody/explain").status_code == 404


def test_a_version_that_nobody_rolled_out_has_no_rollout_in_its_trace(
    world: World, client: Client
) -> None:
    document = client.get(f"models/{world.challenger}/trace").json()
    assert document["model_id"] == world.challenger
    assert (document["looks"], document["triggers"], document["rollout"]) == ([], [], None)


def test_live_figures_are_those_of_the_known_outcomes(world: World, client: Client) -> None:
    at = write_moment(FIRST_BAR + (OUTCOMES + 24) * HOUR)
    answer = client.get(f"models/{world.champion}/performance", params={"at": at})
    assert answer.status_code == 200
    document = answer.json()
    figures = {row["name"]: row for row in document["measures"]}
    assert document["n"] == 24
    assert figures["mse"]["value"] == pytest.approx(0.01)
    assert document["since"].endswith("Z")
    assert document["completeness"]["counts"]["known"] == 24
