"""A request names model A and model B in any order; the share is the challenger's behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlops.ab_testing.requests import AbTestRequest, OnShortPlan, assign_sides, parse_short_plan
from mlops.errors import AbTestMalformed, AbTestRefused
from mlops.store import Route
from tests.mlops.ab_testing.stage import CHALLENGER, CHAMPION, START, VOLATILITY
from tests.mlops.rollout.rows import make_version

ROUTE = Route(VOLATILITY.key, 3, CHAMPION, None, "baseline", START, START)
LIVE = make_version(CHAMPION, 1, service=VOLATILITY.key)
OTHER = make_version(CHALLENGER, 2, service=VOLATILITY.key)


def request(split: float = 0.5, **changes: Any) -> AbTestRequest:
    asked = AbTestRequest(model_a_id=CHAMPION, model_b_id=CHALLENGER, traffic_split=split)
    return replace(asked, **changes)


@pytest.mark.parametrize("split", [0.0, 0.2, 0.5, 0.95])
def test_the_split_is_the_share_of_model_b_whoever_is_champion(split: float) -> None:
    b_challenges = assign_sides(request(split), LIVE, OTHER, ROUTE)
    assert (b_challenges.champion_is, b_challenges.split_bp) == ("a", round(split * 10_000))
    a_challenges = assign_sides(request(1.0 - split), OTHER, LIVE, ROUTE)
    assert (a_challenges.champion_is, a_challenges.split_bp) == ("b", round(split * 10_000))
    for sides in (b_challenges, a_challenges):
        assert (sides.champion, sides.challenger) == (LIVE, OTHER)


@pytest.mark.parametrize(("first", "second", "split"), [(LIVE, OTHER, 0.96), (OTHER, LIVE, 0.04)])
def test_a_challenger_gets_at_most_95_percent(first: Any, second: Any, split: float) -> None:
    with pytest.raises(AbTestMalformed, match="96% of the requests; 0 to 95%"):
        assign_sides(request(split), first, second, ROUTE)


def test_one_of_the_two_must_be_live() -> None:
    elsewhere = replace(ROUTE, champion="another")
    with pytest.raises(AbTestRefused, match=r"deploy one first.*manager\.compare"):
        assign_sides(request(), LIVE, OTHER, elsewhere)
    with pytest.raises(AbTestRefused, match="nothing is"):
        assign_sides(request(), LIVE, OTHER, None)


def test_both_must_be_of_one_service() -> None:
    stranger = replace(OTHER, service="sample.eth-usd.1h.volatility.1")
    with pytest.raises(AbTestMalformed, match="two versions of one service"):
        assign_sides(request(), LIVE, stranger, ROUTE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_b_id": CHAMPION}, "both champion"),
        ({"traffic_split": 1.5}, "traffic_split=1.5"),
        ({"traffic_split": float("nan")}, "traffic_split=nan"),
        ({"duration_hours": 0.0}, "duration_hours=0.0"),
        ({"duration_hours": float("inf")}, "duration_hours=inf"),
        ({"name": "x" * 201}, "test_name has 201"),
        ({"request_key": "x" * 201}, "request_key has 201"),
    ],
)
def test_what_can_never_be_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AbTestMalformed, match=message):
        request(**change).check()


def test_a_short_plan_is_accepted_refused_or_extended_by_name() -> None:
    assert parse_short_plan("extend") is OnShortPlan.EXTEND
    with pytest.raises(AbTestMalformed, match="accept, refuse, extend"):
        parse_short_plan("stretch")
