"""One training answers all that waits; nothing storms, starves, loops, or is answered late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from mlops.errors import LeaseLost, StoreError
from mlops.store import Store
from mlops.store.leases import acquire_lease
from mlops.store.schema import lease, trigger
from mlops.store.triggers import (
    MAX_ATTEMPTS,
    Answer,
    Cause,
    Claim,
    TriggerLimits,
    TriggerReason,
    TriggerState,
    answer_triggers,
    claim_triggers,
    list_trainable_services,
    list_triggers,
    postpone_triggers,
    raise_trigger,
    training_lease,
)

from .conftest import NOW, SERVICE

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EAGER = TriggerLimits(cooldown=timedelta(0), per_day=1000, deaf=timedelta(0))
DRIFT = TriggerReason(
    service=SERVICE,
    cause=Cause.DRIFT,
    watermark="2025-01-01T00:00",
    champion="lstm_A",
    text="volume has drifted",
    verdict="check-1",
    columns=("volume",),
)


def ring(
    store: Store, at: datetime = NOW, limits: TriggerLimits | None = None, **changes
) -> str | None:
    with store.write() as connection:
        return raise_trigger(connection, replace(DRIFT, **changes), at=at, limits=limits)


def claim(store: Store, run="run-1", *, at=NOW, limits=None, service=SERVICE):
    """Claim as a training does, under the service's lease, which it keeps until it ends."""
    held = acquire_lease(store, training_lease(service), run, seconds=60.0)
    if held is None:
        return None
    return claim_triggers(store, service, run, lease=held, at=at, limits=limits)


def end_training(store: Store) -> None:
    """Whoever trains has ended or died."""
    with store.write() as connection:
        connection.execute(lease.update().values(until=0.0))


def answer(store: Store, held: Claim, what: Answer, at=NOW, **more) -> None:
    with store.write() as connection:
        answer_triggers(connection, held, what, at=at, **more)
    end_training(store)


def states(store: Store) -> list[TriggerState]:
    return [row.state for row in list_triggers(store)]


def test_a_trigger_is_claimed_answered_and_linked_to_its_verdict_and_version(store):
    made = ring(store)
    held = claim(store)
    assert [row.id for row in held.triggers] == [made]
    answer(store, held, Answer.CHALLENGER, model_id="lstm_B")
    [row] = list_triggers(store, SERVICE)
    assert (row.verdict, row.claimed_by, row.answer, row.model_id, row.columns) == (
        "check-1", "run-1", Answer.CHALLENGER, "lstm_B", {"volume"},
    )  # fmt: skip
    assert claim(store, at=NOW + DAY) is None


def test_the_same_watermark_rings_once_for_ever(store):
    assert ring(store) is not None
    assert ring(store) is None
    answer(store, claim(store), Answer.CHALLENGER, model_id="lstm_B")
    assert ring(store, at=NOW + 365 * DAY) is None


def test_an_alarm_that_lasts_waits_once(store):
    """One about another column, another cause or another version is another one."""
    assert ring(store) is not None
    assert ring(store, watermark="an hour later") is None
    assert ring(store, watermark="an hour later", columns=("volume", "har_1"))
    assert ring(store, watermark="two hours later", columns=("har_1",)) is None
    assert ring(store, watermark="two hours later", champion="lstm_B")
    assert ring(store, watermark="two hours later", cause=Cause.PERFORMANCE, columns=())
    assert ring(store, watermark="three hours later", cause=Cause.PERFORMANCE, columns=()) is None


def test_a_thousand_events_for_fifty_services_make_one_training_each(store):
    services = [f"sample.s{number}.1h.volatility.24" for number in range(50)]
    with store.write() as connection:
        for event in range(1000):
            about = {"watermark": f"mark-{event}", "columns": (f"column-{event}",)}
            rung = replace(DRIFT, service=services[event % 50], **about)
            raise_trigger(connection, rung, at=NOW)
    claims = [
        claim(store, f"run-{event}", limits=EAGER, service=services[event % 50])
        for event in range(0, 1000, 7)
    ]
    assert sum(one is not None for one in claims) == 50
    assert {len(one.triggers) for one in claims if one} == {20}


