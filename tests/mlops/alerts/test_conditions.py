"""People are told of a rollout that was undone and of a champion that failed."""

from __future__ import annotations

from datetime import timedelta

from mlops.rollout.controller import Controller
from mlops.rollout.plan import Strategy
from mlops.store import Store, Why
from mlops.store.alerts import AlertRow, Severity, list_alerts
from mlops.store.rollouts import request_abort
from tests.mlops.rollout.rows import (
    BASELINE,
    CHALLENGER,
    CHAMPION,
    NOW,
    Clock,
    RowReplica,
    ask,
    carry,
    count,
    count_champion,
    route_of,
)


def alerts(store: Store) -> list[AlertRow]:
    return list(list_alerts(store))


def undo_one(service: Store) -> None:
    """A challenger that fails in its first step."""
    one, controller = RowReplica(service), Controller(service, "one")
    asked = ask(service)
    carry(controller, [one])
    count(service, asked, challenger_faults=100)
    carry(controller, [one])


def test_a_rollout_that_was_undone_is_told_with_its_reason(service: Store) -> None:
    undo_one(service)
    [told] = alerts(service)
    assert told.title == f"The rollout of {CHALLENGER} was undone"
    assert "worse than the champion" in told.text
    assert told.severity is Severity.WARNING
    assert told.recovered_at is None


def test_what_a_person_ended_is_no_news(service: Store) -> None:
    one, controller = RowReplica(service), Controller(service, "one")
    asked = ask(service)
    carry(controller, [one])
    request_abort(service, asked.id, Why(NOW, actor="anna", reason="a mistake"))
    carry(controller, [one])
    assert alerts(service) == []


def test_a_promotion_that_was_taken_back_is_critical(service: Store) -> None:
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
    assert [one.severity for one in alerts(service)] == [Severity.CRITICAL]


def test_a_champion_that_failed_is_told_until_another_one_stays_healthy(
    service: Store, replica: RowReplica
) -> None:
    clock = Clock()
    count_champion(service, trials=1000, faults=200)
    Controller(service, "one", now=clock).tick()
    assert route_of(service).champion == BASELINE
    [told] = alerts(service)
    assert (told.title, told.severity) == (f"{CHAMPION} failed as champion", Severity.CRITICAL)

    controller = Controller(service, "one", now=clock)
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    for _ in range(9):
        carry(controller, [replica])
        clock.at += timedelta(minutes=5)
    assert route_of(service).champion == CHALLENGER
    assert [one.recovered_at is None for one in alerts(service)] == [False]
