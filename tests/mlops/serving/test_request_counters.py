"""A request is counted once: as trials of a key-minute, and as traffic of an hour."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mlops.rollout.analysis import ShortRequests, count_own_trials, count_short_requests
from mlops.serving.request_counters import BUCKET_S, HOUR_S, RequestCounters, TooShort, Try
from mlops.store.request_counts import Source, Tally
from mlops.store.routes import Route

AT = datetime(2025, 1, 1, tzinfo=UTC)
ROUTE = Route("svc", 7, "champ", None, "base", AT, AT, "chall", 1000, 0, "rollout-1")
ALONE = replace(ROUTE, challenger=None, weight_bp=0, salt="")
SHORT = TooShort(35, 169)


class Clock:
    def __init__(self) -> None:
        self.now = 1000 * HOUR_S

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters(clock: Clock) -> RequestCounters:
    return RequestCounters("r1", "life", clock, max_waiting=2)


def tries(*asked: str) -> list[Try]:
    """Versions that were asked, as ``model_id`` or ``model_id fault``."""
    return [Try(model_id, 0.001, fault or None) for model_id, _, fault in map(_split, asked)]


def _split(asked: str) -> tuple[str, str, str]:
    return asked.partition(" ")


def count(counters: RequestCounters, *asked: str, route: Route = ROUTE, **how: Any) -> None:
    counters.count_request(route, tries(*asked), **how)


def taken(counters: RequestCounters) -> dict[tuple[str, Source], Tally]:
    tallies = counters.take_evidence().get("svc", [])
    return {(tally.scope, tally.source): tally for tally in tallies}


def of_rollout(counters: RequestCounters, source: Source = Source.LIVE) -> Tally:
    return taken(counters)["rollout-1", source]


# Trials ------------------------------------------------------------------------------------------


def test_requests_without_a_key_are_a_trial_each(counters: RequestCounters) -> None:
    for fault in ("", " error", ""):
        count(counters, f"chall{fault}", *(["champ"] if fault else []))
    tally = of_rollout(counters)
    assert (tally.challenger_trials, tally.challenger_faults) == (3, 1)
    assert (tally.weight_bp, tally.step, tally.detail) == (1000, 7, {"error": 1})


def test_one_key_is_one_trial_a_minute_however_often_it_fails(
    counters: RequestCounters, clock: Clock
) -> None:
    for _ in range(5):
        count(counters, "chall error", "champ", key="BTC")
    clock.now += 60
    count(counters, "chall", key="BTC")
    count(counters, "chall timeout", "champ", key="BTC")
    tally = of_rollout(counters)
    assert (tally.challenger_trials, tally.challenger_faults) == (2, 2)


def test_long_keys_are_kept_as_sixteen_bytes(counters: RequestCounters) -> None:
    for number in range(50):
        count(counters, "champ", key=f"{number}" * 30_000)
    assert of_rollout(counters).champion_trials == 50
    assert {len(key) for _, _, key in counters._failed} == {16}
    assert sum(map(sys.getsizeof, counters._failed)) < 50_000


def test_a_champion_is_counted_for_the_rollout_and_for_its_own_health(
    counters: RequestCounters,
) -> None:
    count(counters, "champ error", "base")
    found = taken(counters)
    assert {scope for scope, _ in found} == {"rollout-1", "champion:champ"}
    assert all(tally.champion_faults == 1 for tally in found.values())


def test_without_a_rollout_only_health_is_counted(counters: RequestCounters) -> None:
    count(counters, "champ", route=ALONE)
    assert [scope for scope, _ in taken(counters)] == ["champion:champ"]


def test_a_champion_asked_after_the_challenger_is_charged_only_if_it_fails_too(
    counters: RequestCounters,
) -> None:
    count(counters, "chall error", "champ")
    count(counters, "chall error", "champ error", "base")
    tally = of_rollout(counters)
    assert (tally.challenger_trials, tally.challenger_faults) == (2, 2)
    assert (tally.champion_trials, tally.champion_faults) == (1, 1)


def test_an_answer_of_another_version_is_no_trial_of_the_champion(
    counters: RequestCounters,
) -> None:
    count(counters, "base", route=ALONE)
    assert taken(counters) == {}


@pytest.mark.parametrize("faults", [("error", "error"), ("non_finite", "no_forecast")])
def test_a_request_that_no_version_computes_is_neither_trial_nor_traffic(
    counters: RequestCounters, faults: tuple[str, str]
) -> None:
    count(counters, f"champ {faults[0]}", f"base {faults[1]}", key="BTC")
    assert taken(counters) == {}
    assert counters.take_traffic() == ()


def test_a_request_that_times_out_everywhere_is_traffic_and_no_trial(
    counters: RequestCounters,
) -> None:
    count(counters, "champ timeout", "base timeout")
    assert taken(counters) == {}
    assert [row.traffic.faults for row in counters.take_traffic()] == [1, 1]


def test_pairs_of_all_steps_are_one_row_and_an_input_that_neither_answers_is_no_fault(
    counters: RequestCounters,
) -> None:
    later = replace(ROUTE, generation=8)
    counters.count_pair(ROUTE, Source.REPLAY, champion="error", challenger="error")
    counters.count_pair(later, Source.REPLAY, champion=None, challenger="non_finite")
    tally = of_rollout(counters, Source.REPLAY)
    assert (tally.champion_trials, tally.challenger_trials) == (2, 2)
    assert (tally.champion_faults, tally.challenger_faults) == (0, 1)


# Too few bars ------------------------------------------------------------------------------------


def short_requests(counters: RequestCounters) -> ShortRequests:
    tallies = counters.take_evidence()["svc"]
    return count_short_requests(tally for tally in tallies if tally.scope == "dealt:rollout-1")


def test_a_request_with_too_few_bars_is_no_trial_of_the_challenger(
    counters: RequestCounters,
) -> None:
    count(counters, "champ", too_short=SHORT)
    found = taken(counters)
    assert found["rollout-1", Source.LIVE].challenger_trials == 0
    assert found["champion:champ", Source.LIVE].champion_trials == 1


def test_keys_that_send_too_few_bars_are_a_share_of_those_dealt_to_the_challenger(
    counters: RequestCounters, clock: Clock
) -> None:
    for _ in range(3):
        count(counters, "champ", too_short=SHORT, key="short")
        count(counters, "chall", key="long")
    count(counters, "chall", key="both")
    count(counters, "champ", too_short=SHORT, key="both")
    clock.now += BUCKET_S
    count(counters, "champ", too_short=TooShort(40, 169), key="short")
    assert short_requests(counters) == ShortRequests(dealt=4, short=3, offered=40, needed=169)


def test_a_mirrored_request_with_too_few_bars_is_told_and_nothing_else(
    counters: RequestCounters,
) -> None:
    count(counters, too_short=SHORT, key="BTC")
    assert counters.take_traffic() == ()
    assert short_requests(counters) == ShortRequests(dealt=1, short=1, offered=35, needed=169)


# Inputs of our own -------------------------------------------------------------------------------


def test_only_the_newest_check_on_inputs_of_our_own_counts(counters: RequestCounters) -> None:
    counters.put_own_trials(ROUTE, [None, "error"])
    counters.put_own_trials(ROUTE, [None, None, None])
    tally = taken(counters)["champion:champ", Source.REPLAY]
    own = count_own_trials([tally])
    assert (own.trials, own.faults) == (3, 0)


def test_a_counter_knows_when_requests_last_failed_at_the_champion(
    counters: RequestCounters, clock: Clock
) -> None:
    count(counters, "champ")
    assert counters.champion_fault_at("champ") is None
    count(counters, "champ error", "base")
    assert counters.champion_fault_at("champ") == clock.now


# Traffic -----------------------------------------------------------------------------------------


def test_answers_faults_and_refusals_are_counted_apart(counters: RequestCounters) -> None:
    counters.count_request(ALONE, [Try("champ", 5.0, "error"), Try("base", 0.001)])
    counters.count_request(ALONE, [Try("champ", 0.001)])
    counters.count_turned_away("svc", "champ")
    champion, baseline = counters.take_traffic()
    traffic = champion.traffic
    assert (champion.service, champion.model_id) == ("svc", "champ")
    assert (champion.replica_id, champion.incarnation) == ("r1", "life")
    assert (traffic.requests, traffic.faults, traffic.turned_away, traffic.timed) == (3, 1, 1, 2)
    assert traffic.seconds == pytest.approx(5.001)
    assert (baseline.model_id, baseline.traffic.requests) == ("base", 1)


def test_each_hour_is_a_row_that_stays_until_it_is_written(
    counters: RequestCounters, clock: Clock
) -> None:
    count(counters, "champ")
    clock.now += HOUR_S
    count(counters, "champ")
    counters.forget_traffic()
    hours = [row.hour for row in counters.take_traffic()]
    assert hours == [datetime.fromtimestamp(n * HOUR_S, UTC) for n in (1000, 1001)]
    counters.forget_traffic()
    count(counters, "champ")
    assert [row.traffic.requests for row in counters.take_traffic()] == [2]


def test_the_oldest_hours_are_lost_and_counted_while_the_store_is_away(
    counters: RequestCounters, clock: Clock
) -> None:
    for _ in range(6):
        count(counters, "champ")
        clock.now += HOUR_S
    hours = [row.hour.timestamp() / HOUR_S for row in counters.take_traffic()]
    assert hours == [1003, 1004, 1005]
    assert counters.lost == 3


# Both readers ------------------------------------------------------------------------------------


def test_changed_totals_are_taken_once_and_again_in_full_after_a_failed_write(
    counters: RequestCounters,
) -> None:
    count(counters, "champ")
    assert [row.traffic.requests for row in counters.take_traffic()] == [1]
    first = counters.take_evidence()
    assert counters.take_traffic() == ()
    assert counters.take_evidence() == {}
    # What was taken last was nothing.
    count(counters, "champ")
    counters.take_traffic()
    counters.take_evidence()
    counters.traffic.give_back()
    counters.evidence.give_back()
    count(counters, "champ")
    assert [row.traffic.requests for row in counters.take_traffic()] == [3]
    again = counters.take_evidence()
    assert [tally.champion_trials for tally in first["svc"]] == [1, 1]
    assert [tally.champion_trials for tally in again["svc"]] == [3, 3]


def test_evidence_of_ended_rollouts_and_past_buckets_is_forgotten_once_written(
    counters: RequestCounters, clock: Clock
) -> None:
    count(counters, "chall")
    counters.forget_evidence([])
    assert of_rollout(counters).challenger_trials == 1
    counters.forget_evidence([])
    count(counters, "chall")
    assert of_rollout(counters).challenger_trials == 1
    count(counters, "champ", route=ALONE)
    clock.now += BUCKET_S
    count(counters, "champ", route=ALONE)
    counters.put_own_trials(ALONE, [None])
    counters.take_evidence()
    counters.forget_evidence([ALONE])
    assert {row.step for row in counters.evidence.known} == {0, int(clock.now // BUCKET_S)}
