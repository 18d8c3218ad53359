"""Replays the past of a service hour by hour, with the parts that work on live data.

    bars of the hour -> forecast -> outcomes -> look -> retraining -> return to the baseline

Serving, monitoring, training and rollouts are those of production. Only the clock differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from mlops.data.market import Market
from mlops.monitoring.monitor import Look, Monitor
from mlops.monitoring.performance.outcomes import Matching
from mlops.rollout.fallback import return_to_baseline
from mlops.serving.runtime import HeadlessReplica
from mlops.store import Store
from mlops.store.triggers import list_trainable_services

Trained = TypeVar("Trained")
HOUR = timedelta(hours=1)


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
    """

    now: datetime
    matched: Matching
    look: Look
    trained: Trained | None
    returned: str


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
) -> Iterator[HourResult[Trained]]:
    """Go through the hours and yield what each one brought about.

    Args:
        clock: The clock of ``replica`` and of the bars that ``monitor`` is given.
        replica: Forecasts on request only.
        retrain: Trains and rolls out what a service's triggers ask for, at this market time.
    """
    for now in hours:
        clock.now = now
        replica.forecast(service)
        [matched] = monitor.match_outcomes(now, [service])
        [look] = monitor.look(now, [service])
        asked_for = {key for key, _ in list_trainable_services(store, at=lambda _: clock.now)}
        trained = retrain(service, now) if service in asked_for else None
        returns = return_to_baseline(store, service, now=now)
        yield HourResult(now, matched, look, trained, "".join(back.reason for back in returns))
