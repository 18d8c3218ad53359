"""A test begins with its rollout at the next bar, once for each request, and ends on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.ab_testing.lifecycle import AbTesting
from mlops.ab_testing.requests import AbTestRequest, OnShortPlan
from mlops.data.market import Market
from mlops.data.recent_bars import KnownBars
from mlops.data.simulator import simulate_bars
from mlops.errors import AbTestMalformed, AbTestRefused, BundleError, RolloutError, RolloutRefused
from mlops.registry import explain
from mlops.rollout.plan import AbTestSettings, plan_from_test
from mlops.rollout.wishes import insert_wish
from mlops.service import Service
from mlops.settings import FileClock, Settings
from mlops.store import (
    Status,
    Store,
    Verdict,
    get_rollout,
    get_version,
    list_rollouts,
    open_store,
)
from mlops.store.ab_tests import list_looks, list_tests
from mlops.store.ledger import count_ab_tests
from mlops.store.versions import change_status, insert_version
from mlops.validation.records import record_table
from tests.mlops.ab_testing.stage import (
    CHALLENGER,
    CHAMPION,
    HOUR,
    START,
    VOLATILITY,
    WHY,
    Stage,
    hour,
)
from tests.mlops.ab_testing.test_common_past import bundle_of, record
from tests.mlops.rollout.rows import make_version

DAILY = replace(VOLATILITY, horizon=24)
DAY_S = 86_400.0


@dataclass
class Feed:
    """Bars that are known up to a moment of market time."""

    now: datetime = START
    clock: FileClock = FileClock.WALL
    last_close: datetime | None = None
    there: bool = True

    def load(self, service: Service) -> KnownBars | None:
        if not self.there:
            return None
        newest = self.now.replace(minute=0) - HOUR
        index = pd.date_range(end=newest, periods=5, freq="1h", tz="UTC")
        market = replace(Market.of(service), clock=self.clock)
        frame = simulate_bars(5, seed=1).set_axis(index)
        return KnownBars(frame, self.now, "BTC/USD of the sample", market, self.last_close)

    def describe_missing(self, service: Service) -> str:
        return f"no bars of {service.symbol} are here yet; train it first"


def no_bundle(version: object) -> Any:
    raise BundleError("there is no bundle in this test")


@dataclass
class Desk:
    """What a test needs to begin A/B tests: rows of a service, a feed, settings."""

    stage: Stage
    feed: Feed
    testing: AbTesting

    def start(self, **asked: Any) -> Any:
        now = asked.pop("now", START)
        request = AbTestRequest(**{"model_a_id": CHAMPION, "model_b_id": CHALLENGER} | asked)
        return self.testing.start(request, WHY, now=now)


@pytest.fixture
def desk(store: Store) -> Desk:
    return make_desk(store, VOLATILITY)


def make_desk(store: Store, service: Service) -> Desk:
    stage = Stage(store, service)
    stage.begin_service()
    with store.write() as connection:
        change_status(connection, CHALLENGER, Status.CHALLENGER, WHY)
    feed = Feed()
    settings = Settings(_env_file=None)
    return Desk(stage, feed, AbTesting(settings, store, feed, no_bundle))  # type: ignore[arg-type]


def add_version(store: Store, model_id: str, number: int, **changes: Any) -> None:
    row = make_version(model_id, number, service=VOLATILITY.key, **changes)
    with store.write() as connection:
        insert_version(connection, row, WHY)


def test_a_test_begins_at_the_next_bar_with_a_rollout_of_its_own(desk: Desk) -> None:
    desk.feed.now = START + timedelta(minutes=20)
    started = desk.start(name="weekly", traffic_split=0.2)
    (test,) = list_tests(desk.stage.store)
    assert started.test == test
    assert (test.since_bar, test.min_until_bar, test.until_bar) == (START, hour(22), hour(46))
    assert (test.champion_id, test.challenger_id, test.champion_is) == (CHAMPION, CHALLENGER, "a")
    assert (test.split_bp, test.alpha, test.name, test.record) == (2000, 0.05, "weekly", None)
    rollout = get_rollout(desk.stage.store, test.rollout_id)
    assert (rollout.strategy, rollout.to_version) == ("ab_test", CHALLENGER)
    assert rollout.plan["weights_bp"] == [2000]
    assert rollout.plan["hold_s"] == pytest.approx(2 * 48 * 3600 + 7 * DAY_S)


def test_model_b_may_be_the_champion(desk: Desk) -> None:
    test = desk.start(model_a_id=CHALLENGER, model_b_id=CHAMPION, traffic_split=0.8).test
    assert (test.champion_id, test.champion_is, test.split_bp) == (CHAMPION, "b", 2000)


def test_a_plan_that_cannot_decide_is_accepted_and_says_so(store: Store) -> None:
    started = make_desk(store, DAILY).start(duration_hours=48)
    assert not started.plan.can_decide
    assert started.plan.planned_pairs == 24
    assert "which takes" in started.plan.text
    assert list_tests(store) == (started.test,)


def test_a_plan_that_cannot_decide_is_refused_on_request(store: Store) -> None:
    with pytest.raises(AbTestRefused, match=r"duration_hours=3384 or more"):
        make_desk(store, DAILY).start(duration_hours=48, on_short_plan=OnShortPlan.REFUSE)
    assert list_tests(store) == ()
    assert list_rollouts(store) == ()


def test_a_plan_that_cannot_decide_is_extended_on_request(store: Store) -> None:
    started = make_desk(store, DAILY).start(duration_hours=48, on_short_plan=OnShortPlan.EXTEND)
    assert started.plan.can_decide
    assert started.plan.duration_hours == 20 * 168 + 24
    assert started.test.until_bar == hour(20 * 168 - 1)


def test_a_record_of_the_past_is_read_when_the_test_begins(desk: Desk) -> None:
    errors = np.random.default_rng(1).normal(size=12 * 336)
    bars = range(-len(errors), 0)
    desk.testing = replace(
        desk.testing,
        open_bundle=lambda version: bundle_of(
            record_table(record(bars, errors if version.model_id == CHAMPION else 0.9 * errors))
        ),
    )
    started = desk.start()
    assert started.test.record is not None
    assert started.test.record["blocks"] == started.plan.blocks == 12
    assert started.plan.past_gain == pytest.approx(0.19, abs=0.001)


def test_the_least_duration_and_the_level_are_those_of_the_settings(desk: Desk) -> None:
    settings = Settings(
        _env_file=None, ab_test_min_duration_hours=10, ab_test_confidence_level=0.99
    )
    desk.testing = replace(desk.testing, config=settings)
    test = desk.start().test
    assert (test.min_until_bar, test.alpha) == (hour(8), 0.01)


def test_the_same_request_begins_one_test(desk: Desk) -> None:
    first = desk.start(request_key="monday")
    again = desk.start(request_key="monday")
    assert again.test == first.test
    assert again.plan == first.plan
    assert len(list_rollouts(desk.stage.store)) == 1


def test_a_key_of_another_pair_is_refused(desk: Desk) -> None:
    desk.start(request_key="monday")
    add_version(desk.stage.store, "third", 3, status=Status.CHALLENGER)
    with pytest.raises(AbTestRefused, match="a key of its own"):
        desk.start(model_b_id="third", request_key="monday")


def test_a_running_test_refuses_another_one_and_ends_for_it_on_request(desk: Desk) -> None:
    first = desk.start().test
    add_version(desk.stage.store, "third", 3, status=Status.CHALLENGER)
    with pytest.raises(RolloutRefused, match=f"{first.id} compares.*end_test=True"):
        desk.start(model_b_id="third")
    second = desk.start(model_b_id="third", end_test=True).test
    ended = next(row for row in list_tests(desk.stage.store) if row.id == first.id)
    assert (ended.verdict, ended.verdict_text) == (Verdict.STOPPED, "superseded by third")
    assert list_tests(desk.stage.store, running_only=True) == (second,)


def test_one_request_sent_twice_at_once_begins_one_test(desk: Desk) -> None:
    outcomes = together(*[lambda: desk.start(request_key="monday")] * 2)
    assert len({found.test.id for found in outcomes}) == 1
    assert len(list_rollouts(desk.stage.store)) == 1


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What calls that begin at the same time return or raise."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(10)
        try:
            return call()
        except RolloutError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_a_replay_refuses_a_test_that_would_not_be_over_by_its_end(desk: Desk) -> None:
    desk.feed.clock, desk.feed.last_close = FileClock.REPLAY, START + timedelta(hours=100)
    with pytest.raises(AbTestRefused, match=r"begins again in 100 market hours.* of 101 hours"):
        desk.start(duration_hours=101)
    test = desk.start(duration_hours=100).test
    with pytest.raises(AbTestRefused, match="begins again"):
        desk.testing.extend(test.id, 1, WHY)


def test_a_replays_net_is_in_time_of_the_wall(desk: Desk) -> None:
    desk.feed.clock, desk.feed.last_close = FileClock.REPLAY, START + timedelta(hours=720)
    test = desk.start(duration_hours=60).test
    plan = get_rollout(desk.stage.store, test.rollout_id).plan
    assert plan["hold_s"] == pytest.approx(2 * 60 * 60 + 7 * DAY_S)


def test_a_service_without_bars_is_refused_with_what_to_do(desk: Desk) -> None:
    desk.feed.there = False
    with pytest.raises(AbTestRefused, match="train it first"):
        desk.start()


def test_a_version_of_claims_only_is_refused(desk: Desk) -> None:
    add_version(desk.stage.store, "claimed", 3, claims_only=True, status=Status.REFUSED)
    with pytest.raises(RolloutRefused, match="claims"):
        desk.start(model_b_id="claimed")


def test_a_test_is_looked_at_by_the_clock_of_its_market(desk: Desk) -> None:
    test = desk.start().test
    assert desk.testing.look(test.id).look is None
    desk.feed.now = START + 10 * HOUR
    looked = desk.testing.look(test.id)
    assert (looked.look.bar, looked.ended) == (hour(8), False)
    assert desk.testing.look(test.id) == looked


def test_a_look_that_ends_the_test_says_so_once(desk: Desk) -> None:
    test = desk.start(duration_hours=30).test
    looks = [desk.testing.look(test.id, now=START + 31 * HOUR) for _ in range(2)]
    assert [looked.ended for looked in looks] == [True, False]
    assert [looks[0].look] == [looks[1].look] == list(list_looks(desk.stage.store, test.id))
    assert looks[0].test.verdict is Verdict.INCONCLUSIVE


def test_an_error_in_one_test_leaves_the_others_their_looks(desk: Desk) -> None:
    test = desk.start().test
    desk.feed.there = False
    (looked,) = desk.testing.look_at_running()
    assert "train it first" in looked.trouble
    (looked,) = desk.testing.look_at_running({VOLATILITY.key: START + 10 * HOUR})
    assert (looked.trouble, looked.look.test_id) == ("", test.id)


def test_a_person_stops_a_test_with_a_reason(desk: Desk) -> None:
    test = desk.start().test
    stopped = desk.testing.stop(test.id, replace(WHY, reason="wrong version"))
    assert stopped.verdict is Verdict.STOPPED
    assert "wrong version" in stopped.verdict_text
    with pytest.raises(RolloutError, match="ended as stopped"):
        desk.testing.stop(test.id, WHY)


def test_an_extension_moves_the_last_bar_and_the_deadline(desk: Desk) -> None:
    test = desk.start().test
    before = get_rollout(desk.stage.store, test.rollout_id).plan["hold_s"]
    longer = desk.testing.extend(test.id, 24, WHY)
    assert longer.until_bar == hour(70)
    assert longer.min_until_bar == test.min_until_bar
    after = get_rollout(desk.stage.store, test.rollout_id).plan["hold_s"]
    assert after - before == pytest.approx(2 * DAY_S)


def test_an_extension_that_holds_no_bar_is_refused(desk: Desk) -> None:
    test = desk.start().test
    with pytest.raises(AbTestMalformed, match="hold no bar of 1h"):
        desk.testing.extend(test.id, 0.2, WHY)


def test_an_ended_test_is_not_extended(desk: Desk) -> None:
    test = desk.start().test
    desk.testing.stop(test.id, WHY)
    with pytest.raises(RolloutError, match="ended as stopped"):
        desk.testing.extend(test.id, 24, WHY)


def test_a_plan_alone_begins_nothing(desk: Desk) -> None:
    request = AbTestRequest(model_a_id=CHAMPION, model_b_id=CHALLENGER)
    assert desk.testing.plan(request).planned_pairs == 47
    assert list_tests(desk.stage.store) == ()


def test_a_test_is_counted_in_the_ledger_and_told_by_explain(desk: Desk) -> None:
    first = desk.start().test
    desk.testing.stop(first.id, replace(WHY, reason="wrong version"))
    registry: Any = SimpleNamespace(store=desk.stage.store)
    (text,) = explain(registry, CHALLENGER).tests
    assert text.startswith(f"{first.id} as challenger with {CHAMPION}: stopped.")
    assert "test 1 of the service within a year, each errs with a chance of 5.0%" in text
    assert text in str(explain(registry, CHALLENGER))
    (text,) = explain(registry, CHAMPION).tests
    assert text.startswith(f"{first.id} as champion with {CHALLENGER}")
    counted = [
        count_ab_tests(desk.stage.store, VOLATILITY.key, until=START + days * timedelta(days=1))
        for days in (-1, 0, 364, 366)
    ]
    assert counted == [0, 1, 1, 0]


def wish(desk: Desk, **asked: Any) -> None:
    """What the registration of a version leaves that is to be tested before it goes live."""
    version = get_version(desk.stage.store, CHALLENGER)
    config = AbTestSettings(**asked)
    why = replace(WHY, actor="train", reason="auto_deploy")
    plan = plan_from_test(desk.testing.config, config)
    with desk.stage.store.write() as connection:
        insert_wish(connection, version, plan=plan, why=why, test=config.model_dump(mode="json"))


def test_a_wish_for_a_test_begins_one_that_can_decide(desk: Desk) -> None:
    wish(desk, duration_hours=48, traffic_split=0.2, name="nightly", promote=False)
    (begun,) = desk.testing.start_waiting()
    test = begun.started.test
    assert (test.champion_id, test.challenger_id) == (CHAMPION, CHALLENGER)
    assert (test.split_bp, test.name, test.promote, test.requested_by) == (
        2000, "nightly", False, "train"
    )  # fmt: skip
    assert begun.started.plan.can_decide
    assert begun.started.plan.duration_hours > 48
    assert desk.testing.start_waiting() == ()
    assert list_tests(desk.stage.store) == (test,)


def test_a_wish_waits_while_another_test_runs(desk: Desk) -> None:
    add_version(desk.stage.store, "third", 3, status=Status.CHALLENGER)
    running = desk.start(model_b_id="third").test
    wish(desk)
    assert desk.testing.start_waiting() == ()
    desk.testing.stop(running.id, WHY)
    assert desk.testing.start_waiting() == (), "its rollout is still being undone"


def test_a_wish_that_cannot_begin_is_tried_again(desk: Desk) -> None:
    wish(desk)
    desk.feed.there = False
    (begun,) = desk.testing.start_waiting()
    assert (begun.started, "train it first" in begun.trouble) == (None, True)
    desk.feed.there = True
    (begun,) = desk.testing.start_waiting()
    assert begun.started is not None


@pytest.fixture
def any_desk(url: str) -> Iterator[Desk]:
    """A desk on each database."""
    with closing(open_store(url)) as store:
        yield make_desk(store, VOLATILITY)


def test_on_each_database_two_requests_at_once_begin_one_test(any_desk: Desk) -> None:
    desk = any_desk
    add_version(desk.stage.store, "third", 3, status=Status.CHALLENGER)
    outcomes = together(desk.start, lambda: desk.start(model_b_id="third"))
    refused = [found for found in outcomes if isinstance(found, Exception)]
    assert [type(error) for error in refused] == [RolloutRefused]
    (test,) = list_tests(desk.stage.store)
    assert [row.id for row in list_rollouts(desk.stage.store)] == [test.rollout_id]


def test_on_each_database_of_two_looks_at_once_one_is_written(any_desk: Desk) -> None:
    desk = any_desk
    test = desk.start(duration_hours=30).test
    now = START + 31 * HOUR
    looks = together(*[lambda: desk.testing.look(test.id, now=now)] * 2)
    assert looks[0].look == looks[1].look
    assert list_looks(desk.stage.store, test.id) == (looks[0].look,)
    assert {looked.test.verdict for looked in looks} == {Verdict.INCONCLUSIVE}
