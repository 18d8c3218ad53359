"""Replays the past of a service hour by hour, with the parts that work on live data.

    bars of the hour -> forecast -> outcomes -> look -> retraining -> return to the baseline
                                            -> look at the A/B test

Serving, monitoring, training and rollouts are those of production. Only the clock differs. A
rollout goes by the wall clock, so the market stands still until an A/B test has both of its arms,
and until a verdict has moved the route.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from mlops.ab_testing.lifecycle import AbTesting, Looked
from mlops.data.market import Market
from mlops.errors import RolloutError
from mlops.monitoring.monitor import Look, Monitor
from mlops.monitoring.performance.outcomes import Matching
from mlops.rollout.fallback import return_to_baseline
from mlops.rollout.plan import Strategy
from mlops.serving.runtime import HeadlessReplica
from mlops.store import Phase, Rollout, Store
from mlops.store.ab_tests import read_test_of_rollout
from mlops.store.rollouts import open_rollout
from mlops.store.triggers import list_trainable_services

Trained = TypeVar("Trained")
HOUR = timedelta(hours=1)

SETTLE_S = 300.0
PAUSE_S = 0.05


class RehearsalClock:
    """A clock of market time that stands still until it is set, the same for every market."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self, market: Market, first_open: datetime, last_close: datetime) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True)
class HourResult(Generic[Trained]):
    """What one hour of a rehearsal brought about.

    Attributes:
        matched: Outcomes that met their forecasts.
        trained: What ``retrain`` returned; None where nothing asked for a training.
        returned: Why the service went back to its baseline; empty where it did not.
        tests: The running A/B tests of the service after a look at each.
    """

    now: datetime
    matched: Matching
    look: Look
    trained: Trained | None
    returned: str
    tests: tuple[Looked, ...] = ()


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """The full hours after ``start``, up to and including ``end``."""
    return [
        start + timedelta(hours=n) for n in range(1, int((end - start) / timedelta(hours=1)) + 1)
    ]


def rehearse(
    service: str,
    hours: Iterable[datetime],
    *,
    store: Store,
    clock: RehearsalClock,
    replica: HeadlessReplica,
    monitor: Monitor,
    retrain: Callable[[str, datetime], Trained | None],
    testing: AbTesting | None = None,
    hours_a_test_look: int = 1,
) -> Iterator[HourResult[Trained]]:
    """Go through the hours and yield what each one brought about.

    Args:
        clock: The clock of ``replica`` and of the bars that ``monitor`` is given.
        replica: Forecasts on request only.
        retrain: Trains and rolls out what a service's triggers ask for, at this market time.
        testing: Looks at the running A/B tests of the service by ``clock``; None where it has none.
        hours_a_test_look: Hours from one look at the tests to the next.

    Raises:
        RolloutError: when a rollout of the service neither ends nor comes to rest in time.
    """
    for count, now in enumerate(hours, start=1):
        if testing is not None:
            wait_until_settled(store, service)
        clock.now = now
        replica.forecast(service)
        [matched] = monitor.match_outcomes(now, [service])
        [look] = monitor.look(now, [service])
        asked_for = {key for key, _ in list_trainable_services(store, at=lambda _: clock.now)}
        trained = retrain(service, now) if service in asked_for else None
        tests: tuple[Looked, ...] = ()
        if testing is not None and count % hours_a_test_look == 0:
            tests = testing.look_at_running({service: now})
            wait_until_settled(store, service)
        returns = return_to_baseline(store, service, now=now)
        reason = "".join(back.reason for back in returns)
        yield HourResult(now, matched, look, trained, reason, tests)


def wait_until_settled(store: Store, service: str) -> None:
    """Wait while a rollout of a service moves; one that waits for a verdict or shadows does not.

    Raises:
        RolloutError: when it takes longer than `SETTLE_S`.
    """
    deadline = time.monotonic() + SETTLE_S
    while (moving := _find_moving(store, service)) is not None:
        if time.monotonic() > deadline:
            raise RolloutError(
                f"{moving.id} of {service} is in phase {moving.phase} after {SETTLE_S:g} s, and "
                f"the rehearsed market waits for it: {moving.reason}"
            )
        time.sleep(PAUSE_S)


def _find_moving(store: Store, service: str) -> Rollout | None:
    """The open rollout of a service while it goes on by itself, up to its promotion; else None."""
    with store.read() as connection:
        row = open_rollout(connection, service)
        if row is None or row.phase is Phase.PROMOTED:
            return None
        test = read_test_of_rollout(connection, row.id)
    stays = row.strategy == Strategy.SHADOW or (test is not None and test.verdict is None)
    return None if stays and row.phase is Phase.STEP else row
