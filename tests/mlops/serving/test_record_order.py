"""Whose forecast of a bar goes on record: the champion's while any replica may still make it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from mlops.serving.record_order import longest_wait_s, order_for_record
from mlops.store import Route

CHAMPION, PREVIOUS, BASELINE = "champion", "previous", "baseline"
AT = datetime(2025, 1, 1, tzinfo=UTC)
ROUTE = Route("svc", 3, CHAMPION, PREVIOUS, BASELINE, AT, AT)
NEXT = (PREVIOUS, BASELINE)
WAIT: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("champion_states", "waited_s", "expected"),
    [
        ({"r1": "ready"}, 0.0, (CHAMPION, *NEXT)),
        ({"r1": "fetching"}, 0.0, WAIT),
        ({"r1": "loading"}, 179.0, WAIT),
        ({"r1": "warming"}, 180.0, NEXT),
        ({"r1": "failed"}, 0.0, WAIT),
        ({"r1": "failed"}, 19.0, WAIT),
        ({"r1": "failed"}, 20.0, NEXT),
        ({"r1": "failed", "r2": "ready"}, 20.0, WAIT),
        ({"r1": "failed", "r2": "loading", "r3": "ready"}, 179.0, WAIT),
        ({"r1": "failed", "r2": "ready"}, 180.0, NEXT),
        ({"r1": "failed", "r2": "draining"}, 20.0, NEXT),
        ({"r1": "ready", "r2": "failed"}, 0.0, (CHAMPION, *NEXT)),
    ],
)
def test_a_replica_without_the_champion_waits_for_one_that_may_have_it(
    champion_states: Mapping[str, str], waited_s: float, expected: tuple[str, ...]
) -> None:
    """The replica that decides is r1; an hourly bar waits up to 180 s."""
    ready = {*NEXT} | ({CHAMPION} if champion_states["r1"] == "ready" else set())
    decided = order_for_record(
        ROUTE, ready, champion_states, waited_s=waited_s, longest_s=longest_wait_s(3600.0, 7200.0)
    )
    assert decided.versions == expected
    assert bool(decided.waits_for) == (expected == WAIT)


def test_the_reason_names_the_replicas() -> None:
    states = {"r1": "failed", "r2": "ready", "r3": "warming"}
    decided = order_for_record(ROUTE, NEXT, states, waited_s=1.0, longest_s=180.0)
    assert decided.waits_for == (
        "the newest bar waits up to 180 s for its champion champion: r2 holds it, r3 loads it"
    )


@pytest.mark.parametrize(
    ("bar_s", "fresh_s", "expected"),
    [
        (86_400.0, 172_800.0, 4320.0),
        (3600.0, 7200.0, 180.0),
        (60.0, 120.0, 20.0),
        (60.0, 5.0, 5.0),
        (3600.0, -10.0, 0.0),
    ],
)
def test_a_bar_waits_for_a_share_of_its_length_and_no_longer_than_it_is_fresh(
    bar_s: float, fresh_s: float, expected: float
) -> None:
    assert longest_wait_s(bar_s, fresh_s) == expected
