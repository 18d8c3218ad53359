"""A wish to go live is on record with its version, begins in its turn, and holds up nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, count
from typing import Any

import pytest
import sqlalchemy as sa

from mlops.errors import RolloutRefused
from mlops.rollout.controller import Controller
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.request import request_rollout
from mlops.rollout.runner import RolloutRunner, list_unfinished, read_progress
from mlops.rollout.wishes import WAITING_FOR, insert_wish
from mlops.store import (
    Phase,
    Rollout,
    Status,
    Store,
    Why,
    get_rollout,
    list_events,
    list_rollouts,
    list_versions,
)
from mlops.store.alerts import list_alerts
from mlops.store.judgements import EvidenceKind, JudgementBasis
from mlops.store.rollouts import newest_rollout_of, request_abort
from mlops.store.schema import lease, rollout
from mlops.store.sql import db_now
from mlops.store.versions import change_status, insert_version

from .books import check_books
from .mutants import Mutant, first_of_each_rule
from .rows import (
    ASKED,
    CHALLENGER,
    CHAMPION,
    NOW,
    Clock,
    RowReplica,
    ask,
    carry,
    make_version,
    route_of,
)
from .rows import count as count_trials
from .wish_check import (
    broken_by_comparisons,
    broken_by_returns,
    broken_by_wishes,
    wish_mutants,
)

TRAINED = Why(NOW, actor="train", reason="auto_deploy")
PLAN = plan_for(Strategy.BLUE_GREEN)


def register(store: Store, model_id: str, number: int = 4, **changes: Any) -> Rollout | None:
    """Register a version as a training does; returns its wish."""
    row = make_version(model_id, number, **({"status": Status.CHALLENGER} | changes))
    with store.write() as connection:
        insert_version(connection, row, Why(NOW))
        insert_wish(connection, row, plan=PLAN, why=TRAINED)
    return newest_rollout_of(store, model_id)


def wish(store: Store, model_id: str = "new", number: int = 4) -> Rollout:
    """The wish of a version that has just passed."""
    made = register(store, model_id, number)
    assert made is not None
    return made


def path(store: Store, row: Rollout) -> list[Phase]:
    return [event.to_phase for event in list_events(store, row.id)]


def now_and_why(store: Store, row: Rollout) -> tuple[Phase, str]:
    latest = get_rollout(store, row.id)
    return latest.phase, latest.reason


# The rules ----------------------------------------------------------------------------------


def broken() -> Iterator[str]:
    return chain(broken_by_wishes(), broken_by_comparisons(), broken_by_returns())


def test_no_situation_breaks_a_law_of_wishes_or_returns() -> None:
    assert set(broken()) == set()


@pytest.mark.parametrize("mutant", list(first_of_each_rule(wish_mutants())))
def test_a_wrong_rule_on_wishes_is_found_out(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.install(monkeypatch)
    assert next(broken(), None) is not None


# On record ----------------------------------------------------------------------------------


def test_a_wish_is_a_waiting_row_with_its_plan_its_event_and_its_audit_entry(
    service: Store,
) -> None:
    row = wish(service)
    assert (row.phase, row.to_version, row.strategy) == (Phase.WAITING, "new", "blue_green")
    assert (row.plan, row.requested_by) == (PLAN.to_dict(), "train")
    assert path(service, row) == [Phase.WAITING]
    assert list_unfinished(service) == (row,)
    progress = read_progress(service, row.id)
    assert (progress.verdict, progress.held) == (None, WAITING_FOR)
    check_books(service)


def test_a_refused_version_leaves_no_wish(service: Store) -> None:
    assert register(service, "refused", status=Status.REFUSED) is None


@pytest.mark.parametrize(
    ("kind", "live", "wishes"),
    [("word", True, False), ("record", False, False), ("record", True, True)],
)
def test_a_version_from_elsewhere_wishes_to_go_live_by_a_record_of_today_only(
    service: Store, kind: str, live: bool, wishes: bool
) -> None:
    basis = JudgementBasis(
        kind=EvidenceKind(kind), trained_until=NOW, since=NOW, until=NOW, bars=600, recorded=600,
        live=live, own_bars=True, origin="here", bars_digest="", study="judged-a", place=1,
        compared=1, claims={}, judged_at=NOW,
    )  # fmt: skip
    row = register(service, "from-elsewhere", judged_on=basis.to_dict())
    assert (row is not None) is wishes


def test_a_newer_wish_replaces_an_older_one_and_nobody_is_alarmed(service: Store) -> None:
    older, newer = wish(service, "older", 4), wish(service, "newer", 5)
    assert now_and_why(service, older) == (Phase.FAILED, "replaced: newer passed since")
    assert list_unfinished(service) == (newer,)
    assert list_alerts(service) == ()
    check_books(service)


# Its turn -----------------------------------------------------------------------------------


def test_a_wish_begins_at_the_next_tick_and_goes_live(service: Store, replica: RowReplica) -> None:
    clock, row = Clock(), wish(service)
    controller = Controller(service, "one", now=clock)
    count_trials(service, row)
    for _ in range(4):
        carry(controller, [replica])
        clock.at += timedelta(minutes=5)
    assert path(service, row)[:3] == [Phase.WAITING, Phase.PENDING, Phase.LOADING]
    assert get_rollout(service, row.id).phase is Phase.DONE
    assert route_of(service).champion == "new"
    check_books(service)


def test_a_wish_waits_for_the_open_rollout_and_starts_from_the_champion_of_then(
    service: Store, replica: RowReplica
) -> None:
    clock = Clock()
    controller = Controller(service, "one", now=clock)
    first = ask(service, Strategy.BLUE_GREEN, now=clock())
    count_trials(service, first)
    row = wish(service)
    carry(controller, [replica])
    assert now_and_why(service, row) == (Phase.WAITING, WAITING_FOR)
    for _ in range(4):
        clock.at += timedelta(minutes=5)
        carry(controller, [replica])
    assert get_rollout(service, first.id).phase is Phase.DONE
    begun = get_rollout(service, row.id)
    assert (row.from_version, begun.from_version) == (CHAMPION, CHALLENGER)
    assert Phase.LOADING in path(service, row)
    assert begun.deadline == begun.since + PLAN.patience(begun.phase)
    check_books(service)


def test_a_person_goes_first_and_the_wish_waits_behind(service: Store) -> None:
    row = wish(service)
    asked = ask(service)
    assert get_rollout(service, row.id).phase is Phase.WAITING
    request_abort(service, asked.id, Why(NOW, actor="anna"))
    controller = Controller(service, "one")
    assert [moved.what for moved in controller.tick()] == [f"{asked.id} failed"]
    assert [moved.what for moved in controller.tick()] == [f"{row.id} pending"]
    with pytest.raises(RolloutRefused, match=f"{row.id} is bringing new live"):
        ask(service)


def test_a_person_who_asks_for_the_same_version_takes_the_wish_over(service: Store) -> None:
    row = wish(service)
    asked = request_rollout(service, "new", PLAN, ASKED)
    assert now_and_why(service, row) == (Phase.FAILED, f"replaced by {asked.id} of anna")
    assert list_unfinished(service) == (asked,)
    check_books(service)


def test_a_waiting_wish_can_be_aborted(service: Store) -> None:
    ask(service)
    row = wish(service)
    request_abort(service, row.id, Why(NOW, actor="anna", reason="not now"))
    Controller(service, "one").tick()
    assert now_and_why(service, row) == (Phase.FAILED, "aborted by anna: not now")


def test_a_wish_ends_when_its_version_may_not_go_live_any_more(service: Store) -> None:
    ask(service)
    row = wish(service)
    with service.write() as connection:
        change_status(connection, "new", Status.FAILED, Why(NOW))
    Controller(service, "one").tick()
    why = "the version is failed now and may not go live"
    assert now_and_why(service, row) == (Phase.FAILED, why)
    assert list_alerts(service) == ()


def test_a_process_that_runs_open_rollouts_begins_those_that_wait(
    service: Store, replica: RowReplica
) -> None:
    row = wish(service)
    runner = RolloutRunner(service, "reconcile", before=replica.follow, tick_s=0.01)
    moved = runner.run_open_rollouts(seconds=0)
    assert [move.what for move in moved] == [f"{row.id} pending", f"{row.id} loading"]


# Whoever dies -------------------------------------------------------------------------------


class Died(Exception):
    """The process that trained ends here."""


@contextmanager
def dying_at(store: Store, statement: int) -> Iterator[list[int]]:
    """Raise before the ``statement``-th statement; yields the number of those so far."""
    seen = [0]

    def die(*_: object) -> None:
        seen[0] += 1
        if seen[0] == statement:
            raise Died

    sa.event.listen(store.engine, "before_cursor_execute", die)
    try:
        yield seen
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", die)


def test_a_death_at_any_statement_up_to_the_first_tick_leaves_one_rollout_of_what_passed(
    service: Store,
) -> None:
    heir, both = Controller(service, "heir"), {False: 0, True: 0}
    for statement in count(1):
        model_id = f"v{statement}"
        with suppress(Died), dying_at(service, statement) as seen:
            register(service, model_id, 3 + statement)
            Controller(service, "doomed").tick()
        with service.write() as connection:
            connection.execute(lease.update().values(until=db_now() - 1))
        heir.tick()
        exists = model_id in {version.model_id for version in list_versions(service)}
        begun = [row for row in list_rollouts(service) if row.to_version == model_id]
        assert [row.phase for row in begun] == [Phase.PENDING] * exists
        heir.step_down()
        with service.write() as connection:
            connection.execute(rollout.update().values(phase=Phase.FAILED, ended_at=NOW))
        both[exists] += 1
        if seen[0] < statement:
            break
    assert both[False] >= 5
    assert both[True] >= 10
