"""The controller carries rollouts on by the rows alone, whoever asked and whoever died."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from mlops.rollout.controller import (
    EXPOSURE_S,
    FORGET_EVIDENCE_S,
    FORGET_REPLICA_S,
    Controller,
)
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.reading import read_rollouts
from mlops.rollout.request import request_rollout
from mlops.rollout.runner import read_progress
from mlops.store import (
    Phase,
    Status,
    Store,
    Why,
    get_rollout,
    get_version,
    list_audit_entries,
    list_events,
    list_live_periods,
    list_replicas,
    live_at,
)
from mlops.store.alerts import Condition, list_alerts
from mlops.store.request_counts import Source
from mlops.store.rollouts import request_abort
from mlops.store.routes import begin_route, change_route
from mlops.store.schema import evidence, lease
from mlops.store.schema import replica as replica_table
from mlops.store.schema import rollout as rollout_table
from mlops.store.sql import db_now
from tests.clocks import DatabaseClock, each_jump

from .rows import (
    ASKED,
    BASELINE,
    CHALLENGER,
    CHAMPION,
    NOW,
    SERVICE,
    Clock,
    RowReplica,
    add_version,
    ask,
    begin_rollouts,
    carry,
    count,
    count_champion,
    count_short,
    route_of,
)

LATER = timedelta(minutes=5)


def path(store: Store, rollout_id: str) -> list[Phase]:
    return [event.to_phase for event in list_events(store, rollout_id)]


def promoted_by(store: Store, strategy: Strategy, replicas: list[RowReplica]) -> str:
    """Bring a good challenger live; returns the rollout."""
    clock = Clock()
    controller = Controller(store, "one", now=clock)
    asked = ask(store, strategy, now=clock())
    count(store, asked)
    for _ in range(9):
        carry(controller, replicas)
        clock.at += LATER
    return asked.id


@pytest.mark.parametrize("strategy", [Strategy.CANARY, Strategy.BLUE_GREEN, Strategy.ROLLING])
def test_a_good_challenger_goes_live(service: Store, strategy: Strategy) -> None:
    replicas = [RowReplica(service, name) for name in ("r0", "r1")]
    rollout_id = promoted_by(service, strategy, replicas)
    steps = {Strategy.CANARY: 4, Strategy.BLUE_GREEN: 1, Strategy.ROLLING: 2}[strategy]
    assert path(service, rollout_id) == [
        Phase.PENDING,
        Phase.LOADING,
        Phase.GATE,
        *[Phase.STEP] * steps,
        Phase.PROMOTED,
        Phase.DONE,
    ]
    route = route_of(service)
    assert (route.champion, route.previous_champion) == (CHALLENGER, CHAMPION)
    assert (route.challenger, route.weight_bp, route.only_replicas) == (None, 0, None)
    assert get_version(service, CHALLENGER).status is Status.DEPLOYED
    assert get_version(service, CHAMPION).status is Status.RETIRED
    assert all(one.ready == {BASELINE, CHAMPION, CHALLENGER} for one in replicas)


@each_jump
@pytest.mark.parametrize("ticks", [0, 2])
def test_no_jump_of_the_clock_freezes_a_rollout(
    clock: DatabaseClock, service: Store, jump_s: float, ticks: int
) -> None:
    """The controller dies before the jump; the next one ends the rollout in minutes."""
    replicas = [RowReplica(service, name) for name in ("r0", "r1")]
    asked = ask(service, Strategy.BLUE_GREEN)
    count(service, asked)
    for _ in range(ticks):
        carry(Controller(service, "the dead"), replicas, rounds=1)
    assert not get_rollout(service, asked.id).phase.final
    clock.jump(jump_s)
    for _ in range(8):
        carry(Controller(service, "the next"), replicas)
        clock.jump(30)
    ended = get_rollout(service, asked.id)
    # Set forward, the clock has passed the deadline of a phase that waits for replicas.
    assert ended.phase is Phase.DONE or (jump_s > 0 and ended.phase is Phase.FAILED)


def test_a_shadow_leaves_everything_as_it_was(service: Store) -> None:
    before = route_of(service)
    clock = Clock()
    controller, one = Controller(service, "one", now=clock), RowReplica(service)
    asked = ask(service, Strategy.SHADOW, now=clock())
    count(service, asked)
    for _ in range(4):
        carry(controller, [one])
        clock.at += timedelta(days=1)
    assert path(service, asked.id)[-1] is Phase.DONE
    after = route_of(service)
    assert after == replace(
        before,
        generation=after.generation,
        updated_at=after.updated_at,
        valid_until=after.valid_until,
    )
    assert get_version(service, CHALLENGER).status is Status.CHALLENGER


def test_every_change_of_the_route_is_remembered_with_its_reason(service: Store) -> None:
    rollout_id = promoted_by(service, Strategy.CANARY, [RowReplica(service)])
    reigns = list_live_periods(service, SERVICE)
    assert [reign.generation for reign in reigns] == list(range(1, len(reigns) + 1))
    assert [reign.weight_bp for reign in reigns if reign.action == "rollout_step"] == [
        1000,
        2500,
        5000,
        10_000,
    ]
    assert reigns[-1].action == "rollout_promoted"
    assert reigns[-1].reason.startswith("promoted: 0 faults in 1000 trials")
    events = list_events(service, rollout_id)
    assert {event.term for event in events[1:]} == {1}
    moved = [
        entry.action for entry in list_audit_entries(service) if entry.action.startswith("rollout_")
    ]
    assert moved == [reign.action for reign in reigns if reign.action.startswith("rollout_")]


def test_who_was_live_when_and_why_is_one_call(service: Store) -> None:
    promoted_by(service, Strategy.BLUE_GREEN, [RowReplica(service)])
    last = list_live_periods(service, SERVICE)[-1]
    at_the_change = live_at(service, SERVICE, last.at)
    before = live_at(service, SERVICE, last.at - timedelta(microseconds=1))
    assert at_the_change is not None
    assert before is not None
    assert (at_the_change.champion, before.champion) == (CHALLENGER, CHAMPION)
    assert at_the_change.actor == "controller"
    assert live_at(service, SERVICE, NOW - timedelta(days=1)) is None


def test_a_challenger_that_is_worse_is_rolled_back(service: Store) -> None:
    one, controller = RowReplica(service), Controller(service, "one")
    asked = ask(service)
    carry(controller, [one])
    count(service, asked)
    carry(controller, [one])
    assert get_rollout(service, asked.id).phase is Phase.STEP
    count(service, asked, challenger_faults=100)
    moved = carry(controller, [one])
    assert path(service, asked.id)[-2:] == [Phase.ROLLBACK, Phase.FAILED]
    assert "worse than the champion" in str(moved)
    assert get_version(service, CHALLENGER).status is Status.FAILED
    route = route_of(service)
    assert (route.champion, route.challenger, route.weight_bp) == (CHAMPION, None, 0)


def test_an_abort_is_carried_out_in_the_next_tick(service: Store) -> None:
    one, controller = RowReplica(service), Controller(service, "one")
    asked = ask(service)
    carry(controller, [one])
    request_abort(service, asked.id, Why(NOW, actor="anna", reason="a mistake"))
    assert [moved.what for moved in controller.tick()] == [f"{asked.id} rollback"]
    assert "aborted by anna: a mistake" in get_rollout(service, asked.id).reason
    carry(controller, [one])
    row = get_rollout(service, asked.id)
    assert (row.phase, row.reason) == (Phase.FAILED, "aborted by anna: a mistake")
    assert row.ended_at is not None
    assert get_version(service, CHALLENGER).status is Status.CHALLENGER


def test_without_a_replica_it_ends_at_its_deadline(service: Store) -> None:
    clock = Clock()
    controller = Controller(service, "one", now=clock)
    asked = ask(service, now=clock())
    assert controller.tick() == ()
    clock.at = asked.deadline
    assert [moved.reason for moved in controller.tick()] == [
        "no replica is running; start one with `make serve`"
    ]


def test_a_new_version_that_fails_after_its_promotion_is_reverted(service: Store) -> None:
    clock, one = Clock(), RowReplica(service)
    controller = Controller(service, "one", now=clock)
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    carry(controller, [one])
    clock.at += timedelta(minutes=2)
    carry(controller, [one])
    assert route_of(service).champion == CHALLENGER
    count_champion(service, trials=1000, faults=200)
    clock.at += timedelta(minutes=1)
    carry(controller, [one])
    assert path(service, asked.id)[-3:] == [Phase.PROMOTED, Phase.REVERTED, Phase.FAILED]
    route = route_of(service)
    assert (route.champion, route.previous_champion) == (CHAMPION, None)
    assert get_version(service, CHALLENGER).status is Status.FAILED
    assert get_version(service, CHAMPION).status is Status.DEPLOYED


def test_what_was_counted_of_an_earlier_reign_does_not_count_after_a_promotion(
    service: Store,
) -> None:
    """The version was champion before, failed then, and was mended or forced since."""
    asked = ask(service, now=NOW)
    with service.write() as connection:
        before = route_of(service)
        after = replace(before, champion=CHALLENGER, previous_champion=CHAMPION)
        change_route(connection, before, after, "rollout_promoted", Why(NOW))
        connection.execute(rollout_table.update().values(phase=Phase.PROMOTED))
    count_champion(service, trials=1000, faults=200)
    with service.write() as connection:
        connection.execute(evidence.update().values(updated_at=db_now() - 100))
    row = replace(asked, phase=Phase.PROMOTED)
    with service.read() as connection:
        young, old = (
            read_rollouts(connection, row.since + timedelta(seconds=age)).snapshot_of(row)
            for age in (60, 200)
        )
    assert (young.evidence.promoted.trials, old.evidence.promoted.trials) == (0, 1000)


# Stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "trials"),
    [(Phase.LOADING, 10), (Phase.GATE, 10), (Phase.STEP, 30), (Phase.PROMOTED, 1000)],
)
def test_a_rollout_goes_on_after_a_stop_that_was_longer_than_its_deadline(
    service: Store, phase: Phase, trials: int
) -> None:
    controller, one = Controller(service, "one"), RowReplica(service)
    one.follow()
    asked = ask(service, plan_for(Strategy.BLUE_GREEN, dwell_s=0.0, bake_s=0.0))
    for _ in range(9):
        if get_rollout(service, asked.id).phase is phase:
            break
        count(service, asked, challenger_trials=trials)
        one.follow()
        controller.tick()
    assert get_rollout(service, asked.id).phase is phase
    one.crash()
    with service.write() as connection:
        connection.execute(rollout_table.update().values(since=NOW, deadline=NOW))
        connection.execute(replica_table.update().values(lease_until=0.0, started_at=NOW))
    assert controller.tick() == ()
    one.look()
    one.acknowledge()
    assert controller.tick() == ()
    count(service, asked)
    moved = carry(controller, [one])
    assert moved != {}
    assert get_rollout(service, asked.id).phase is Phase.DONE
    assert route_of(service).champion == CHALLENGER


# Clients that send too few bars -------------------------------------------------------------


def test_a_rollout_is_held_while_clients_send_too_few_bars(
    service: Store, replica: RowReplica, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    controller = Controller(service, "one", now=clock)
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    count_short(service, asked, dealt=100, short=2)
    for _ in range(3):
        carry(controller, [replica])
        clock.at += LATER
    assert get_rollout(service, asked.id).phase is Phase.STEP
    held = "held: 2 of 100 keys dealt to it send too few bars: it needs 169, they send 35"
    assert held in str(read_progress(service, asked.id).held)
    assert [held in record.message for record in caplog.records].count(True) == 1
    count_short(service, asked, dealt=201, short=2)
    carry(controller, [replica])
    assert read_progress(service, asked.id).held is None
    assert get_rollout(service, asked.id).phase is Phase.PROMOTED


def test_a_rollout_that_was_held_until_its_deadline_tells_both_counts_of_bars(
    service: Store, replica: RowReplica
) -> None:
    clock = Clock()
    controller = Controller(service, "one", now=clock)
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    count_short(service, asked, dealt=100, short=100)
    carry(controller, [replica])
    clock.at = get_rollout(service, asked.id).deadline
    carry(controller, [replica])
    row = get_rollout(service, asked.id)
    assert row.phase is Phase.FAILED
    assert "it needs 169, they send 35" in row.reason
    assert get_version(service, CHALLENGER).status is Status.CHALLENGER


# Health without a rollout -------------------------------------------------------------------


def test_a_failing_champion_falls_back_with_an_audit_row(
    service: Store, replica: RowReplica
) -> None:
    count_champion(service, trials=1000, faults=200)
    moved = Controller(service, "one").tick()
    assert [one.what for one in moved] == ["fall_back"]
    assert route_of(service).champion == BASELINE
    assert get_version(service, CHAMPION).status is Status.FAILED
    entry = next(one for one in list_audit_entries(service) if one.action == "fall_back")
    assert (entry.actor, entry.before, entry.after) == (
        "controller",
        {"champion": CHAMPION, "generation": 2},
        {"champion": BASELINE, "generation": 3},
    )
    assert "200 faults in 1000 trials" in entry.reason


def test_old_failures_of_a_champion_are_forgotten(service: Store, replica: RowReplica) -> None:
    count_champion(service, trials=1000, faults=200)
    with service.write() as connection:
        connection.execute(evidence.update().values(updated_at=db_now() - 601))
    assert Controller(service, "one").tick() == ()


def test_a_check_of_long_ago_moves_no_route(service: Store, replica: RowReplica) -> None:
    count_champion(service, trials=1000, faults=200)
    with service.write() as connection:
        old = evidence.update().where(evidence.c.source == Source.REPLAY)
        connection.execute(old.values(updated_at=db_now() - 601))
    assert Controller(service, "one").tick() == ()
    assert list_alerts(service) == ()


def test_a_champion_that_fails_on_requests_alone_stays_and_people_are_told_the_rate(
    service: Store, replica: RowReplica
) -> None:
    controller = Controller(service, "one")
    count_champion(service, trials=1000, faults=200, own_faults=0)
    assert controller.tick() == ()
    assert controller.tick() == ()
    assert route_of(service).champion == CHAMPION
    (alert,) = list_alerts(service, lasting_only=True)
    assert (alert.condition, alert.title) == (
        Condition.SYSTEM_TROUBLE,
        "champion fails on what clients send",
    )
    assert "200 faults in 1000 trials" in alert.text
    assert "passes its golden examples and the newest bars (23 inputs of our own)" in alert.text
    count_champion(service, trials=1000, faults=1, own_faults=0)
    controller.tick()
    assert list_alerts(service, lasting_only=True) == ()


def test_the_alert_on_requests_ends_when_the_champion_falls(
    service: Store, replica: RowReplica
) -> None:
    controller = Controller(service, "one")
    count_champion(service, trials=1000, faults=200, own_faults=0)
    controller.tick()
    count_champion(service, trials=1000, faults=200, own_faults=2)
    assert [moved.what for moved in controller.tick()] == ["fall_back"]
    (alert,) = list_alerts(service, lasting_only=True)
    assert alert.condition is Condition.DEPLOYMENT_FAILED


def test_requests_alone_end_no_rollout_by_way_of_the_champion(
    service: Store, replica: RowReplica
) -> None:
    controller = Controller(service, "one")
    asked = ask(service)
    carry(controller, [replica])
    count_champion(service, trials=1000, faults=200, own_faults=0)
    assert carry(controller, [replica]) == {}
    assert get_rollout(service, asked.id).phase is Phase.GATE
    assert len(list_alerts(service, lasting_only=True)) == 1


@pytest.mark.parametrize("others", [(), ("r1",)])
def test_a_replica_that_cannot_load_the_champion_moves_no_route_and_no_status(
    service: Store, others: tuple[str, ...]
) -> None:
    """It is short of memory, or the bundles are away; with others or alone."""
    short = RowReplica(service, lacks=frozenset({CHAMPION, BASELINE}))
    for one in (short, *(RowReplica(service, name) for name in others)):
        one.follow()
    controller, before = Controller(service, "one"), route_of(service)
    assert controller.tick() == ()
    assert route_of(service) == before
    assert get_version(service, CHAMPION).status is Status.DEPLOYED
    short.lacks = frozenset()
    short.follow()
    assert controller.tick() == ()
    assert short.ready == {BASELINE, CHAMPION}


def test_a_challenger_that_a_replica_has_no_room_for_waits_and_has_not_failed(
    service: Store,
) -> None:
    both = [RowReplica(service, lacks=frozenset({CHALLENGER})), RowReplica(service, "r1")]
    clock = Clock()
    controller = Controller(service, "one", now=clock)
    asked = ask(service, now=clock())
    carry(controller, both)
    assert get_rollout(service, asked.id).phase is Phase.LOADING
    clock.at = get_rollout(service, asked.id).deadline
    carry(controller, both)
    row = get_rollout(service, asked.id)
    assert (row.phase, row.reason) == (
        Phase.FAILED,
        "not loaded by the deadline: r0 cannot load it: broken",
    )
    assert get_version(service, CHALLENGER).status is Status.CHALLENGER


def test_a_champion_whose_files_are_wrong_everywhere_falls_back(service: Store) -> None:
    RowReplica(service, unloadable=frozenset({CHAMPION})).follow()
    assert [one.what for one in Controller(service, "one").tick()] == ["fall_back"]
    assert route_of(service).champion == BASELINE


def test_the_previous_champion_takes_over_first(service: Store) -> None:
    promoted_by(service, Strategy.BLUE_GREEN, [one := RowReplica(service)])
    one.follow()
    count_champion(service, trials=1000, faults=200)
    controller = Controller(service, "one")
    assert [moved.what for moved in controller.tick()] == ["fall_back"]
    assert route_of(service).champion == CHAMPION
    one.follow()
    count_champion(service, trials=1000, faults=200)
    controller.tick()
    assert route_of(service).champion == BASELINE


def test_a_failing_champion_ends_a_rollout_first(service: Store, replica: RowReplica) -> None:
    controller = Controller(service, "one")
    asked = ask(service)
    carry(controller, [replica])
    count_champion(service, trials=1000, faults=200)
    moved = carry(controller, [replica])
    assert list(moved) == [f"{asked.id} rollback", f"{asked.id} failed", "fall_back"]
    assert "the champion itself is failing" in moved[f"{asked.id} rollback"]
    assert route_of(service).champion == BASELINE


# Housekeeping -------------------------------------------------------------------------------


def test_a_share_counts_from_the_moment_it_is_given_and_as_long_as_it_is_renewed(
    service: Store, replica: RowReplica
) -> None:
    controller = Controller(service, "one")
    asked = ask(service)
    count(service, asked)
    carry(controller, [replica])
    assert route_of(service).weight_bp == 1000
    assert EXPOSURE_S - 1 < left(service) <= EXPOSURE_S
    with service.write() as connection:
        before = route_of(service)
        connection.execute(sa.text("UPDATE route SET valid_until = 0"))
    assert route_of(service).valid_until != before.valid_until
    controller.tick()
    assert EXPOSURE_S - 1 < left(service) <= EXPOSURE_S


def left(store: Store) -> float:
    with store.read() as connection:
        now = connection.execute(sa.select(db_now())).scalar_one()
    until = route_of(store).valid_until
    assert until is not None
    return until - now


def test_what_died_long_ago_is_forgotten(service: Store, replica: RowReplica) -> None:
    RowReplica(service, "dead").follow()
    count_champion(service, trials=10)
    with service.write() as connection:
        connection.execute(
            replica_table.update()
            .where(replica_table.c.id == "dead")
            .values(lease_until=db_now() - FORGET_REPLICA_S - 1)
        )
        connection.execute(evidence.update().values(updated_at=db_now() - FORGET_EVIDENCE_S - 1))
    Controller(service, "one").tick()
    with service.read() as connection:
        left_over = connection.execute(sa.select(replica_table.c.id)).scalars().all()
        counted = connection.execute(sa.select(sa.func.count()).select_from(evidence)).scalar()
    assert (left_over, counted) == (["r0"], 0)
    assert [one.id for one in list_replicas(service)] == ["r0"]


def test_a_tick_takes_several_arrows_of_one_rollout_where_nothing_holds_it(
    service: Store, replica: RowReplica
) -> None:
    controller = Controller(service, "one")
    asked = ask(service)
    count(service, asked)
    controller.tick()
    replica.follow()
    assert [moved.what for moved in controller.tick()] == [
        f"{asked.id} gate",
        f"{asked.id} step",
    ]


def test_two_services_are_carried_on_side_by_side(service: Store, replica: RowReplica) -> None:
    other = "sample.eth-usd.1h.volatility.24"
    add_version(service, "eth-baseline", 1, service=other)
    add_version(service, "eth-challenger", 2, service=other, status=Status.CHALLENGER)
    with service.write() as connection:
        begin_route(connection, other, "eth-baseline", Why(NOW))
    first = ask(service)
    second = request_rollout(service, "eth-challenger", plan_for("canary"), ASKED)
    moved = Controller(service, "one").tick()
    assert {one.what for one in moved} == {f"{first.id} loading", f"{second.id} loading"}


def test_a_controller_steps_down_and_the_next_one_begins_at_once(service: Store) -> None:
    one, two = Controller(service, "one"), Controller(service, "two")
    ask(service)
    one.tick()
    assert two.tick() == ()
    assert two.lease is None
    one.step_down()
    two.tick()
    assert two.lease is not None
    assert two.lease.term == 2
    with service.read() as connection:
        holder = connection.execute(sa.select(lease.c.holder)).scalar_one()
    assert holder == "two"


# Its cost -----------------------------------------------------------------------------------


def test_a_tick_takes_a_fixed_number_of_statements_and_a_few_for_each_arrow(store: Store) -> None:
    """One statement for each of the open rollouts, or for each pair of them, would show."""
    number = 12
    begin_rollouts(store, number)
    controller, sent = Controller(store, "one"), list[str]()
    sa.event.listen(store.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    moved = controller.tick()
    assert [move.what.split()[1] for move in moved] == ["loading"] * number + ["gate"] * number
    per_arrow = len(sent) / len(moved)
    sent.clear()
    assert controller.tick() == ()
    assert len(sent) <= 2 * number
    assert per_arrow <= 15
