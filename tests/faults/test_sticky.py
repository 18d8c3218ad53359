"""Who has met the challenger keeps it, over two replicas and every rise of its share."""

from __future__ import annotations

from collections import defaultdict

import pytest
from scipy.stats import binom

from mlops.store import Phase
from mlops.store.rollouts import list_events
from tests.faults.results import Results
from tests.faults.stage import Stage
from tests.faults.template import GOOD

pytestmark = pytest.mark.faults

KEYS = 300
SHARES = (1000, 2500, 5000, 10_000)
DWELL_S = 4.0
"""In this time every key asks twice."""


@pytest.mark.beside
def test_raising_the_share_moves_no_key_back(stage: Stage) -> None:
    with stage.world("sticky") as world:
        world.replicas(stands_by=False)
        world.controller(exposure_s=60.0)
        world.prober(sessions=KEYS)
        row = world.rollout(GOOD, weights_bp=SHARES, dwell_s=DWELL_S)
        assert row.phase is Phase.DONE, row.reason
        events = list_events(world.store, row.id)
        world.check()
        met = keys_by_generation(world.results())
        assert_nobody_moves_back(met)
        for event in events:
            if event.to_phase is Phase.STEP:
                assert_share(met[event.generation], SHARES[event.step])


def keys_by_generation(results: Results) -> dict[int, dict[str, set[str]]]:
    """Which versions answered each key, by the route that dealt it."""
    met: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for request in results.requests:
        answer = request.answer
        assert request.key is not None
        met[answer.generation][request.key].add(str(answer.version))
    return met


def assert_nobody_moves_back(met: dict[int, dict[str, set[str]]]) -> None:
    moved: set[str] = set()
    for generation in sorted(met):
        answered = met[generation]
        assert all(len(versions) == 1 for versions in answered.values())
        back = {key for key in moved & set(answered) if answered[key] != {GOOD}}
        assert not back, f"{sorted(back)} went back at generation {generation}"
        moved |= {key for key, versions in answered.items() if versions == {GOOD}}
    assert len(moved) == KEYS


def assert_share(answered: dict[str, set[str]], share_bp: int) -> None:
    """Keys are dealt as a fair draw would: within 99.9 %."""
    mine = sum(versions == {GOOD} for versions in answered.values())
    low, high = binom.interval(0.999, len(answered), share_bp / 10_000)
    assert low <= mine <= high, f"{mine} of {len(answered)} keys at {share_bp / 100} %"
