"""A trouble is one row however often it is seen, and each channel is told each news of it once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from mlops.store import Store
from mlops.store.alerts import (
    FIRST_PAUSE_S,
    KEEP_TRYING_S,
    LONGEST_PAUSE_S,
    REMIND_AFTER,
    Condition,
    DeliveryState,
    Notice,
    Occasion,
    Severity,
    Trouble,
    claim_notices,
    list_alerts,
    list_deliveries,
    note_failed,
    note_refused,
    note_sent,
    pause_s,
    raise_alert,
    recover_alert,
)
from mlops.store.schema import alert_delivery, alert_notice
from tests.clocks import each_jump

from .conftest import NOW, SERVICE

HOUR = timedelta(hours=1)
DRIFT = Trouble(
    Condition.DATA_DRIFT, SERVICE, "lstm_A", "Drift", "volume moved", detail={"p": 0.01}
)


def see(store: Store, trouble: Trouble = DRIFT, at=NOW) -> bool:
    with store.write() as connection:
        return raise_alert(connection, trouble, at=at)


def end(store: Store, trouble: Trouble = DRIFT, at=NOW) -> bool:
    with store.write() as connection:
        return recover_alert(
            connection,
            condition=trouble.condition,
            service=trouble.service,
            subject=trouble.subject,
            at=at,
            text="over",
        )


def claim(store: Store, channel: str = "mail", *, seconds=60.0, hourly=100) -> tuple[Notice, ...]:
    return claim_notices(store, channel, seconds=seconds, messages_per_hour=hourly)


def occasions(notices: tuple[Notice, ...]) -> list[Occasion]:
    return [one.occasion for one in notices]


def test_a_trouble_seen_again_is_counted_and_not_told_again(store):
    told = [see(store, at=NOW + hour * HOUR) for hour in range(3)]
    [row] = list_alerts(store)
    assert told == [True, False, False]
    assert (row.times_seen, row.raised_at, row.last_seen_at) == (3, NOW, NOW + 2 * HOUR)
    assert (row.detail, row.condition) == ({"p": 0.01}, Condition.DATA_DRIFT)
    assert occasions(claim(store)) == [Occasion.RAISED]


def test_a_trouble_that_lasts_is_told_again_once_a_day(store):
    hours = int(3 * REMIND_AFTER / HOUR)
    told = [see(store, at=NOW + hour * HOUR) for hour in range(hours)]
    assert [hour for hour in range(hours) if told[hour]] == [0, 24, 48]


def test_a_trouble_that_grows_critical_is_told_at_once(store):
    worse = Trouble(DRIFT.condition, SERVICE, "lstm_A", "Skill lost", "all", Severity.CRITICAL)
    assert [see(store), see(store, worse), see(store, worse)] == [True, True, False]
    assert list_alerts(store)[0].title == "Skill lost"


def test_what_is_over_is_told_and_what_comes_back_is_a_new_alert(store):
    see(store)
    assert (end(store, at=NOW + HOUR), end(store)) == (True, False)
    see(store, at=NOW + 2 * HOUR)
    assert occasions(claim(store)) == [Occasion.RAISED, Occasion.RECOVERED, Occasion.RAISED]
    assert [row.recovered_at for row in list_alerts(store)] == [None, NOW + HOUR]
    assert len(list_alerts(store, lasting_only=True)) == 1


def test_an_end_without_a_beginning_is_nothing(store):
    assert not end(store)
    assert claim(store) == ()


def test_troubles_of_other_subjects_are_others(store):
    other = Trouble(DRIFT.condition, SERVICE, "lstm_B", "Drift", "close moved")
    assert (see(store), see(store, other)) == (True, True)
    assert len(list_alerts(store, service=SERVICE)) == 2
    assert list_alerts(store, service="another") == ()


def test_what_is_raised_in_a_transaction_that_fails_was_never_raised(store):
    def raise_and_fail() -> None:
        with store.write() as connection:
            raise_alert(connection, DRIFT, at=NOW)
            raise RuntimeError("the change it belonged to failed")

    with pytest.raises(RuntimeError):
        raise_and_fail()
    assert (list_alerts(store), claim(store)) == ((), ())


def test_a_channel_gets_each_notice_once(store):
    see(store)
    notices = claim(store)
    assert claim(store) == ()
    note_sent(store, "mail", notices)
    assert claim(store) == ()
    assert occasions(claim(store, "slack")) == [Occasion.RAISED]


def test_what_a_process_claimed_and_never_sent_is_another_ones_later(store):
    see(store)
    assert len(claim(store, seconds=0.0)) == 1
    [again] = claim(store)
    assert again.attempts == 2


def test_what_failed_is_tried_again_later_or_with_the_next_notice(store):
    see(store)
    note_failed(store, "mail", claim(store), "refused")
    assert claim(store) == ()
    end(store)
    assert occasions(claim(store)) == [Occasion.RAISED, Occasion.RECOVERED]


def test_what_failed_is_tried_again_by_itself_when_its_pause_is_over(store):
    see(store)
    note_failed(store, "mail", claim(store), "refused")
    with store.write() as connection:
        pause = alert_delivery.c.due - FIRST_PAUSE_S - 1.0
        connection.execute(alert_delivery.update().values(due=pause))
    assert len(claim(store)) == 1


def test_what_is_refused_is_claimed_alone_and_after_all_that_wait(store, monkeypatch):
    monkeypatch.setattr("mlops.store.alerts.FIRST_PAUSE_S", 0.0)
    for subject in ("a", "b", "c"):
        see(store, replace(DRIFT, subject=subject))
    first = claim(store)
    note_refused(store, "mail", first, "too long")
    see(store, replace(DRIFT, subject="d"))
    assert [one.alert.subject for one in claim(store)] == ["d"]
    assert [one.alert.subject for one in claim(store)] == ["a"]
    assert [one.alert.subject for one in claim(store)] == ["b"]


def test_what_is_refused_for_days_is_given_up(store):
    see(store)
    [notice] = claim(store)
    note_refused(store, "mail", [replace(notice, age_s=4 * 86_400.0)], "too long")
    [row] = list_alerts(store)
    [delivery] = list_deliveries(store, row.id)
    assert (delivery.state, delivery.error) == (DeliveryState.GIVEN_UP, "too long")


@each_jump
def test_no_jump_of_the_clock_holds_a_notice_back(clock, store, jump_s):
    """Neither the claim of a process that died, nor a pause, nor the messages of the hour."""
    see(store)
    claim(store)
    clock.jump(jump_s)
    [notice] = claim(store)
    note_failed(store, "mail", [replace(notice, attempts=20)], "refused")
    clock.jump(2 * jump_s + LONGEST_PAUSE_S * (jump_s > 0))
    [notice] = claim(store)
    note_sent(store, "mail", [notice])
    see(store, replace(DRIFT, subject="lstm_B"))
    clock.jump(-HOUR.total_seconds())
    assert len(claim(store, hourly=1)) == 1


def test_pauses_double_up_to_a_quarter_of_an_hour():
    pauses = [pause_s(attempts) for attempts in range(1, 12)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == pause_s(10**6) == LONGEST_PAUSE_S


def test_a_channel_has_its_messages_an_hour_and_the_rest_is_told_together(store):
    for number in range(4):
        see(store, Trouble(DRIFT.condition, SERVICE, f"lstm_{number}", "Drift", "moved"))
        notices = claim(store, hourly=2)
        if notices:
            note_sent(store, "mail", notices)
    assert claim(store, hourly=2) == ()
    with store.write() as connection:
        connection.execute(alert_delivery.update().values(sent_at=alert_delivery.c.sent_at - 3601))
    assert [one.alert.subject for one in claim(store, hourly=2)] == ["lstm_2", "lstm_3"]


def test_what_became_of_each_notice_is_on_record(store):
    see(store)
    [row] = list_alerts(store)
    note_sent(store, "mail", claim(store))
    note_failed(store, "slack", claim(store, "slack"), "answered 500")
    found = [
        (one.channel, one.state, one.attempts, one.error) for one in list_deliveries(store, row.id)
    ]
    assert found == [
        ("mail", DeliveryState.SENT, 1, ""),
        ("slack", DeliveryState.WAITING, 1, "answered 500"),
    ]


def test_what_is_days_old_is_given_up_and_new_channels_are_not_told(store):
    see(store)
    claim(store, seconds=0.0)
    with store.write() as connection:
        past = alert_notice.c.written_at - KEEP_TRYING_S - 1
        connection.execute(alert_notice.update().values(written_at=past))
    note_failed(store, "mail", claim(store), "refused")
    [row] = list_alerts(store)
    assert [one.state for one in list_deliveries(store, row.id)] == [DeliveryState.GIVEN_UP]
    assert claim(store, "new") == ()


def test_two_that_see_the_same_at_once_raise_it_once(store):
    rows = [sa.select(sa.func.count()).select_from(table) for table in (alert_notice,)]
    with store.write() as connection:
        first = raise_alert(connection, DRIFT, at=NOW)
    with store.write() as connection:
        second = raise_alert(connection, DRIFT, at=NOW)
        assert [connection.execute(row).scalar_one() for row in rows] == [1]
    assert (first, second) == (True, False)
