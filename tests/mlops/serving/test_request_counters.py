"""Trials are key-minutes, faults count once, and totals survive a store that is away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mlops.serving.request_counters import RequestCounters
from mlops.store.request_counts import Source, Tally
from mlops.store.routes import Route

AT = datetime(2025, 1, 1, tzinfo=UTC)
ROUTE = Route("svc", 7, "champ", None, "base", AT, AT, "chall", 1000, 0, "rollout-1")


class Clock:
    def __init__(self) -> None:
        self.now = 60.0 * 1000

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters(clock: Clock) -> RequestCounters:
    return RequestCounters("r1", "life", clock)


def of_rollout(counters: RequestCounters, source: Source = Source.LIVE) -> Tally:
    tallies = counters.take_changes()["svc"]
    (tally,) = [t for t in tallies if t.scope == "rollout-1" and t.source is source]
    return tally


def test_requests_without_a_key_are_a_trial_each(counters: RequestCounters) -> None:
    for fault in (None, "error", None):
        counters.count_request(ROUTE, challenger=True, fault=fault)
    tally = of_rollout(counters)
    assert (tally.challenger_trials, tally.challenger_faults) == (3, 1)
    assert (tally.weight_bp, tally.step, tally.detail) == (1000, 7, {"error": 1})


def test_one_key_is_one_trial_a_minute_however_often_it_fails(
    counters: RequestCounters, clock: Clock
) -> None:
    for _ in range(5):
        counters.count_request(ROUTE, challenger=True, fault="error", key="BTC")
    clock.now += 60
    counters.count_request(ROUTE, challenger=True, fault=None, key="BTC")
    counters.count_request(ROUTE, challenger=True, fault="timeout", key="BTC")
    tally = of_rollout(counters)
    assert (tally.challenger_trials, tally.challenger_faults) == (2, 2)


def test_a_champion_is_counted_for_the_rollout_and_for_its_own_health(
    counters: RequestCounters,
) -> None:
    counters.count_request(ROUTE, challenger=False, fault="error")
    scopes = {tally.scope: tally for tally in counters.take_changes()["svc"]}
    assert set(scopes) == {"rollout-1", "champion:champ"}
    assert all(tally.champion_faults == 1 for tally in scopes.values())


def test_without_a_rollout_only_health_is_counted(counters: RequestCounters) -> None:
    alone = replace(ROUTE, challenger=None, weight_bp=0, salt="")
    counters.count_request(alone, challenger=False, fault=None)
    assert [tally.scope for tally in counters.take_changes()["svc"]] == ["champion:champ"]


def test_an_input_that_neither_version_answers_is_no_fault(counters: RequestCounters) -> None:
    counters.count_pair(ROUTE, Source.REPLAY, champion="error", challenger="error")
    counters.count_pair(ROUTE, Source.REPLAY, champion=None, challenger="non_finite")
    tally = of_rollout(counters, Source.REPLAY)
    assert (tally.champion_trials, tally.challenger_trials) == (2, 2)
    assert (tally.champion_faults, tally.challenger_faults) == (0, 1)


def test_pairs_of_all_steps_are_one_row(counters: RequestCounters) -> None:
    counters.count_pair(ROUTE, Source.REPLAY, champion=None, challenger=None)
    counters.count_pair(replace(ROUTE, generation=8), Source.REPLAY, champion=None, challenger=None)
    assert of_rollout(counters, Source.REPLAY).challenger_trials == 2


def test_changed_totals_are_taken_once_and_again_after_a_failed_write(
    counters: RequestCounters,
) -> None:
    counters.count_request(ROUTE, challenger=True, fault=None)
    handed = counters.take_changes()
    assert counters.take_changes() == {}
    counters.give_back(handed)
    assert counters.take_changes() == handed


def test_totals_of_ended_rollouts_are_forgotten_once_written(counters: RequestCounters) -> None:
    counters.count_request(ROUTE, challenger=True, fault=None)
    counters.keep_only(set())
    assert of_rollout(counters).challenger_trials == 1
    counters.keep_only(set())
    counters.count_request(ROUTE, challenger=True, fault=None)
    assert of_rollout(counters).challenger_trials == 1
