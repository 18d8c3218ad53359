"""A test keeps its split until its verdict is on record, and only then the route changes.

The rows and rules know champion and challenger only. So each verdict is tried with the champion
under both names that a person may have given it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from mlops.deployer import is_champion
from mlops.errors import RolloutError, RolloutRefused, StoreError
from mlops.rollout.comparing import UNEVALUATED
from mlops.rollout.controller import Controller
from mlops.rollout.fallback import return_to_baseline
from mlops.rollout.plan import Strategy, ab_test_plan, plan_for
from mlops.rollout.reading import read_rollouts
from mlops.rollout.request import request_rollout, request_test
from mlops.rollout.wishes import insert_wish, list_waiting_tests
from mlops.store import (
    AbTest,
    Phase,
    Rollout,
    Status,
    Store,
    Verdict,
    Why,
    get_rollout,
    get_test,
    get_version,
    list_audit_entries,
    list_events,
    list_rollouts,
    list_tests,
)
from mlops.store.ab_tests import running_test
from mlops.store.alerts import Condition, list_alerts
from mlops.store.rollouts import Arrow, move_rollout, request_abort
from mlops.store.triggers import Answer
from mlops.store.versions import insert_version

from .books import check_books
from .rows import (
    ASKED,
    BASELINE,
    CHALLENGER,
    CHAMPION,
    NOW,
    SERVICE,
    SPLIT_BP,
    Clock,
    RowReplica,
    add_version,
    ask,
    ask_test,
    carry,
    count,
    find_verdict,
    make_test,
    make_version,
    route_of,
    verdict_of,
)
from .skill import lose_skill, retrain

THIRD = "third"
WITHOUT_WINNER = (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE, Verdict.INVALID)
TRAINED = Why(NOW, actor="train", reason="auto_deploy")


class Course:
    """A test that has its split, with the controller and the replica that carry it."""

    def __init__(self, store: Store, **changes: object) -> None:
        self.store, self.clock = store, Clock()
        self.controller = Controller(store, "one", now=self.clock)
        self.replica = RowReplica(store)
        self.test = ask_test(store, now=self.clock(), **changes)
        self.begin()

    def begin(self) -> None:
        count(self.store, self.rollout)
        self.carry()
        assert self.rollout.phase is Phase.STEP, self.rollout.reason

    def carry(self) -> None:
        carry(self.controller, [self.replica])

    def wait(self, seconds: float) -> None:
        self.clock.at += timedelta(seconds=seconds)
        self.carry()

    @property
    def rollout(self) -> Rollout:
        return get_rollout(self.store, self.test.rollout_id)

    @property
    def verdict(self) -> Verdict | None:
        return verdict_of(self.store, self.test)


@pytest.fixture
def course(light: Store) -> Course:
    return Course(light)


def path(store: Store, test: AbTest) -> list[Phase]:
    return [event.to_phase for event in list_events(store, test.rollout_id)]


@pytest.mark.parametrize("champion_is", ["a", "b"])
def test_a_better_challenger_is_promoted_once_its_verdict_is_on_record(
    service: Store, champion_is: str
) -> None:
    course = Course(service, champion_is=champion_is)
    course.wait(86_400.0)
    before = route_of(service)
    assert (before.champion, before.challenger) == (CHAMPION, CHALLENGER)
    assert (before.weight_bp, course.rollout.phase) == (SPLIT_BP, Phase.STEP)
    assert find_verdict(service, course.test, Verdict.BETTER)
    course.carry()
    assert route_of(service).champion == CHALLENGER
    promotion = list_events(service, course.test.rollout_id)[-1]
    assert promotion.to_phase is Phase.PROMOTED
    assert promotion.reason == "promoted: it is better"
    course.wait(3600.0)
    assert course.rollout.phase is Phase.DONE
    assert is_champion(service, course.rollout)
    assert get_version(service, CHALLENGER).status is Status.DEPLOYED
    assert get_version(service, CHAMPION).status is Status.RETIRED
    check_books(service)


@pytest.mark.parametrize("champion_is", ["a", "b"])
@pytest.mark.parametrize("verdict", [Verdict.WORSE, *WITHOUT_WINNER])
def test_any_other_verdict_keeps_the_champion(
    light: Store, champion_is: str, verdict: Verdict
) -> None:
    course = Course(light, champion_is=champion_is)
    assert find_verdict(light, course.test, verdict)
    course.carry()
    kept = verdict is not Verdict.WORSE
    assert course.rollout.phase is (Phase.DONE if kept else Phase.FAILED)
    assert path(light, course.test)[-2] is Phase.ROLLBACK
    assert f"ended as {verdict}: it is {verdict}" in course.rollout.reason
    assert not is_champion(light, course.rollout)
    assert get_version(light, CHALLENGER).status is (Status.CHALLENGER if kept else Status.FAILED)
    route = route_of(light)
    assert (route.champion, route.challenger, route.weight_bp) == (CHAMPION, None, 0)
    failed = [one for one in list_alerts(light) if one.condition is Condition.DEPLOYMENT_FAILED]
    assert bool(failed) is not kept
    assert course.verdict is verdict
    check_books(light)


def test_a_winner_that_is_not_to_be_promoted_stays_a_challenger(light: Store) -> None:
    course = Course(light, promote=False)
    assert find_verdict(light, course.test, Verdict.BETTER)
    course.carry()
    assert course.rollout.phase is Phase.DONE
    assert route_of(light).champion == CHAMPION
    assert get_version(light, CHALLENGER).status is Status.CHALLENGER
    assert list_alerts(light) == ()


def test_which_arm_is_called_b_is_no_input_of_a_decision(course: Course) -> None:
    with course.store.read() as connection:
        reading = read_rollouts(connection, course.clock())
    row = course.rollout
    other = replace(course.test, champion_is="b")
    renamed = replace(reading, tests={row.id: other})
    assert reading.tests == {row.id: course.test}
    assert renamed.snapshot_of(row) == reading.snapshot_of(row)


def test_a_stopped_test_keeps_both_versions_and_alarms_nobody(course: Course) -> None:
    why = Why(NOW, actor="anna", reason="I know enough")
    request_abort(course.store, course.rollout.id, why)
    assert course.verdict is Verdict.STOPPED, "before the route changes"
    assert route_of(course.store).weight_bp == SPLIT_BP
    course.carry()
    assert course.rollout.phase is Phase.DONE
    assert get_test(course.store, course.test.id).verdict_text == "stopped by anna: I know enough"
    assert get_version(course.store, CHALLENGER).status is Status.CHALLENGER
    assert list_alerts(course.store) == ()


def test_a_challenger_that_fails_on_requests_ends_its_test_and_has_failed(course: Course) -> None:
    count(course.store, course.rollout, challenger_faults=100)
    course.carry()
    assert (course.rollout.phase, course.verdict) == (Phase.FAILED, Verdict.STOPPED)
    assert "worse than the champion" in str(get_test(course.store, course.test.id).verdict_text)
    assert get_version(course.store, CHALLENGER).status is Status.FAILED
    assert [one.condition for one in list_alerts(course.store)] == [Condition.DEPLOYMENT_FAILED]


def test_a_test_whose_challenger_never_loads_fails(light: Store) -> None:
    clock = Clock()
    controller, lacking = Controller(light, "one", now=clock), RowReplica(light)
    lacking.lacks = frozenset({CHALLENGER})
    test = ask_test(light, now=clock())
    carry(controller, [lacking])
    clock.at += timedelta(hours=3)
    carry(controller, [lacking])
    assert get_rollout(light, test.rollout_id).phase is Phase.FAILED
    assert verdict_of(light, test) is Verdict.STOPPED
    assert get_version(light, CHALLENGER).status is Status.CHALLENGER


def test_a_test_that_nobody_evaluates_stops_at_its_deadline(course: Course) -> None:
    course.wait(ab_test_plan(SPLIT_BP, duration_s=48 * 3600.0).hold_s)
    assert course.rollout.phase is Phase.STEP
    course.wait(60.0)
    assert course.rollout.phase is Phase.DONE
    ended = get_test(course.store, course.test.id)
    assert (ended.verdict, ended.verdict_text) == (Verdict.STOPPED, UNEVALUATED)
    assert list_alerts(course.store) == ()


def test_a_verdict_found_before_a_long_stop_is_followed_after_the_deadline(course: Course) -> None:
    assert find_verdict(course.store, course.test, Verdict.BETTER)
    course.wait(365 * 86_400.0)
    assert path(course.store, course.test)[4:] == [Phase.PROMOTED]


def test_a_verdict_that_comes_between_a_decision_and_its_arrow_is_not_overlooked(
    course: Course,
) -> None:
    row, route = course.rollout, route_of(course.store)
    assert find_verdict(course.store, course.test, Verdict.BETTER)
    undone = Arrow(to=Phase.ROLLBACK, step=0, patience=timedelta(1), reason="late")
    with pytest.raises(StoreError, match="ended as better since"), course.store.write() as write:
        move_rollout(write, row, route, undone, term=1, at=NOW)
    assert (course.rollout, course.verdict) == (row, Verdict.BETTER)


@pytest.mark.parametrize("verdict", [None, Verdict.WORSE, *WITHOUT_WINNER])
def test_no_transaction_promotes_a_challenger_without_a_stored_better(
    course: Course, verdict: Verdict | None
) -> None:
    if verdict is not None:
        assert find_verdict(course.store, course.test, verdict)
    row, route = course.rollout, route_of(course.store)
    arrow = Arrow(
        to=Phase.PROMOTED, step=1, patience=timedelta(1), reason="-", verdict_of_test=verdict
    )
    with pytest.raises(StoreError, match="has not found it better"), course.store.write() as write:
        move_rollout(write, row, route, arrow, term=1, at=NOW)
    assert course.rollout == row


# The slot -----------------------------------------------------------------------------------


def train(store: Store, model_id: str = THIRD, *, strategy: str = "blue_green") -> Rollout:
    """A version that passed its gates wants to go live."""
    row = make_version(model_id, 4, status=Status.CHALLENGER)
    with store.write() as connection:
        insert_version(connection, row, ASKED)
        test = {"name": "auto"} if strategy == Strategy.AB_TEST else None
        insert_wish(connection, row, plan=plan_for(strategy), why=TRAINED, test=test)
    return next(one for one in list_rollouts(store) if one.to_version == model_id)


def test_a_third_version_by_schedule_waits_for_the_end_of_the_test(course: Course) -> None:
    wish = train(course.store)
    course.wait(86_400.0)
    assert (course.rollout.phase, course.verdict) == (Phase.STEP, None)
    assert get_rollout(course.store, wish.id).phase is Phase.WAITING
    assert find_verdict(course.store, course.test, Verdict.EQUIVALENT)
    for _ in range(2):
        course.carry()
    assert get_rollout(course.store, wish.id).phase is Phase.GATE


def test_a_third_version_by_a_person_is_refused_and_told_of_the_test(course: Course) -> None:
    add_version(course.store, THIRD, 4, status=Status.CHALLENGER)
    with pytest.raises(RolloutRefused) as refusal:
        request_rollout(course.store, THIRD, plan_for("canary"), ASKED)
    assert course.test.id in str(refusal.value)
    assert "end_test=True" in str(refusal.value)
    assert (course.rollout.phase, course.verdict) == (Phase.STEP, None)


def test_a_person_may_end_the_test_for_a_third_version(service: Store) -> None:
    course = Course(service)
    add_version(service, THIRD, 4, status=Status.CHALLENGER)
    row = request_rollout(
        service, THIRD, plan_for("canary"), ASKED, end_test=True, now=course.clock()
    )
    ended = get_test(service, course.test.id)
    assert (ended.verdict, ended.verdict_text) == (Verdict.STOPPED, f"superseded by {THIRD}")
    assert course.rollout.phase is Phase.DONE
    assert get_version(service, CHALLENGER).status is Status.CHALLENGER
    course.carry()
    assert get_rollout(service, row.id).phase is Phase.GATE
    assert route_of(service).challenger == THIRD
    check_books(service)


def test_a_test_with_a_verdict_is_not_superseded(course: Course) -> None:
    add_version(course.store, THIRD, 4, status=Status.CHALLENGER)
    assert find_verdict(course.store, course.test, Verdict.BETTER)
    with pytest.raises(RolloutRefused, match=f"{course.test.id} ended as better"):
        request_rollout(course.store, THIRD, plan_for("canary"), ASKED, end_test=True)


def test_two_requests_for_one_service_at_once_begin_one_test(service: Store) -> None:
    add_version(service, THIRD, 4, status=Status.CHALLENGER)
    plan = ab_test_plan(SPLIT_BP, duration_s=3600.0)

    def request(challenger: str) -> str | None:
        try:
            return request_test(service, make_test(challenger_id=challenger), plan, ASKED).id
        except RolloutRefused as refusal:
            refusals.append(str(refusal))
            return None

    refusals: list[str] = []

    with ThreadPoolExecutor(2) as pool:
        begun = list(pool.map(request, (CHALLENGER, THIRD)))
    assert begun.count(None) == len(refusals) == 1
    assert "pass end_test=True" in refusals[0]
    [test] = list_tests(service)
    assert test.id in begun
    assert len(list_rollouts(service)) == 1


def test_a_repeated_request_begins_no_second_test(light: Store) -> None:
    first = ask_test(light, request_key="key-1", now=NOW)
    assert ask_test(light, request_key="key-1") == first
    assert list_tests(light) == (first,)


def test_a_retrain_of_an_arm_changes_nothing_of_the_test(course: Course) -> None:
    before = get_test(course.store, course.test.id), course.rollout, route_of(course.store)
    train(course.store, "challenger-again")
    course.carry()
    assert (get_test(course.store, course.test.id), course.rollout) == before[:2]
    assert route_of(course.store).challenger == CHALLENGER


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"champion_id": BASELINE}, f"{CHAMPION} is the champion of {SERVICE}, not {BASELINE}"),
        ({"challenger_id": BASELINE}, "is the baseline"),
        ({"challenger_id": CHAMPION}, "is the champion of .* already"),
        ({"challenger_id": "refused"}, "may not go live: its gates refused it"),
        ({"challenger_id": "claimed"}, "its caller's claims"),
    ],
)
def test_a_test_needs_the_champion_and_a_version_that_may_go_live(
    light: Store, changes: dict[str, str], refusal: str
) -> None:
    add_version(light, "refused", 4, status=Status.REFUSED, report={"passed": False})
    add_version(light, "claimed", 5, status=Status.CHALLENGER, claims_only=True)
    with pytest.raises(RolloutRefused, match=refusal):
        ask_test(light, **changes)
    assert (list_tests(light), list_rollouts(light)) == ((), ())


def test_the_plan_of_a_test_is_its_own(light: Store) -> None:
    with pytest.raises(RolloutError, match="use ab_test_plan"):
        request_test(light, make_test(), ab_test_plan(1000, duration_s=60.0), ASKED)
    with pytest.raises(RolloutError, match="use request_test"):
        request_rollout(light, CHALLENGER, ab_test_plan(1000, duration_s=60.0), ASKED)


# Shadows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", ["person", "test"])
def test_a_shadow_makes_room_for_a_request_and_begins_again(light: Store, asks: str) -> None:
    add_version(light, THIRD, 4, status=Status.CHALLENGER)
    clock, replica = Clock(), RowReplica(light)
    controller = Controller(light, "one", now=clock)
    shadow = request_rollout(light, THIRD, plan_for("shadow"), ASKED, now=clock())
    carry(controller, [replica])
    clock.at += timedelta(minutes=1)
    if asks == "test":
        row = get_rollout(light, ask_test(light, now=clock()).rollout_id)
    else:
        row = ask(light, now=clock())
    ended = get_rollout(light, shadow.id)
    assert (ended.phase, ended.reason) == (Phase.DONE, f"{CHALLENGER} was asked for by anna")
    request_abort(light, row.id, ASKED)
    for _ in range(3):
        clock.at += timedelta(minutes=1)
        carry(controller, [replica])
    again = list_rollouts(light)[0]
    assert (again.strategy, again.to_version, again.phase) == ("shadow", THIRD, Phase.GATE)
    assert again.id != shadow.id
    check_books(light)


def test_a_shadow_makes_room_for_a_wish(light: Store) -> None:
    clock, replica = Clock(), RowReplica(light)
    controller = Controller(light, "one", now=clock)
    shadow = ask(light, Strategy.SHADOW, now=clock())
    carry(controller, [replica])
    wish = train(light)
    for _ in range(2):
        carry(controller, [replica])
    assert get_rollout(light, shadow.id).phase is Phase.DONE
    assert f"{THIRD} is to go live" in get_rollout(light, shadow.id).reason
    assert get_rollout(light, wish.id).phase is Phase.GATE


def test_a_shadow_that_was_interrupted_for_its_own_version_does_not_begin_again(
    light: Store,
) -> None:
    clock, replica = Clock(), RowReplica(light)
    controller = Controller(light, "one", now=clock)
    ask(light, Strategy.SHADOW, now=clock())
    carry(controller, [replica])
    request_abort(light, ask(light, now=clock()).id, ASKED)
    for _ in range(3):
        carry(controller, [replica])
    assert all(row.phase.final for row in list_rollouts(light))


def test_a_wish_for_a_test_waits_for_who_can_plan_it(light: Store) -> None:
    clock, replica = Clock(), RowReplica(light)
    controller = Controller(light, "one", now=clock)
    wish = train(light, strategy="ab_test")
    carry(controller, [replica])
    assert [(one.id, one.plan["test"]) for one in list_waiting_tests(light)] == [
        (wish.id, {"name": "auto"})
    ]
    test = ask_test(light, challenger_id=THIRD, now=clock())
    assert list_waiting_tests(light) == ()
    ended = get_rollout(light, wish.id)
    assert (ended.phase, ended.reason) == (
        Phase.FAILED,
        f"replaced by {test.rollout_id} of anna",
    )
    assert list_alerts(light) == ()


# Lost skill ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strategy.AB_TEST, Strategy.SHADOW])
def test_lost_skill_of_the_champion_ends_what_compares_and_the_baseline_returns_at_once(
    service: Store, strategy: Strategy
) -> None:
    clock, replica = Clock(), RowReplica(service)
    controller = Controller(service, "one", now=clock)
    if strategy is Strategy.AB_TEST:
        row = get_rollout(service, ask_test(service, now=clock()).rollout_id)
    else:
        row = ask(service, strategy, now=clock())
    count(service, row)
    carry(controller, [replica])
    lose_skill(service)
    retrain(service, Answer.REFUSED)
    [move] = return_to_baseline(service, now=clock())
    assert move.what == "return_to_baseline"
    route = route_of(service)
    assert (route.champion, route.challenger, route.weight_bp) == (BASELINE, None, 0)
    ended = get_rollout(service, row.id)
    assert ended.phase is Phase.DONE
    assert f"{CHAMPION} lost its skill" in ended.reason
    for test in list_tests(service):
        assert test.verdict is Verdict.STOPPED
        assert test.verdict_text == ended.reason
    check_books(service)


def test_what_ends_a_test_is_written_in_one_transaction(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the route cannot be changed, the test goes on as if nobody had asked."""
    add_version(course.store, THIRD, 4, status=Status.CHALLENGER)
    before = course.rollout, route_of(course.store), get_test(course.store, course.test.id)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("mlops.rollout.request.insert_rollout", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        request_rollout(course.store, THIRD, plan_for("canary"), ASKED, end_test=True)
    assert (
        course.rollout,
        route_of(course.store),
        get_test(course.store, course.test.id),
    ) == before
    with course.store.read() as connection:
        assert running_test(connection, SERVICE) == course.test
    assert not any(one.action == "conclude_ab_test" for one in list_audit_entries(course.store))
