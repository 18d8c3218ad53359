"""An hour is forecast, matched, looked at and answered in this order, by one clock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import RolloutError
from mlops.monitoring.monitor import Look
from mlops.monitoring.performance.outcomes import Matching
from mlops.rehearsal import hours as module
from mlops.rehearsal.hours import (
    SETTLE_S,
    HourResult,
    RehearsalClock,
    hours_between,
    rehearse,
    wait_until_settled,
)
from mlops.store import Store, Verdict, open_store
from mlops.store.ab_tests import conclude_test
from mlops.store.schema import rollout
from mlops.store.triggers import Cause, TriggerReason, raise_trigger
from tests.mlops.ab_testing.stage import WHY, Stage
from tests.mlops.rollout import rows

SERVICE = "sample.btc-usd.1h.volatility.6"
START = datetime(2018, 10, 14, tzinfo=UTC)


class House:
    """Replica and monitor in one: writes down what is asked of it, and at which market time."""

    def __init__(self, store: Store, clock: RehearsalClock, alarmed: datetime) -> None:
        self.store, self.clock, self.alarmed = store, clock, alarmed
        self.done: list[tuple[str, datetime]] = []

    def note(self, what: str) -> None:
        self.done.append((what, self.clock("sample", START, START)))

    def forecast(self, service: str) -> None:
        self.note("forecast")

    def match_outcomes(self, now: datetime, services: list[str]) -> tuple[Matching, ...]:
        self.note("match")
        return (Matching(service=SERVICE, new=1),)

    def look(self, now: datetime, services: list[str]) -> tuple[Look, ...]:
        self.note("look")
        if now == self.alarmed:
            reason = TriggerReason(
                service=SERVICE, cause=Cause.DRIFT, watermark="w", champion="linear", text="drift"
            )
            with self.store.write() as connection:
                raise_trigger(connection, reason, at=now)
        return (Look(service=SERVICE, model_id="linear"),)

    def retrain(self, service: str, now: datetime) -> str:
        assert now == self.clock.now
        self.note(f"retrain {service}")
        return "linear_2"

    def look_at_running(self, times: dict[str, datetime]) -> tuple[str, ...]:
        assert times == {SERVICE: self.clock.now}
        self.note("look at tests")
        return ("ab-1",)


@pytest.fixture
def store(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")) as opened:
        yield opened


def live_through(
    store: Store, hours: int, *, hours_a_test_look: int | None = None
) -> tuple[House, list[HourResult[str]]]:
    clock = RehearsalClock(START)
    house: Any = House(store, clock, alarmed=START + timedelta(hours=2))
    lived = rehearse(
        SERVICE,
        hours_between(START, START + timedelta(hours=hours)),
        store=store,
        clock=clock,
        replica=house,
        monitor=house,
        retrain=house.retrain,
        testing=None if hours_a_test_look is None else house,
        hours_a_test_look=hours_a_test_look or 1,
    )
    return house, list(lived)


def test_each_hour_is_lived_in_order_and_an_alarm_is_answered_in_its_own_hour(
    store: Store,
) -> None:
    house, lived = live_through(store, hours=2)
    first, second = START + timedelta(hours=1), START + timedelta(hours=2)
    assert house.done == [
        ("forecast", first),
        ("match", first),
        ("look", first),
        ("forecast", second),
        ("match", second),
        ("look", second),
        (f"retrain {SERVICE}", second),
    ]
    assert [(one.now, one.trained) for one in lived] == [(first, None), (second, "linear_2")]


def test_running_tests_are_looked_at_once_in_so_many_hours_after_the_outcomes_of_the_hour(
    store: Store,
) -> None:
    house, lived = live_through(store, hours=6, hours_a_test_look=3)
    sixth = START + timedelta(hours=6)
    done = [what for what, at in house.done if at == sixth and not what.startswith("retrain")]
    assert done == [
        "forecast", "match", "look", "look at tests",
    ]  # fmt: skip
    assert [hour.tests for hour in lived] == [(), (), ("ab-1",), (), (), ("ab-1",)]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a wait, which ends with an error after the first minute of them."""
    taken: list[float] = []
    monkeypatch.setattr(module.time, "sleep", taken.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: float(len(taken)))
    return taken


def move(store: Store, **changes: Any) -> None:
    with store.write() as connection:
        connection.execute(rollout.update().values(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"phase": "step"}, {"phase": "promoted"}, {"phase": "done"}, {"phase": "failed"}],
    ids=lambda changes: changes["phase"],
)
def test_the_market_goes_on_while_a_test_runs_and_after_its_promotion(
    store: Store, pauses: list[float], changes: dict[str, Any]
) -> None:
    stage = Stage(store)
    stage.begin()
    move(store, **changes)
    wait_until_settled(store, stage.service.key)
    assert pauses == []


@pytest.mark.parametrize("phase", ["pending", "loading", "gate", "rollback"])
def test_the_market_stands_still_while_a_rollout_moves(
    store: Store, pauses: list[float], phase: str
) -> None:
    stage = Stage(store)
    stage.begin()
    move(store, phase=phase)
    with pytest.raises(RolloutError, match=f"rollout-1 of {stage.service} is in phase {phase}"):
        wait_until_settled(store, stage.service.key)
    assert len(pauses) > SETTLE_S


def test_the_market_stands_still_until_a_verdict_has_moved_the_route(
    store: Store, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(store)
    test = stage.begin()
    with store.write() as connection:
        conclude_test(connection, test.id, Verdict.BETTER, "better", WHY)

    def promote(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            move(store, phase="promoted")

    monkeypatch.setattr(module.time, "sleep", promote)
    wait_until_settled(store, stage.service.key)
    assert len(pauses) == 3


def test_a_standing_shadow_holds_up_no_market(store: Store, pauses: list[float]) -> None:
    rows.begin_service(store)
    shadow = rows.ask(store, strategy="shadow")
    move(store, phase="step")
    wait_until_settled(store, shadow.service)
    assert pauses == []


def test_the_hours_of_a_day_are_24_and_the_last_one_is_its_end() -> None:
    hours = hours_between(START, START + timedelta(days=1))
    assert (len(hours), hours[0], hours[-1]) == (
        24, START + timedelta(hours=1), START + timedelta(days=1),
    )  # fmt: skip
