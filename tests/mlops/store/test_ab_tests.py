"""A test is one row with its looks; its verdict is written once and nothing of it is deleted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from mlops.errors import RolloutError, RowRefused, StoreError
from mlops.store import (
    AbState,
    AbTest,
    ForecastGap,
    GapReason,
    Store,
    Verdict,
    Why,
    get_rollout,
    get_test,
    list_audit_entries,
    list_gaps,
    list_looks,
    list_tests,
    record_gaps,
)
from mlops.store.ab_tests import (
    conclude_test,
    extend_test,
    insert_test,
    new_test_id,
    read_test_of_rollout,
    running_test,
    write_look,
)
from tests.mlops.rollout.rows import (
    ASKED,
    CHALLENGER,
    HOUR,
    NOW,
    SERVICE,
    ask_test,
    begin_service,
    find_verdict,
    make_look,
)

LATER = Why(NOW + HOUR, actor="monitor", reason="look")


@pytest.fixture
def running(store: Store) -> AbTest:
    begin_service(store)
    return ask_test(store, now=NOW, record={"blocks": 26, "covariance": 0.5})


def conclude(store: Store, test: AbTest, verdict: Verdict) -> bool:
    with store.write() as connection:
        return conclude_test(connection, test.id, verdict, f"it is {verdict}", LATER)


def test_a_test_is_read_as_it_was_written(store: Store, running: AbTest) -> None:
    assert get_test(store, running.id) == running
    assert (running.state, running.verdict, running.ended_at) == (AbState.RUNNING, None, None)
    with store.read() as connection:
        assert running_test(connection, SERVICE) == running
        assert read_test_of_rollout(connection, running.rollout_id) == running
        assert read_test_of_rollout(connection, "another") is None
    started = list_audit_entries(store, subject=CHALLENGER)[-1]
    assert (started.action, started.after and started.after["test"]) == (
        "start_ab_test",
        running.id,
    )


def test_an_unknown_test_is_named(store: Store) -> None:
    with pytest.raises(RolloutError, match="no A/B test 'ab-0'"):
        get_test(store, "ab-0")


def test_a_service_has_one_running_test(store: Store, running: AbTest) -> None:
    second = replace(running, id=new_test_id())
    with pytest.raises(RowRefused), store.write() as connection:
        insert_test(connection, second, ASKED)
    assert list_tests(store) == (running,)


def test_a_verdict_is_written_once(store: Store, running: AbTest) -> None:
    assert conclude(store, running, Verdict.EQUIVALENT)
    assert not conclude(store, running, Verdict.BETTER)
    ended = get_test(store, running.id)
    assert (ended.state, ended.verdict) == (AbState.CONCLUDED, Verdict.EQUIVALENT)
    assert (ended.verdict_text, ended.ended_at) == ("it is equivalent", LATER.at)
    assert list_tests(store, running_only=True) == ()
    assert list_tests(store, service=SERVICE) == (ended,)
    told = [one for one in list_audit_entries(store) if one.action == "conclude_ab_test"]
    assert [(one.actor, one.after and one.after["verdict"]) for one in told] == [
        ("monitor", "equivalent")
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ab_test SET verdict = 'better'",
        "UPDATE ab_test SET state = 'running', verdict = NULL, ended_at = NULL",
        "UPDATE ab_test SET until_bar = since_bar",
        "DELETE FROM ab_test",
        "DELETE FROM ab_look",
        "UPDATE ab_look SET pairs = 7",
    ],
)
def test_the_database_keeps_verdicts_and_looks(store: Store, running: AbTest, change: str) -> None:
    assert find_verdict(store, running, Verdict.EQUIVALENT)
    before = get_test(store, running.id), list_looks(store, running.id)
    with pytest.raises(StoreError), store.write() as connection:
        connection.execute(sa.text(change))
    assert (get_test(store, running.id), list_looks(store, running.id)) == before


@pytest.mark.parametrize(
    "change",
    [
        {"split_bp": 9501},
        {"split_bp": -1},
        {"alpha": 1.0},
        {"champion_is": "c"},
        {"challenger_id": "champion"},
        {"verdict": Verdict.BETTER},
        {"state": AbState.CONCLUDED},
    ],
    ids=str,
)
def test_a_row_that_contradicts_itself_is_refused(
    store: Store, running: AbTest, change: dict[str, object]
) -> None:
    assert conclude(store, running, Verdict.STOPPED)
    wrong = replace(running, id=new_test_id(), rollout_id=running.rollout_id, **change)  # type: ignore[arg-type]
    with pytest.raises(RowRefused), store.write() as connection:
        insert_test(connection, wrong, ASKED)


def test_a_bar_has_one_look(store: Store, running: AbTest) -> None:
    first, second = (
        make_look(running),
        make_look(running, NOW + HOUR, mean=None, low=None, high=None),
    )
    with store.write() as connection:
        assert write_look(connection, first)
        assert not write_look(connection, replace(first, pairs=7))
        assert write_look(connection, second)
    assert list_looks(store, running.id) == (first, second)


def test_a_concluded_test_takes_no_look(store: Store, running: AbTest) -> None:
    assert conclude(store, running, Verdict.STOPPED)
    assert not find_verdict(store, running, Verdict.BETTER)
    assert list_looks(store, running.id) == ()


def test_an_extension_moves_the_last_bar_and_the_deadline(store: Store, running: AbTest) -> None:
    before = get_rollout(store, running.rollout_id)
    later = running.until_bar + 24 * HOUR
    with store.write() as connection:
        extended = extend_test(connection, running.id, later, LATER, net_s=3600.0)
    assert extended == replace(running, until_bar=later)
    after = get_rollout(store, running.rollout_id)
    assert after.plan["hold_s"] == before.plan["hold_s"] + 3600.0
    assert after.deadline == before.deadline, "its share has not begun"
    with store.write() as connection:
        connection.execute(sa.text("UPDATE rollout SET phase = 'step'"))
        extend_test(connection, running.id, later + HOUR, LATER, net_s=60.0)
    moved = get_rollout(store, running.rollout_id).deadline - after.deadline
    assert moved == timedelta(seconds=60)


def test_a_test_is_not_cut_short_nor_extended_after_its_end(store: Store, running: AbTest) -> None:
    with pytest.raises(RolloutError, match="not cut short"), store.write() as connection:
        extend_test(connection, running.id, running.until_bar, LATER)
    assert conclude(store, running, Verdict.STOPPED)
    later = running.until_bar + HOUR
    with pytest.raises(RolloutError, match="ended as stopped"), store.write() as connection:
        extend_test(connection, running.id, later, LATER, net_s=60.0)
    assert get_test(store, running.id).until_bar == running.until_bar


def gap(reason: GapReason, replica_id: str = "r0", hours: int = 0) -> ForecastGap:
    return ForecastGap(SERVICE, NOW + hours * HOUR, CHALLENGER, reason, replica_id, NOW)


def test_a_gap_is_kept_once_and_a_fault_says_more_than_a_missing_model(store: Store) -> None:
    assert record_gaps(store, ()) == 0
    slow, fault = gap(GapReason.TIME_BUDGET, hours=1), gap(GapReason.FAULT, "r1")
    assert record_gaps(store, [gap(GapReason.NOT_LOADED), slow]) == 2
    assert record_gaps(store, [fault, gap(GapReason.FAULT, "r1", hours=1)]) == 1
    assert record_gaps(store, [gap(GapReason.NOT_LOADED, "r2")]) == 0
    kept = list_gaps(store, SERVICE, since=NOW, until=NOW + 2 * HOUR)
    assert kept == (fault, slow)
    assert list_gaps(store, SERVICE, since=NOW + HOUR, until=NOW + 2 * HOUR) == kept[1:]
    assert list_gaps(store, "another", since=NOW, until=NOW + 2 * HOUR) == ()