def test_of_many_that_claim_at_once_one_gets_it(store):
    ring(store)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda number: claim(store, f"run-{number}"), range(8)))
    assert sum(one is not None for one in got) == 1


def test_what_is_rung_while_a_training_runs_waits_for_the_next(store):
    ring(store)
    held = claim(store)
    ring(store, watermark="later")
    assert claim(store, "run-2", limits=EAGER) is None
    answer(store, held, Answer.REFUSED)
    assert [row.watermark for row in claim(store, "run-2", limits=EAGER).triggers] == ["later"]


def test_between_two_trainings_lies_the_cooldown(store):
    ring(store)
    answer(store, claim(store), Answer.CHALLENGER)
    ring(store, watermark="later")
    limits = TriggerLimits(cooldown=6 * HOUR)
    assert claim(store, at=NOW + 5 * HOUR, limits=limits) is None
    assert claim(store, at=NOW + 6 * HOUR, limits=limits) is not None


def test_a_day_has_its_budget(store):
    limits = TriggerLimits(cooldown=timedelta(0), per_day=3)
    taken = []
    for hour in range(48):
        ring(store, at=NOW + hour * HOUR, watermark=str(hour))
        held = claim(store, at=NOW + hour * HOUR, limits=limits)
        if held is not None:
            taken.append(hour)
            answer(store, held, Answer.CHALLENGER, at=NOW + hour * HOUR)
    assert taken == [0, 1, 2, 24, 25, 26]


def test_an_alarm_that_led_to_a_refusal_is_deaf_for_the_same_champion(store):
    ring(store)
    answer(store, claim(store), Answer.REFUSED)
    assert ring(store, at=NOW + 7 * DAY, watermark="week") is None
    assert ring(store, at=NOW + 31 * DAY, watermark="month") is not None


@pytest.mark.parametrize(
    "change", [{"champion": "lstm_B"}, {"cause": Cause.PERFORMANCE}, {"cause": Cause.SCHEDULE}]
)
def test_a_refusal_makes_no_other_alarm_deaf(store, change):
    ring(store)
    answer(store, claim(store), Answer.REFUSED)
    assert ring(store, at=NOW + DAY, watermark="next", **change) is not None


def test_an_alarm_about_another_column_is_heard_after_a_refusal(store):
    ring(store, columns=("har_1", "target"))
    answer(store, claim(store), Answer.REFUSED)
    assert ring(store, at=NOW + DAY, watermark="same", columns=("target",)) is None
    assert ring(store, at=NOW + DAY, watermark="new", columns=("target", "realised"))


def test_what_came_too_early_waits_and_so_does_whatever_comes_meanwhile(store):
    ring(store)
    later = NOW + 3 * DAY
    answer(store, claim(store), Answer.TOO_EARLY, not_before=later)
    ring(store, at=NOW + DAY, watermark="next", columns=("har_1",))
    assert claim(store, at=later - HOUR, limits=EAGER) is None
    assert list_trainable_services(store, at=lambda _: later - HOUR) == ()
    held = claim(store, at=later, limits=EAGER)
    assert [row.watermark for row in held.triggers] == [DRIFT.watermark, "next"]
    answer(store, held, Answer.REFUSED, at=later)
    assert ring(store, at=later + DAY, watermark="last") is None


def test_a_schedule_is_never_deaf(store):
    ring(store, cause=Cause.SCHEDULE)
    answer(store, claim(store), Answer.REFUSED)
    assert ring(store, at=NOW + DAY, watermark="next", cause=Cause.SCHEDULE) is not None


def test_a_training_that_failed_leaves_its_triggers_to_the_next_and_at_last_drops_them(store):
    ring(store)
    for attempt in range(MAX_ATTEMPTS):
        assert list_trainable_services(store, at=lambda _: NOW + DAY) == ((SERVICE, Cause.DRIFT),)
        held = claim(store, at=NOW + attempt * HOUR, limits=EAGER)
        assert [row.attempts for row in held.triggers] == [attempt + 1]
        end_training(store)
    assert claim(store, at=NOW + DAY, limits=EAGER) is None
    assert states(store) == [TriggerState.DROPPED]
    end_training(store)
    assert list_trainable_services(store, at=lambda _: NOW + DAY) == ()


