"""A/B tests by the platform's calls: begun, looked at, extended, stopped, listed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from mlops.errors import AbTestMalformed, AbTestRefused, RolloutError
from mlops.manager import MLOpsManager
from mlops.store import get_rollout
from tests.mlops.manager.test_rollouts import manager
from tests.mlops.serving.conftest import KEY, Library, library, library_once

__all__ = ["library", "library_once", "manager"]


def test_a_test_lives_by_five_calls(manager: MLOpsManager, library: Library) -> None:
    challenger = library.versions[0]
    begun = asyncio.run(
        manager.start_ab_test(
            library.baseline, challenger, test_name="weekly", traffic_split=0.5, duration_hours=48
        )
    )
    assert (begun.model_a, begun.model_b, begun.name) == (library.baseline, challenger, "weekly")
    assert (begun.state, begun.verdict, begun.winner) == ("running", None, None)
    assert begun.plan is not None
    assert (begun.plan.planned_pairs, begun.plan.can_decide) == (24, False)
    assert "which takes" in begun.text
    assert begun.since_bar - datetime.now(UTC) < timedelta(hours=1)
    assert get_rollout(manager.store, begun.rollout_id).strategy == "ab_test"

    seen = asyncio.run(manager.evaluate_ab_test(begun.id))
    assert (seen.pairs, seen.text) == (0, "No outcome is due yet.")
    longer = asyncio.run(manager.extend_ab_test(begun.id, 24, actor="anna"))
    assert longer.until_bar - begun.until_bar == timedelta(hours=24)
    stopped = asyncio.run(manager.stop_ab_test(begun.id, actor="anna", reason="a wrong recipe"))
    assert (stopped.verdict, stopped.winner) == ("stopped", None)
    assert "a wrong recipe" in stopped.text
    (listed,) = manager.ab_tests(KEY)
    assert listed == stopped
    assert manager.ab_tests("another") == ()
    json.dumps(begun.to_dict(), allow_nan=False)
    with pytest.raises(RolloutError, match="ended as stopped"):
        asyncio.run(manager.stop_ab_test(begun.id))


def test_model_b_may_be_the_champion(manager: MLOpsManager, library: Library) -> None:
    begun = asyncio.run(
        manager.start_ab_test(library.versions[0], library.baseline, traffic_split=0.8)
    )
    assert (begun.model_b, begun.champion) == (library.baseline, library.baseline)
    assert begun.traffic_split == 0.8
    assert get_rollout(manager.store, begun.rollout_id).plan["weights_bp"] == [2000]


def test_two_versions_of_which_none_is_live_are_refused(
    manager: MLOpsManager, library: Library
) -> None:
    with pytest.raises(AbTestRefused, match=r"deploy one first.*manager\.compare"):
        asyncio.run(manager.start_ab_test(*library.versions))
    with pytest.raises(AbTestMalformed, match="on_short_plan='stretch'"):
        asyncio.run(
            manager.start_ab_test(library.baseline, library.versions[0], on_short_plan="stretch")
        )
    with pytest.raises(RolloutError, match="no A/B test 'ab-none'"):
        asyncio.run(manager.evaluate_ab_test("ab-none"))
