"""A champion that fails gives way; one that does not, stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlops.rollout.analysis import TrialCounts
from mlops.rollout.fallback import champion_failing, decide_fallback
from mlops.store import Route, Status
from tests.mlops.rollout.rows import BASELINE, CHAMPION, NOW, SERVICE
from tests.mlops.rollout.snapshots import a_replica

ROUTE = Route(SERVICE, 7, CHAMPION, "previous", BASELINE, NOW, NOW)
HEALTHY, FAILING = TrialCounts(1000, 1), TrialCounts(1000, 200)
HOLDS = a_replica(held={CHAMPION: "ready", "previous": "ready"})
LOST = a_replica("r1", held={CHAMPION: "failed", "previous": "ready"})


@pytest.mark.parametrize(
    ("replicas", "seen", "why"),
    [
        ((HOLDS,), HEALTHY, None),
        ((), HEALTHY, None),
        ((HOLDS,), TrialCounts(), None),
        ((HOLDS,), TrialCounts(20, 1), None),
        ((HOLDS,), FAILING, "champion fails: 200 faults in 1000 trials"),
        ((), FAILING, "champion fails"),
        ((HOLDS, HOLDS, LOST), HEALTHY, None),
        ((HOLDS, LOST), HEALTHY, "1 of 2 replicas cannot load champion: no file"),
        ((LOST,), HEALTHY, "1 of 1 replicas"),
        ((a_replica(held={}),), HEALTHY, None),
    ],
)
def test_a_champion_fails_by_its_trials_or_by_half_of_its_replicas(
    replicas: tuple[object, ...], seen: TrialCounts, why: str | None
) -> None:
    found = champion_failing(ROUTE, replicas, seen)  # type: ignore[arg-type]
    assert found is None if why is None else why in str(found)


def test_the_previous_champion_takes_over_where_it_is_held() -> None:
    fallback = decide_fallback(ROUTE, (HOLDS,), FAILING)
    assert fallback is not None
    assert (fallback.route.champion, fallback.route.previous_champion) == ("previous", None)
    assert fallback.statuses == {"previous": Status.DEPLOYED, CHAMPION: Status.FAILED}
    assert "previous serves instead" in fallback.reason


@pytest.mark.parametrize(
    ("route", "replicas", "status"),
    [
        (replace(ROUTE, previous_champion=None), (HOLDS,), None),
        (ROUTE, (a_replica(held={CHAMPION: "failed"}),), Status.RETIRED),
        (ROUTE, (), Status.RETIRED),
        (ROUTE, (HOLDS,), Status.FAILED),
    ],
)
def test_else_the_baseline_does(
    route: Route, replicas: tuple[object, ...], status: Status | None
) -> None:
    fallback = decide_fallback(route, replicas, FAILING, previous_status=status)  # type: ignore[arg-type]
    assert fallback is not None
    assert (fallback.route.champion, fallback.route.previous_champion) == (BASELINE, None)


def test_a_healthy_champion_stays() -> None:
    assert decide_fallback(ROUTE, (HOLDS,), HEALTHY) is None


def test_below_the_baseline_there_is_nothing() -> None:
    assert decide_fallback(replace(ROUTE, champion=BASELINE), (HOLDS,), FAILING) is None
