"""Services over HTTP: who answers them, what was live, what was forecast and what came."""

from __future__ import annotations

import pytest

from mlops.api.documents import write_moment
from tests.mlops.api.conftest import FIRST_BAR, HOUR, OUTCOMES, Client, World, outcome_of
from tests.mlops.registry.conftest import AT


def test_services_are_listed_with_who_answers(world: World, client: Client) -> None:
    document = client.get("services").json()
    (service,) = document["services"]
    assert service == client.get(f"services/{world.service}").json()
    assert (service["champion"], service["baseline"]) == (world.champion, world.baseline)
    assert (service["retired_at"], document["next"]) == (None, None)


@pytest.mark.parametrize("path", ["", "/history", "/forecasts", "/live"])
def test_a_service_that_has_not_begun_is_not_found(client: Client, path: str) -> None:
    answer = client.get(f"services/sample.eth-usd.1h.volatility.24{path}")
    assert answer.status_code == 404
    assert "the newest are: " in answer.json()["detail"]


def test_the_history_says_who_made_a_version_live_and_why(world: World, client: Client) -> None:
    periods = client.get(f"services/{world.service}/history").json()["periods"]
    assert [period["champion"] for period in periods] == [world.baseline, world.champion]
    assert (periods[1]["actor"], periods[1]["reason"]) == ("anna", "it is better")


def test_what_was_live_at_a_moment_is_null_before_the_service_began(
    world: World, client: Client
) -> None:
    path = f"services/{world.service}/live"
    assert client.get(path).json()["period"]["champion"] == world.champion
    before = client.get(path, params={"at": write_moment(AT - HOUR)}).json()
    assert before == {"service": world.service, "at": write_moment(AT - HOUR), "period": None}


def test_forecasts_of_record_stand_beside_their_outcomes(world: World, client: Client) -> None:
    rows = client.get(f"services/{world.service}/forecasts").json()["forecasts"]
    assert len(rows) == OUTCOMES
    assert {row["model_id"] for row in rows} == {world.champion}
    assert rows[0]["bar"] == write_moment(FIRST_BAR)
    assert [row["outcome"] for row in rows] == [outcome_of(bar) for bar in range(OUTCOMES)]


def test_a_span_and_a_version_choose_forecasts(world: World, client: Client) -> None:
    asked = {
        "model_id": world.challenger,
        "since": write_moment(FIRST_BAR + 2 * HOUR),
        "until": write_moment(FIRST_BAR + 5 * HOUR),
        "limit": 2,
    }
    rows = client.get(f"services/{world.service}/forecasts", params=asked).json()["forecasts"]
    bars = [write_moment(FIRST_BAR + number * HOUR) for number in (3, 4)]
    assert [row["bar"] for row in rows] == bars
    assert {row["role"] for row in rows} == {"shadow"}


@pytest.mark.parametrize("query", ["limit=5001", "limit=0", "since=yesterday", "until=2025-01-01"])
def test_more_than_one_call_reads_is_refused(world: World, client: Client, query: str) -> None:
    assert client.get(f"services/{world.service}/forecasts?{query}").status_code == 422
