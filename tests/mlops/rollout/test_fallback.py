"""A champion that fails, or lost its skill for good, is replaced; any other champion stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from mlops.rollout import fallback
from mlops.rollout.analysis import ChampionTrials, TrialCounts
from mlops.rollout.controller import Controller
from mlops.rollout.fallback import (
    HOLDS_UP_S,
    champion_failing,
    decide_fallback,
    explain_requests,
    return_to_baseline,
)
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.wishes import insert_wish
from mlops.store import (
    Route,
    Status,
    Store,
    get_rollout,
    get_version,
    list_audit_entries,
    list_live_periods,
)
from mlops.store.alerts import (
    Condition,
    Severity,
    Trouble,
    list_alerts,
    raise_alert,
    recover_alert,
)
from mlops.store.triggers import Answer
from mlops.store.versions import insert_version
from tests.mlops.rollout.snapshots import LACKS, a_replica

from .rows import (
    ASKED,
    BASELINE,
    CHALLENGER,
    CHAMPION,
    NOW,
    SERVICE,
    Clock,
    RowReplica,
    ask,
    carry,
    count,
    make_version,
    route_of,
)
from .skill import lose_skill, retrain

ROUTE = Route(SERVICE, 7, CHAMPION, "previous", BASELINE, NOW, NOW)
NONE, OWN_PASSED, OWN_FAILED = TrialCounts(), TrialCounts(23, 0), TrialCounts(23, 1)
HEALTHY = ChampionTrials(TrialCounts(1000, 1))
WORSE = TrialCounts(1000, 200)
FAILING = ChampionTrials(WORSE, OWN_FAILED)
HOLDS = a_replica(held={CHAMPION: "ready", "previous": "ready"})
LOST = a_replica("r1", held={CHAMPION: "failed", "previous": "ready"})
LACKING = a_replica("r2", held={CHAMPION: LACKS, "previous": "ready"})
BASE = a_replica(held={BASELINE: "ready"})


@pytest.mark.parametrize(
    ("replicas", "seen", "why"),
    [
        ((HOLDS,), HEALTHY, None),
        ((), HEALTHY, None),
        ((HOLDS,), ChampionTrials(), None),
        ((HOLDS,), ChampionTrials(TrialCounts(20, 1), OWN_FAILED), None),
        ((HOLDS,), ChampionTrials(HEALTHY.live, OWN_FAILED), None),
        ((HOLDS,), ChampionTrials(WORSE, OWN_PASSED), None),
        ((HOLDS,), ChampionTrials(WORSE), None),
        ((HOLDS,), FAILING, "champion fails: 200 faults in 1000 trials"),
        ((HOLDS,), FAILING, "it fails on 1 of 23 inputs of our own too"),
        ((), FAILING, "champion fails"),
        ((HOLDS, LOST), HEALTHY, None),
        ((a_replica(held={}), LOST), HEALTHY, None),
        ((LACKING, LOST), HEALTHY, None),
        ((LACKING,), HEALTHY, None),
        ((LOST, LOST), HEALTHY, "champion does not load in any of 2 replicas: no file"),
        ((a_replica(held={}),), HEALTHY, None),
    ],
)
def test_a_champion_fails_by_requests_and_own_inputs_or_by_broken_files_in_all_replicas(
    replicas: tuple[object, ...], seen: ChampionTrials, why: str | None
) -> None:
    found = champion_failing(ROUTE, replicas, seen)  # type: ignore[arg-type]
    assert found is None if why is None else why in str(found)


@pytest.mark.parametrize(
    ("live", "own", "told"),
    [(WORSE, OWN_PASSED, True), (WORSE, OWN_FAILED, False), (WORSE, NONE, False),
     (HEALTHY.live, OWN_PASSED, False)],
)  # fmt: skip
def test_people_are_told_of_a_champion_that_fails_on_requests_alone(
    live: TrialCounts, own: TrialCounts, told: bool
) -> None:
    text = explain_requests(ROUTE, ChampionTrials(live, own))
    assert (text is not None) == told
    assert not told or "champion fails on requests: 200 faults in 1000 trials" in str(text)


def test_the_previous_champion_takes_over_where_it_is_held() -> None:
    fallback = decide_fallback(ROUTE, (HOLDS,), FAILING)
    assert fallback is not None
    assert (fallback.route.champion, fallback.route.previous_champion) == ("previous", None)
    assert fallback.statuses == {"previous": Status.DEPLOYED, CHAMPION: Status.FAILED}
    assert "previous serves instead" in fallback.reason


@pytest.mark.parametrize(
    ("route", "replicas", "status"),
    [
        (replace(ROUTE, previous_champion=None), (BASE,), None),
        (ROUTE, (a_replica(held={CHAMPION: "failed", BASELINE: "ready"}),), Status.RETIRED),
        (ROUTE, (BASE,), Status.RETIRED),
        (ROUTE, (HOLDS, BASE), Status.FAILED),
    ],
)
def test_else_the_baseline_does(
    route: Route, replicas: tuple[object, ...], status: Status | None
) -> None:
    fallback = decide_fallback(route, replicas, FAILING, previous_status=status)  # type: ignore[arg-type]
    assert fallback is not None
    assert (fallback.route.champion, fallback.route.previous_champion) == (BASELINE, None)


@pytest.mark.parametrize("replicas", [(), (a_replica(held={CHAMPION: "ready"}),)])
def test_a_champion_stays_where_no_replica_holds_a_successor(
    replicas: tuple[object, ...],
) -> None:
    assert decide_fallback(ROUTE, replicas, FAILING) is None  # type: ignore[arg-type]


def test_a_healthy_champion_stays() -> None:
    assert decide_fallback(ROUTE, (HOLDS,), HEALTHY) is None


def test_below_the_baseline_there_is_nothing() -> None:
    assert decide_fallback(replace(ROUTE, champion=BASELINE), (HOLDS,), FAILING) is None


# Lost skill --------------------------------------------------------------------------------------


def lost_and_refused(store: Store) -> None:
    lose_skill(store)
    retrain(store, Answer.REFUSED)


def recover(store: Store) -> None:
    """A later whole window shows nothing of it."""
    with store.write() as connection:
        recover_alert(
            connection,
            condition=Condition.PERFORMANCE_DEGRADED,
            service=SERVICE,
            subject=CHAMPION,
            at=NOW,
            text="it is back",
        )


def test_the_baseline_serves_and_the_champion_is_retired(service: Store) -> None:
    lost_and_refused(service)
    [moved] = return_to_baseline(service, now=NOW)
    assert "refused_1" in moved.reason
    route = route_of(service)
    assert (route.champion, route.previous_champion) == (BASELINE, None)
    assert get_version(service, BASELINE).status is Status.DEPLOYED
    assert get_version(service, CHAMPION).status is Status.RETIRED
    last = list_live_periods(service, SERVICE)[-1]
    assert (last.action, last.reason) == ("return_to_baseline", moved.reason)
    [entry] = [one for one in list_audit_entries(service) if one.action == "return_to_baseline"]
    assert (entry.before or {})["champion"] == CHAMPION


def test_a_baseline_that_no_live_replica_holds_takes_no_place(light: Store) -> None:
    lost_and_refused(light)
    one = RowReplica(light, lacks=frozenset({BASELINE}))
    one.follow()
    assert return_to_baseline(light) == ()
    assert route_of(light).champion == CHAMPION
    one.lacks = frozenset()
    one.follow()
    assert len(return_to_baseline(light)) == 1


def test_people_are_told_that_the_baseline_serves_and_not_twice_of_the_lost_skill(
    service: Store,
) -> None:
    lost_and_refused(service)
    return_to_baseline(service)
    [told] = list_alerts(service, lasting_only=True)
    assert told.condition is Condition.PERFORMANCE_DEGRADED
    assert told.severity is Severity.CRITICAL
    assert told.title == f"{SERVICE} is back on its baseline"
    assert told.detail == {"champion": CHAMPION}


def too_early(store: Store) -> None:
    lose_skill(store)
    retrain(store, Answer.TOO_EARLY)


def replaced(store: Store) -> None:
    lose_skill(store)
    retrain(store, Answer.CHALLENGER)


def died(store: Store) -> None:
    lose_skill(store)
    retrain(store, Answer.FAILED)


def back_again(store: Store) -> None:
    lost_and_refused(store)
    recover(store)


def about_another(store: Store) -> None:
    lose_skill(store, CHALLENGER)
    retrain(store, Answer.REFUSED)


def asked_anew(store: Store) -> None:
    lost_and_refused(store)
    lose_skill(store, week=9)


def on_the_way(store: Store) -> None:
    lost_and_refused(store)
    ask(store)


@pytest.mark.parametrize(
    "told",
    [lose_skill, too_early, replaced, died, back_again, about_another, asked_anew, on_the_way],
)
def test_the_champion_keeps_its_place(light: Store, told: Callable[[Store], None]) -> None:
    told(light)
    assert return_to_baseline(light) == ()
    assert route_of(light).champion == CHAMPION


def test_skill_that_is_lost_again_after_a_refusal_waits_for_no_second_one(light: Store) -> None:
    """The alarm that led to a refusal is not heard again for a while, so none would come."""
    back_again(light)
    with light.write() as connection:
        again = Trouble(Condition.PERFORMANCE_DEGRADED, SERVICE, CHAMPION, "lost again", "-")
        raise_alert(connection, again, at=NOW)
    assert len(return_to_baseline(light)) == 1


def test_a_long_rollout_is_aborted_first_and_the_next_tick_returns(light: Store) -> None:
    """The controller makes up for the return before it begins the wish that waits."""
    clock, replica = Clock(), RowReplica(light)
    controller = Controller(light, "one", now=clock)
    row = ask(light, Strategy.CANARY, now=clock())
    carry(controller, [replica])
    clock.at += timedelta(seconds=HOLDS_UP_S)
    lost_and_refused(light)
    with light.write() as connection:
        new = make_version("new", 4, status=Status.CHALLENGER)
        insert_version(connection, new, ASKED)
        insert_wish(connection, new, plan=plan_for(Strategy.CANARY), why=ASKED)
    assert return_to_baseline(light, now=clock()) == ()
    assert return_to_baseline(light, now=clock()) == ()
    replica.follow()
    controller.tick()
    replica.follow()
    ended = controller.tick()
    assert [moved.what for moved in ended] == [f"{row.id} failed", "return_to_baseline"]
    asked_for = get_rollout(light, row.id).abort_requested
    assert asked_for is not None
    assert asked_for.startswith(f"monitor: {CHAMPION} lost its skill")
    assert route_of(light).champion == BASELINE
    aborts = [one for one in list_audit_entries(light) if one.action == "abort_rollout"]
    assert len(aborts) == 1
    begun = next(moved for moved in controller.tick() if moved.what.endswith("pending"))
    assert get_rollout(light, begun.what.split()[0]).from_version == BASELINE


@pytest.mark.parametrize(("hours", "held_up"), [(0.9, True), (1.1, False)])
def test_an_ordinary_rollout_holds_the_return_up_for_its_first_hour(
    light: Store, hours: float, held_up: bool
) -> None:
    row = ask(light, now=NOW)
    lost_and_refused(light)
    assert return_to_baseline(light, now=NOW + timedelta(hours=hours)) == ()
    assert (get_rollout(light, row.id).abort_requested is None) is held_up


def test_what_was_done_is_not_done_twice(light: Store) -> None:
    lost_and_refused(light)
    assert len(return_to_baseline(light, SERVICE)) == 1
    before = route_of(light), list_alerts(light)
    assert return_to_baseline(light) == ()
    assert (route_of(light), list_alerts(light)) == before


def test_a_return_that_cannot_be_told_never_was(
    light: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_and_refused(light)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(fallback, "raise_returned_to_baseline", fail)
    with pytest.raises(RuntimeError, match="no room"):
        return_to_baseline(light)
    assert route_of(light).champion == CHAMPION
    assert get_version(light, CHAMPION).status is Status.DEPLOYED


def test_the_notice_ends_when_another_version_goes_live(
    service: Store, replica: RowReplica
) -> None:
    lost_and_refused(service)
    return_to_baseline(service, now=NOW)
    clock = Clock()
    controller = Controller(service, "one", now=clock)
    count(service, ask(service, Strategy.BLUE_GREEN, now=clock()))
    for _ in range(9):
        carry(controller, [replica])
        clock.at += timedelta(minutes=5)
    assert route_of(service).champion == CHALLENGER
    assert list_alerts(service, lasting_only=True) == ()
