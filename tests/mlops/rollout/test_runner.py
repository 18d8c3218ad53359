"""Whoever waits for a rollout carries it on, outlives a store that is away, and then steps down."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from mlops.errors import RolloutError, StoreError
from mlops.rollout import runner as running
from mlops.rollout.controller import LEASE, Controller
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.runner import (
    RolloutProgress,
    RolloutRunner,
    list_unfinished,
    read_progress,
    unique_holder_name,
)
from mlops.store import Phase, Store
from mlops.store.leases import acquire_lease
from tests.mlops.rollout.rows import CHALLENGER, ask, route_of
from tests.replicas import ENOUGH, acknowledging

QUICK = plan_for(Strategy.CANARY, dwell_s=0, bake_s=0)


def runner(store: Store, **options: Any) -> RolloutRunner:
    return RolloutRunner(store, "test", tick_s=0.05, **options)


def free(store: Store) -> bool:
    """Whether nobody holds the controller's role."""
    return acquire_lease(store, LEASE, "anybody", seconds=0.001) is not None


def test_a_followed_rollout_is_carried_to_its_end_and_told_step_by_step(service: Store) -> None:
    seen: list[RolloutProgress] = []
    asked = ask(service, QUICK)
    with acknowledging(service):
        ended = runner(service).follow(asked.id, seen.append)
    assert (ended.phase, route_of(service).champion) == (Phase.DONE, CHALLENGER)
    lengths = [len(one.events) for one in seen]
    assert lengths == sorted(lengths)
    assert all((one.verdict is None) == one.rollout.phase.final for one in seen)
    assert free(service)


def test_one_that_has_ended_is_told_once(service: Store) -> None:
    asked = ask(service, QUICK)
    with acknowledging(service):
        runner(service).follow(asked.id)
    seen: list[RolloutProgress] = []
    assert runner(service).follow(asked.id, seen.append).phase is Phase.DONE
    assert len(seen) == 1


def test_an_unknown_rollout_is_refused(service: Store) -> None:
    with pytest.raises(RolloutError, match="no rollout 'rollout-0'"):
        runner(service).follow("rollout-0")


def test_stopping_leaves_the_rollout_open_and_the_role_free(service: Store) -> None:
    asked, stop = ask(service, QUICK), Event()
    ended = runner(service, stop=stop).follow(asked.id, lambda seen: stop.set())
    assert ended.phase is Phase.PENDING
    assert [one.id for one in list_unfinished(service)] == [asked.id]
    assert free(service)


def flaky(times: int) -> Callable[[Controller], tuple[()]]:
    """A tick that finds the store away so many times, and then does nothing."""
    left = [times]

    def tick(controller: Controller) -> tuple[()]:
        if left[0]:
            left[0] -= 1
            raise StoreError("the store cannot be used now")
        return ()

    return tick


def test_a_store_that_is_away_is_asked_again(
    service: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Controller, "tick", flaky(3))
    assert runner(service).run_open_rollouts(seconds=5) == ()
    assert caplog.text.count("the store cannot be used now") == 3


def test_one_that_stays_away_ends_the_wait(service: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STORE_AWAY_S", 0.1)
    monkeypatch.setattr(Controller, "tick", flaky(1000))
    with pytest.raises(StoreError, match="cannot be used now"):
        runner(service).run_open_rollouts(seconds=60)


def test_where_another_holds_the_role_nothing_is_carried(
    service: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LEASE_S", 0.2)
    asked = ask(service, QUICK)
    assert acquire_lease(service, LEASE, "another", seconds=60) is not None
    with acknowledging(service):
        assert runner(service).run_open_rollouts(seconds=60) == ()
    assert read_progress(service, asked.id).rollout.phase is Phase.PENDING


def test_a_lease_of_the_dead_is_waited_out(service: Store) -> None:
    asked = ask(service, QUICK)
    assert acquire_lease(service, LEASE, "the dead", seconds=1) is not None
    with acknowledging(service):
        moved = runner(service).run_open_rollouts(seconds=60)
    assert moved[-1].what == f"{asked.id} done"


def test_with_nothing_open_one_tick_is_enough(service: Store) -> None:
    ticks: list[int] = []
    runner(service, before=lambda: ticks.append(1)).run_open_rollouts(seconds=60)
    assert ticks == [1]


def test_what_is_open_for_longer_is_left_at_the_end_of_the_time(service: Store) -> None:
    asked = ask(service, plan_for(Strategy.CANARY, dwell_s=3600))
    with acknowledging(service):
        moved = runner(service).run_open_rollouts(seconds=0)
    assert moved[0].what == f"{asked.id} loading"
    assert [one.id for one in list_unfinished(service)] == [asked.id]
    assert free(service)


def test_after_the_promotion_the_new_champion_alone_is_judged(service: Store) -> None:
    asked, stop = ask(service, plan_for(Strategy.CANARY, dwell_s=0, bake_s=3600)), Event()
    seen: list[RolloutProgress] = []

    def until_promoted(one: RolloutProgress) -> None:
        seen.append(one)
        if one.rollout.phase is Phase.PROMOTED:
            stop.set()

    with acknowledging(service):
        runner(service, stop=stop).follow(asked.id, until_promoted)
    trials = [one.verdict.trials for one in seen if one.verdict is not None]
    assert max(trials) == ENOUGH
    assert trials[-1] == 0


def test_no_two_holders_have_one_name() -> None:
    assert len({unique_holder_name("flow") for _ in range(50)}) == 50