def test_the_triggers_of_a_process_that_died_are_claimed_again_and_it_may_not_answer(store):
    ring(store)
    dead = claim(store, "run-1")
    end_training(store)
    assert list_trainable_services(store, at=lambda _: NOW + HOUR, limits=EAGER) == (
        (SERVICE, Cause.DRIFT),
    )
    held = claim(store, "run-2", at=NOW + HOUR, limits=EAGER)
    assert [row.attempts for row in held.triggers] == [2]
    with pytest.raises(StoreError, match="claimed by another"):
        answer(store, dead, Answer.CHALLENGER, model_id="lstm_late")
    answer(store, held, Answer.CHALLENGER, model_id="lstm_B")
    assert [row.model_id for row in list_triggers(store)] == ["lstm_B"]


def test_a_run_that_lost_the_lease_claims_and_postpones_nothing(store):
    ring(store)
    stalled = acquire_lease(store, training_lease(SERVICE), "run-1", seconds=60.0)
    end_training(store)
    held = claim(store, "run-2")
    with pytest.raises(LeaseLost):
        claim_triggers(store, SERVICE, "run-1", lease=stalled, at=NOW)
    with pytest.raises(LeaseLost):
        postpone_triggers(store, SERVICE, lease=stalled, until=NOW + DAY)
    answer(store, held, Answer.CHALLENGER, model_id="lstm_B")


def test_what_a_dead_training_left_claimed_is_postponed_too(store):
    ring(store)
    claim(store)
    held = acquire_lease(store, training_lease(SERVICE), "run-1", seconds=60.0)
    assert postpone_triggers(store, SERVICE, lease=held, until=NOW + 3 * DAY) == 1
    end_training(store)
    assert list_trainable_services(store, at=lambda _: NOW + 2 * DAY, limits=EAGER) == ()


@pytest.mark.parametrize("back", [HOUR, timedelta(minutes=5)])
def test_a_claim_of_the_future_uses_up_no_budget(store, back):
    """The clock was set back after it."""
    ring(store)
    answer(store, claim(store), Answer.CHALLENGER)
    ring(store, watermark="later")
    assert claim(store, at=NOW - back) is not None


def test_a_late_answer_takes_the_change_it_belongs_to_along(store):
    ring(store)
    dead = claim(store)
    end_training(store)
    claim(store, "run-2", at=NOW + DAY)

    def answer_and_more() -> None:
        with store.write() as connection:
            connection.execute(trigger.update().values(text="changed"))
            answer_triggers(connection, dead, Answer.CHALLENGER, at=NOW)

    with pytest.raises(StoreError):
        answer_and_more()
    assert [row.text for row in list_triggers(store)] == [DRIFT.text]


def test_a_trigger_of_a_transaction_that_fails_never_was(store):
    def raise_and_fail() -> None:
        with store.write() as connection:
            raise_trigger(connection, DRIFT, at=NOW)
            raise RuntimeError("the verdict was not written")

    with pytest.raises(RuntimeError):
        raise_and_fail()
    assert list_triggers(store) == ()


def test_services_do_not_wait_for_one_another(store):
    ring(store)
    ring(store, service="another")
    assert claim(store) is not None
    assert claim(store, service="another") is not None
    with store.read() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(trigger)).scalar_one()
    assert count == 2


def test_nobody_rings_for_what_is_at_work_or_too_soon(store):
    ring(store)
    assert list_trainable_services(store, at=lambda _: NOW) == ((SERVICE, Cause.DRIFT),)
    held = claim(store)
    ring(store, watermark="later")
    assert list_trainable_services(store, at=lambda _: NOW + DAY) == ()
    answer(store, held, Answer.CHALLENGER)
    assert list_trainable_services(store, at=lambda _: NOW + HOUR) == ()
    assert list_trainable_services(store, at=lambda _: NOW + DAY) == ((SERVICE, Cause.DRIFT),)
