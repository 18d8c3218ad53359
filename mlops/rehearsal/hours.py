"""The past of a service, gone through hour by hour as if it were now.

    bars known at the hour -> forecast of record -> outcomes -> drift, lost skill -> retraining

What serves, watches, trains and rolls out is what does so in earnest; only the clock is another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from mlops.monitoring.monitor import Look, Monitor
from mlops.monitoring.performance.outcomes import Matching
from mlops.rollout.fallback import return_to_baseline
from mlops.serving.runtime import Headless
from mlops.store import Store
from mlops.store.triggers import unanswered

Trained = TypeVar("Trained")
HOUR = timedelta(hours=1)


class RehearsalClock:
    """Market time that stands still until it is set, the same for every venue."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self, venue: str, last_close: datetime) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True)
class HourResult(Generic[Trained]):
    """What came of one hour: outcomes that met their forecasts, the look, and what was trained.

    ``returned`` says why the service went back to its baseline, empty where it did not.
    """

    now: datetime
    matched: Matching
    look: Look
    trained: Trained | None
    returned: str


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """The hours after ``start``, ``end`` among them."""
    return [
        start + timedelta(hours=n) for n in range(1, int((end - start) / timedelta(hours=1)) + 1)
    ]


def rehearse(
    service: str,
    hours: Iterable[datetime],
    *,
    store: Store,
    clock: RehearsalClock,
    replica: Headless,
    monitor: Monitor,
    retrain: Callable[[str], Trained | None],
) -> Iterator[HourResult[Trained]]:
    """Go through the hours; ``retrain`` trains and rolls out what the service's queue asks for.

    ``replica`` goes by ``clock`` and forecasts when it is told to; ``monitor`` is shown bars by
    the same clock.
    """
    for now in hours:
        clock.now = now
        replica.forecast(service)
        [matched] = monitor.match_outcomes(now, [service])
        [look] = monitor.look(now, [service])
        waiting = unanswered(store, at=partial(_then, now))
        asked = any(one == service for one, _ in waiting)
        trained = retrain(service) if asked else None
        back = return_to_baseline(store, service, now=now)
        yield HourResult(now, matched, look, trained, "".join(one.reason for one in back))


def _then(now: datetime, service: str) -> datetime:
    return now
