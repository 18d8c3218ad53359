"""Rollouts as rows: each move is one transaction with its event, its route and its audit."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlops.errors import RolloutError, StoreError, VersionNotFound
from mlops.store import (
    Phase,
    Rollout,
    Status,
    Store,
    Why,
    get_rollout,
    get_route,
    get_version,
    list_audit_entries,
    list_events,
    list_live_periods,
    list_rollouts,
)
from mlops.store.rollouts import (
    Arrow,
    insert_rollout,
    move_rollout,
    open_rollouts,
    request_abort,
    status_of,
)
from tests.mlops.store.test_routes import Add

from .conftest import NOW, SERVICE

ANNA = Why(NOW, actor="anna", reason="it is better")
ROLLOUT = Rollout(
    id="rollout-1",
    service=SERVICE,
    strategy="canary",
    from_version="persistence_BTC_1",
    to_version="lstm_BTC_2",
    plan={"strategy": "canary"},
    phase=Phase.PENDING,
    step=0,
    since=NOW,
    deadline=NOW + timedelta(seconds=30),
    reason="asked for",
    abort_requested=None,
    forced=False,
    requested_by="anna",
    requested_why="it is better",
    requested_at=NOW,
)
LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def asked(began: Store, add: Add) -> Store:
    """A service with a challenger whose rollout was asked for."""
    add("lstm_BTC_2", 2, status=Status.CHALLENGER)
    insert(began, ROLLOUT)
    return began


def insert(store: Store, row: Rollout) -> None:
    with store.write() as connection:
        insert_rollout(connection, row, ANNA)


def arrow_to(phase: Phase, **changes: object) -> Arrow:
    usual = {"to": phase, "step": 0, "patience": timedelta(hours=1), "reason": "because"}
    return Arrow(**(usual | changes))  # type: ignore[arg-type]


def move(store: Store, row: Rollout, arrow: Arrow) -> int:
    """Take an arrow; returns the route's generation after it."""
    route = get_route(store, SERVICE)
    assert route is not None
    with store.write() as connection:
        return move_rollout(connection, row, route, arrow, term=4, at=LATER).generation


def test_what_was_asked_for_is_what_is_read(asked: Store) -> None:
    assert get_rollout(asked, "rollout-1") == ROLLOUT
    assert list_rollouts(asked) == list_rollouts(asked, service=SERVICE) == (ROLLOUT,)
    assert list_rollouts(asked, service="other") == ()
    with asked.read() as connection:
        assert open_rollouts(connection) == (ROLLOUT,)


def test_an_unknown_rollout_is_named(store: Store) -> None:
    with pytest.raises(RolloutError, match="no rollout 'rollout-9'"):
        get_rollout(store, "rollout-9")


def test_a_move_writes_row_event_route_statuses_and_audit_together(asked: Store) -> None:
    route = get_route(asked, SERVICE)
    assert route is not None
    shown = replace(route, challenger="lstm_BTC_2", mirror_bp=10_000, salt="rollout-1")
    arrow = arrow_to(
        Phase.LOADING,
        route=shown,
        statuses={"lstm_BTC_2": Status.FAILED},
        detail={"verdict": "unknown", "e_value": 0.5},
    )
    assert move(asked, ROLLOUT, arrow) == 2
    row = get_rollout(asked, "rollout-1")
    assert (row.phase, row.since, row.deadline) == (Phase.LOADING, LATER, LATER + arrow.patience)
    assert (row.reason, row.ended_at) == ("because", None)
    event = list_events(asked, "rollout-1")[-1]
    assert (event.seq, event.from_phase, event.to_phase) == (1, Phase.PENDING, Phase.LOADING)
    assert (event.at, event.generation, event.term) == (LATER, 2, 4)
    assert event.detail == {"verdict": "unknown", "e_value": 0.5}
    assert get_version(asked, "lstm_BTC_2").status is Status.FAILED
    assert list_live_periods(asked, SERVICE)[-1].action == "rollout_loading"
    actions = [(one.action, one.actor) for one in list_audit_entries(asked)][-2:]
    assert actions == [("rollout_loading", "controller"), ("change_status", "controller")]


