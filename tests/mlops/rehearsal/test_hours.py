"""An hour is forecast, matched, looked at and answered in this order, by one clock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.monitoring.monitor import Look
from mlops.monitoring.performance.outcomes import Matching
from mlops.rehearsal.hours import HourResult, RehearsalClock, hours_between, rehearse
from mlops.store import Store, open_store
from mlops.store.triggers import Cause, TriggerReason, raise_trigger

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


@pytest.fixture
def store(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")) as opened:
        yield opened


def live_through(store: Store, hours: int) -> tuple[House, list[HourResult[str]]]:
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


def test_the_hours_of_a_day_are_24_and_the_last_one_is_its_end() -> None:
    hours = hours_between(START, START + timedelta(days=1))
    assert (len(hours), hours[0], hours[-1]) == (
        24, START + timedelta(hours=1), START + timedelta(days=1),
    )  # fmt: skip
