"""A deployment is requested by the manager, and run by whoever carries rollouts."""

from __future__ import annotations

import asyncio

import pytest

from mlops.errors import AbTestNotFound, RolloutNotFound, RolloutRefused
from mlops.manager import MLOpsManager
from mlops.store import Phase
from mlops.store.requests import RequestKey
from tests.mlops.manager.test_rollouts import ANNA, champion, manager
from tests.mlops.serving.conftest import Library, library, library_once
from tests.replicas import acknowledging

__all__ = ["library", "library_once", "manager"]

QUICK = {"dwell_s": 0, "bake_s": 0}
KEY = RequestKey("monday", "a" * 64)


def test_a_request_tells_of_its_end_once_it_has_one(
    manager: MLOpsManager, library: Library
) -> None:
    model_id = library.versions[0]

    def ask() -> object:
        return manager.request_deployment(model_id, "canary", request=KEY, **ANNA, **QUICK)

    begun = asyncio.run(ask())
    assert begun.rollout is not None
    assert (begun.success, begun.rollout.phase) == (None, Phase.PENDING)
    assert (begun.champion, begun.rollout.requested_by) == (library.baseline, "anna")
    with acknowledging(manager.store):
        asyncio.run(manager.follow_rollout(begun.rollout.id))
    ended = asyncio.run(ask())
    assert (ended.success, champion(manager)) == (True, model_id)
    assert manager.get_rollout(begun.rollout.id) == ended.rollout
    assert manager.rollout_events(begun.rollout.id)[-1].to_phase is Phase.DONE


def test_a_version_that_is_live_needs_no_rollout(manager: MLOpsManager, library: Library) -> None:
    live = asyncio.run(manager.request_deployment(library.baseline, **ANNA))
    assert (live.success, live.rollout, live.champion) == (True, None, library.baseline)
    assert manager.rollouts() == ()


def test_an_abort_is_requested_and_not_waited_for(manager: MLOpsManager, library: Library) -> None:
    begun = asyncio.run(manager.request_deployment(library.versions[0], **ANNA))
    assert begun.rollout is not None
    aborted = manager.request_abort(begun.rollout.id, actor="ben", reason="too soon")
    assert (aborted.phase, aborted.abort_requested) == (Phase.PENDING, "ben: too soon")


def test_what_is_unknown_is_not_found(manager: MLOpsManager) -> None:
    for look_up in (manager.get_rollout, manager.rollout_events):
        with pytest.raises(RolloutNotFound, match="rollout-1"):
            look_up("rollout-1")
    for look_up in (manager.get_ab_test, manager.ab_test_looks):
        with pytest.raises(AbTestNotFound, match="ab-1"):
            look_up("ab-1")


def test_a_plan_begins_nothing(manager: MLOpsManager, library: Library) -> None:
    plan = manager.plan_ab_test(library.baseline, library.versions[0], duration_hours=48)
    assert (plan.planned_pairs, plan.can_decide) == (24, False)
    assert (manager.rollouts(), manager.ab_tests()) == ((), ())
    with pytest.raises(RolloutRefused, match="deploy one first"):
        manager.plan_ab_test(*library.versions)