def test_a_move_without_a_route_keeps_the_generation(asked: Store) -> None:
    assert move(asked, ROLLOUT, arrow_to(Phase.LOADING)) == 1
    assert list_events(asked, "rollout-1")[-1].generation == 1


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.FAILED])
def test_a_final_phase_ends_it_and_makes_room_for_the_next(asked: Store, phase: Phase) -> None:
    move(asked, ROLLOUT, arrow_to(phase))
    assert get_rollout(asked, "rollout-1").ended_at == LATER
    with asked.read() as connection:
        assert open_rollouts(connection) == ()
    later = replace(ROLLOUT, id="rollout-2", requested_at=LATER)
    insert(asked, later)
    assert [row.id for row in list_rollouts(asked)] == ["rollout-2", "rollout-1"]


@pytest.mark.parametrize("known", [{"phase": Phase.GATE}, {"step": 1}, {"id": "rollout-9"}])
def test_a_rollout_that_has_moved_is_not_moved_again(
    asked: Store, known: dict[str, object]
) -> None:
    stale = replace(ROLLOUT, **known)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="has moved"):
        move(asked, stale, arrow_to(Phase.LOADING))
    assert get_rollout(asked, "rollout-1") == ROLLOUT
    assert len(list_events(asked, "rollout-1")) == 1


def test_a_rollout_that_was_aborted_meanwhile_is_not_moved_by_who_did_not_know(
    asked: Store,
) -> None:
    """It was promoted, and then taken back: what was aborted before must not go live at all."""
    request_abort(asked, "rollout-1", ANNA)
    with pytest.raises(StoreError, match="has moved"):
        move(asked, ROLLOUT, arrow_to(Phase.LOADING))
    known = get_rollout(asked, "rollout-1")
    assert move(asked, known, arrow_to(Phase.FAILED)) == 1


def test_a_move_whose_version_is_unknown_leaves_nothing_half(asked: Store) -> None:
    with pytest.raises(VersionNotFound):
        move(asked, ROLLOUT, arrow_to(Phase.LOADING, statuses={"nobody": Status.FAILED}))
    assert get_rollout(asked, "rollout-1") == ROLLOUT
    assert len(list_events(asked, "rollout-1")) == 1


def test_two_open_rollouts_of_a_service_are_impossible(asked: Store) -> None:
    with pytest.raises(StoreError, match=r"(?i)unique"):
        insert(asked, replace(ROLLOUT, id="rollout-2"))
    assert len(list_audit_entries(asked, subject="lstm_BTC_2")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"to_version": "persistence_BTC_1"},
        {"to_version": "nobody"},
        {"from_version": "nobody"},
    ],
)
def test_a_rollout_is_of_another_version_that_exists(
    began: Store, add: Add, wrong: dict[str, str]
) -> None:
    add("lstm_BTC_2", 2)
    with pytest.raises(StoreError, match="breaks its rules"):
        insert(began, replace(ROLLOUT, **wrong))  # type: ignore[arg-type]


def test_who_aborts_and_why_is_kept_on_the_row_and_in_the_audit(asked: Store) -> None:
    row = request_abort(asked, "rollout-1", Why(NOW, actor="ben", reason="a mistake"))
    assert row.abort_requested == "ben: a mistake"
    assert get_rollout(asked, "rollout-1").abort_requested == "ben: a mistake"
    entry = list_audit_entries(asked, subject="lstm_BTC_2")[-1]
    assert (entry.action, entry.actor, entry.reason) == ("abort_rollout", "ben", "a mistake")


def test_what_has_ended_is_not_aborted(asked: Store) -> None:
    move(asked, ROLLOUT, arrow_to(Phase.DONE))
    with pytest.raises(RolloutError, match=r"ended as done; .* roll back the service"):
        request_abort(asked, "rollout-1", ANNA)


def test_statuses_are_read_together(asked: Store) -> None:
    with asked.read() as connection:
        found = status_of(connection, {"persistence_BTC_1", "lstm_BTC_2", "nobody"})
    assert found == {"persistence_BTC_1": Status.DEPLOYED, "lstm_BTC_2": Status.CHALLENGER}
