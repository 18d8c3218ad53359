"""Keys are dealt evenly, the same everywhere, and never back when a share rises."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from scipy import stats

from mlops.rollout.routing import (
    ask_order,
    deal,
    goes_to_challenger,
    may_drop,
    next_to_load,
    takes_part,
    wanted,
)
from mlops.store import Route

from .rows import NOW

ROUTE = Route(
    "s", 1, "champion", "previous", "baseline", NOW, NOW, challenger="challenger", salt="one"
)
KEYS = [f"session-{number}" for number in range(100_000)]
DIGEST = "770072f528622c9a69b1385ac525de776c6202076d10de78e655401a4ecedec9"
"""SHA-256 of the places of these keys by the salt of `ROUTE`."""


@pytest.fixture(scope="module")
def drawn() -> list[int]:
    return [deal("one", key) for key in KEYS]


@pytest.mark.parametrize("weight", [100, 1000, 2500, 5000, 9000])
def test_the_share_that_is_realised_is_the_one_that_was_given(
    drawn: list[int], weight: int
) -> None:
    route = replace(ROUTE, weight_bp=weight)
    hits = sum(goes_to_challenger(route, "r0", one, valid=True) for one in drawn)
    low, high = stats.binom.interval(0.999, len(drawn), weight / 10_000)
    assert low <= hits <= high


@pytest.mark.parametrize("split", [100, 500, 2000, 5000, 9500])
def test_of_100_000_keys_the_challenger_has_the_split_of_its_test_within_half_a_point(
    drawn: list[int], split: int
) -> None:
    route = replace(ROUTE, weight_bp=split)
    hits = sum(goes_to_challenger(route, "r0", place, valid=True) for place in drawn)
    assert abs(hits / len(drawn) - split / 10_000) <= 0.005


def test_a_key_has_the_same_arm_in_every_replica_and_in_a_process_that_starts_later(
    drawn: list[int],
) -> None:
    """The digest is that of another process; Python's own hash differs in each of them."""
    assert hashlib.sha256(repr(drawn).encode()).hexdigest() == DIGEST
    route = replace(ROUTE, weight_bp=5000)
    first, second = (
        [goes_to_challenger(route, name, place, valid=True) for place in drawn]
        for name in ("r0", "r1")
    )
    assert first == second


def test_a_rising_share_moves_no_key_back(drawn: list[int]) -> None:
    before: set[int] = set()
    for weight in (0, 1, 1000, 2500, 5000, 9999, 10_000):
        route = replace(ROUTE, weight_bp=weight)
        now = {i for i, at in enumerate(drawn) if goes_to_challenger(route, "r0", at, valid=True)}
        assert before <= now
        before = now
    assert len(before) == len(KEYS)


def test_keys_fall_evenly(drawn: list[int]) -> None:
    counts = [0] * 100
    for one in drawn:
        counts[one // 100] += 1
    assert stats.chisquare(counts).pvalue > 0.001


def test_each_rollout_deals_independently(drawn: list[int]) -> None:
    again = [deal("another", key) for key in KEYS]
    both = sum(a < 1000 and b < 1000 for a, b in zip(drawn, again, strict=True))
    low, high = stats.binom.interval(0.999, len(KEYS), 0.01)
    assert low <= both <= high


def test_dealing_is_the_same_in_every_release() -> None:
    """A replica of the release before must deal alike while both run."""
    assert [deal("one", key) for key in ("a", "b", "ü")] == [5636, 4504, 428]


def test_a_share_that_nobody_renews_is_nobodys() -> None:
    route = replace(ROUTE, weight_bp=10_000)
    assert goes_to_challenger(route, "r0", 0, valid=True)
    assert not goes_to_challenger(route, "r0", 0, valid=False)


def test_who_takes_part_holds_the_challenger() -> None:
    rolling = replace(ROUTE, only_replicas=("r0",), weight_bp=10_000)
    assert takes_part(ROUTE, "r1")
    assert takes_part(rolling, "r0")
    assert not takes_part(rolling, "r1")
    assert not takes_part(replace(ROUTE, challenger=None), "r0")
    assert wanted(rolling, "r0") == ("baseline", "champion", "previous", "challenger")
    assert wanted(rolling, "r1") == ("baseline", "champion", "previous")
    assert not goes_to_challenger(rolling, "r1", 0, valid=True)


@pytest.mark.parametrize(
    ("ready", "first", "order"),
    [
        ("all", False, ("champion", "previous", "baseline")),
        ("all", True, ("challenger", "champion", "previous", "baseline")),
        ({"champion", "baseline"}, True, ("champion", "baseline")),
        ({"previous"}, False, ("previous",)),
        ({"challenger", "baseline"}, False, ("baseline",)),
        (set(), True, ()),
    ],
)
def test_only_what_is_ready_here_is_asked(
    ready: object, first: bool, order: tuple[str, ...]
) -> None:
    here = set(wanted(ROUTE, "r0")) if ready == "all" else ready
    assert ask_order(ROUTE, here, challenger_first=first) == order  # type: ignore[arg-type]


def test_nobody_is_asked_twice() -> None:
    begun = Route("s", 1, "baseline", None, "baseline", NOW, NOW)
    assert ask_order(begun, {"baseline"}, challenger_first=True) == ("baseline",)


@pytest.mark.parametrize(
    ("states", "model_id"),
    [
        ({}, "baseline"),
        ({"baseline": "ready"}, "champion"),
        ({"baseline": "failed"}, "champion"),
        ({"baseline": "ready", "champion": "ready"}, "previous"),
        ({"baseline": "ready", "champion": "ready", "previous": "failed"}, "challenger"),
        ({"baseline": "ready", "champion": "failed", "previous": "ready"}, None),
        ({"baseline": "ready", "champion": "loading", "previous": "ready"}, None),
        (dict.fromkeys(("baseline", "champion", "previous", "challenger"), "ready"), None),
    ],
)
def test_the_challenger_is_loaded_last_and_only_beside_its_champion(
    states: dict[str, str], model_id: str | None
) -> None:
    assert next_to_load(ROUTE, "r0", states) == model_id


@pytest.mark.parametrize(
    ("model_id", "champion", "allowed"),
    [
        ("champion", "ready", False),
        ("previous", "ready", False),
        ("baseline", "ready", False),
        ("challenger", "ready", False),
        ("older", "ready", True),
        ("older", "loading", False),
        ("older", "failed", False),
        ("broken", "loading", True),
    ],
)
def test_what_nobody_wants_goes_once_the_champion_answers(
    model_id: str, champion: str, allowed: bool
) -> None:
    states = {"champion": champion, "older": "ready", "broken": "failed"}
    assert may_drop(ROUTE, "r0", model_id, states) is allowed
