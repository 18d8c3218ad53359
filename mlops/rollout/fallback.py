"""A champion's health, always: one that fails gives way to the previous one, or the baseline.

[[A champion that lost its skill, and whose retraining was refused, gives way to the baseline.

What is asked for is a state of the store, so it does not matter who asks, how often, or whether
the process that saw the refusal still lives.]]
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mlops.alerts.conditions import raise_returned_to_baseline
from mlops.errors import StoreError
from mlops.rollout.analysis import Conclusion, Counts, judge_alone
from mlops.store import audit
from mlops.store.alerts import Condition, is_lasting, list_alerts
from mlops.store.engine import Connection, Store
from mlops.store.replicas import Replica
from mlops.store.rollouts import open_rollouts
from mlops.store.routes import Route, change_route, list_routes, read_route
from mlops.store.schema import Status
from mlops.store.sql import store_time
from mlops.store.triggers import Answer, Cause, TriggerRow, TriggerState, read_triggers
from mlops.store.versions import change_status

MAX_FAULT_RATE = 0.05
"""A champion is unfit when more than this share of its trials is shown to fail."""

WINDOW_S = 600.0
"""Trials of this many seconds are judged together."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing a tick did, and the version it did it to."""

    service: str
    what: str
    reason: str
    model_id: str

    def log(self, level: int = logging.INFO) -> None:
        """Say it in the log."""
        about = {"service": self.service, "model_id": self.model_id}
        log.log(level, "service=%s %s: %s", self.service, self.what, self.reason, extra=about)


@dataclass(frozen=True, slots=True)
class Fallback:
    """The route without the champion, and what becomes of the versions."""

    route: Route
    reason: str
    statuses: Mapping[str, Status]


def champion_failing(route: Route, replicas: Sequence[Replica], seen: Counts) -> str | None:
    """Why the champion is not fit to serve; None where nothing speaks against it."""
    lost = [one for one in replicas if one.lost(route.champion)]
    if replicas and 2 * len(lost) >= len(replicas):
        error = lost[0].models[route.champion].error
        return f"{len(lost)} of {len(replicas)} replicas cannot load {route.champion}: {error}"
    verdict = judge_alone(seen, max_fault_rate=MAX_FAULT_RATE)
    if verdict.word is Conclusion.WORSE:
        return f"{route.champion} fails: {verdict}"
    return None


def decide_fallback(
    route: Route,
    replicas: Sequence[Replica],
    seen: Counts,
    *,
    previous_status: Status | None = None,
) -> Fallback | None:
    """Where a failing champion's requests go instead; None while it is healthy.

    The previous champion takes over where some replica holds it and it has not failed itself,
    else the baseline. The failed one is not kept as a way back.
    """
    why = champion_failing(route, replicas, seen)
    if why is None or route.champion == route.baseline:
        return None
    previous = route.previous_champion
    held = previous is not None and any(one.holds(previous) for one in replicas)
    held = held and previous_status is not Status.FAILED
    successor = previous if held and previous is not None else route.baseline
    return Fallback(
        replace(route, champion=successor, previous_champion=None),
        f"{why}; {successor} serves instead",
        {successor: Status.DEPLOYED, route.champion: Status.FAILED},
    )


log = logging.getLogger(__name__)

RETURN = "return_to_baseline"
_OPEN = (TriggerState.WAITING, TriggerState.CLAIMED)


def decide_return(
    route: Route, triggers: Sequence[TriggerRow], *, lost: bool, busy: bool
) -> Fallback | None:
    """The way back to the baseline; None while the champion keeps its place.

    Args:
        route: What is live.
        triggers: The service's reasons to retrain, oldest first.
        lost: Whether the newest verdict on the champion says that its skill is lost.
        busy: Whether a rollout of the service is under way: it may bring something better.
    """
    if not lost or busy or route.champion == route.baseline:
        return None
    refused = _refusal_of(route, triggers)
    if refused is None:
        return None
    return Fallback(
        replace(route, champion=route.baseline, previous_champion=None),
        f"{route.champion} lost its skill and the retraining that should have replaced it was "
        f"refused ({refused.model_id}); {route.baseline} serves instead",
        {route.baseline: Status.DEPLOYED, route.champion: Status.RETIRED},
    )


def _refusal_of(route: Route, triggers: Sequence[TriggerRow]) -> TriggerRow | None:
    """The newest trigger about the champion's lost skill, where its answer was a refusal.

    One that waits, or was put off because too few bars had come, may still lead to a challenger.
    """
    about = [
        row for row in triggers if row.cause is Cause.PERFORMANCE and row.champion == route.champion
    ]
    if not about or any(row.state in _OPEN for row in about):
        return None
    newest = about[-1]
    answered = newest.state is TriggerState.ANSWERED
    return newest if answered and newest.answer is Answer.REFUSED else None


def return_to_baseline(
    store: Store, service: str | None = None, *, now: datetime | None = None
) -> tuple[Moved, ...]:
    """Take back every service, or this one, whose champion has to go; empty where none has.

    Every replica holds every baseline, so nothing is waited for. ``now`` replaces the database's
    clock in rehearsals. A service that the store refuses to change leaves the others alone.
    """
    moved = []
    for route in _suspects(store, service):
        try:
            one = _return(store, route.service, now)
        except StoreError as error:
            # The next look asks again.
            about = {"service": route.service, "model_id": route.champion}
            told = (route.service, error)
            log.warning("service=%s is not back on its baseline: %s", *told, extra=about)
            continue
        if one is not None:
            one.log(logging.WARNING)
            moved.append(one)
    return tuple(moved)


def _suspects(store: Store, service: str | None) -> list[Route]:
    """Those whose skill is lost; nearly always there are none, and nobody's writing is held up."""
    lasting = list_alerts(store, service=service, lasting_only=True)
    lost = {
        (one.service, one.subject)
        for one in lasting
        if one.condition is Condition.PERFORMANCE_DEGRADED
    }
    return [route for route in list_routes(store) if (route.service, route.champion) in lost]


def _return(store: Store, service: str, now: datetime | None) -> Moved | None:
    """Decide on what the transaction sees, and act in it."""
    with store.write() as connection:
        route = read_route(connection, service)
        if route is None:
            return None
        back = decide_return(
            route,
            read_triggers(connection, service),
            lost=_lost(connection, route),
            busy=any(one.service == service for one in open_rollouts(connection)),
        )
        if back is None:
            return None
        at = now or store_time(connection)
        why = audit.Why(at, actor="monitor", reason=back.reason)
        change_route(connection, route, back.route, RETURN, why)
        for model_id, status in back.statuses.items():
            change_status(connection, model_id, status, why)
        raise_returned_to_baseline(connection, route, reason=back.reason, at=at)
    return Moved(service, RETURN, back.reason, route.champion)


def _lost(connection: Connection, route: Route) -> bool:
    """The alert begins with a verdict; a later whole window that shows nothing of it ends it."""
    return is_lasting(
        connection,
        condition=Condition.PERFORMANCE_DEGRADED,
        service=route.service,
        subject=route.champion,
    )
