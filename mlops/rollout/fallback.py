"""When a champion is replaced without a rollout.

    it fails on requests and on inputs of our own  -> the previous champion, else the baseline
    its files are wrong, in every replica          -> the same
    its skill is lost and the retraining refused   -> the baseline

The return to the baseline waits for an open rollout only where that may bring a better version
soon (`holds_up_return`). A shadow and an A/B test, whose control is unfit then, end with it; any
other rollout is aborted first.

Requests alone replace no champion: they may be what no market has. Nor do replicas that cannot
fetch or open it: the next version that is ready answers meanwhile (`routing.ask_order`). Only a
version that a live replica holds takes a champion's place. The decisions are pure functions of what
the store shows. So any process may decide, as often as it likes, also when the process that saw the
failure or the refusal has died since.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mlops.alerts.conditions import raise_returned_to_baseline
from mlops.errors import StoreError
from mlops.rollout.analysis import ChampionTrials, Conclusion, Verdict, judge_version
from mlops.rollout.comparing import makes_room
from mlops.rollout.decide import is_held
from mlops.rollout.plan import Strategy
from mlops.rollout.slot import interrupt_rollout, interrupt_test, lock_slot
from mlops.rollout.wishes import begin_shadow_again
from mlops.store import Phase, Replica, Rollout, Route, Status, Store, audit, list_routes
from mlops.store.ab_tests import lock_test_of
from mlops.store.alerts import Condition, is_lasting, list_alerts
from mlops.store.engine import Connection
from mlops.store.replicas import LoadCause, live_replicas
from mlops.store.rollouts import began_at, write_abort
from mlops.store.routes import change_route
from mlops.store.sql import store_time
from mlops.store.triggers import Answer, Cause, TriggerRow, TriggerState, read_triggers
from mlops.store.versions import change_status

log = logging.getLogger(__name__)

MAX_FAULT_RATE = 0.05
"""A champion fails when the evidence shows a larger fault rate than this."""

WINDOW_S = 600.0
"""Champions are judged by trials and checks of the last so many seconds."""

RETURN = "return_to_baseline"

HOLDS_UP_S = 3600.0
"""A rollout that replaces the champion holds up the return to the baseline in its first hour."""

REPLACING = (Strategy.BLUE_GREEN, Strategy.CANARY, Strategy.ROLLING)
"""Strategies whose rollouts end with a new champion, unless they fail."""

_OPEN = (TriggerState.WAITING, TriggerState.CLAIMED)


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a rollout or of a route, and the version concerned.

    ``what`` is the action: the rollout's id and new phase, or the action of the route's history.
    """

    service: str
    what: str
    reason: str
    model_id: str

    def log(self, level: int = logging.INFO) -> None:
        """Write the move to the log, with service and model_id as the record's extra fields."""
        extra = {"service": self.service, "model_id": self.model_id}
        log.log(level, "service=%s %s: %s", self.service, self.what, self.reason, extra=extra)


@dataclass(frozen=True, slots=True)
class Fallback:
    """The route without the failing champion, and the new statuses of both versions."""

    route: Route
    reason: str
    statuses: Mapping[str, Status]


def champion_failing(
    route: Route, replicas: Sequence[Replica], trials: ChampionTrials
) -> str | None:
    """Why the champion is not fit to serve; None while it is.

    Args:
        route: The service's route.
        replicas: The live replicas that stay. One that has not read the newest route yet may
            hold the champion, so it counts too.
        trials: The champion's trials and its newest check in the last `WINDOW_S` seconds.
    """
    broken = [one for one in replicas if one.failed_to_load(route.champion, LoadCause.VERSION)]
    if replicas and len(broken) == len(replicas):
        error = broken[0].models[route.champion].error
        return f"{route.champion} does not load in any of {len(replicas)} replicas: {error}"
    verdict, own = _judge_requests(trials), trials.own
    if verdict.conclusion is Conclusion.WORSE and own.faults:
        return (
            f"{route.champion} fails: {verdict}; it fails on {own.faults} of {own.trials} inputs "
            "of our own too"
        )
    return None


def explain_requests(route: Route, trials: ChampionTrials) -> str | None:
    """What people are told of a champion that fails on requests alone; None where it does not."""
    verdict, own = _judge_requests(trials), trials.own
    if verdict.conclusion is not Conclusion.WORSE or own.faults or not own.trials:
        return None
    return (
        f"{route.champion} fails on requests: {verdict}. It stays live, because it passes its "
        f"golden examples and the newest bars ({own.trials} inputs of our own); look at what "
        "clients send"
    )


def _judge_requests(trials: ChampionTrials) -> Verdict:
    return judge_version(trials.live, max_fault_rate=MAX_FAULT_RATE)


def decide_fallback(
    route: Route,
    replicas: Sequence[Replica],
    trials: ChampionTrials,
    *,
    previous_status: Status | None = None,
) -> Fallback | None:
    """Decide which version replaces a failing champion; None while the champion is healthy.

    The previous champion takes over if some replica holds it and it has not failed itself, else
    the baseline does if some replica holds it, else the champion keeps its place. The failed
    version is not kept as the previous champion.
    """
    why = champion_failing(route, replicas, trials)
    if why is None or route.champion == route.baseline:
        return None
    previous = None if previous_status is Status.FAILED else route.previous_champion
    candidates = (previous, route.baseline)
    successor = next((name for name in candidates if is_held(name, replicas)), None)
    if successor is None:
        return None
    return Fallback(
        replace(route, champion=successor, previous_champion=None),
        f"{why}; {successor} serves instead",
        {successor: Status.DEPLOYED, route.champion: Status.FAILED},
    )


def decide_return(route: Route, triggers: Sequence[TriggerRow], *, lost: bool) -> Fallback | None:
    """Decide whether the baseline should replace a champion that lost its skill; None if not.

    Args:
        route: The service's route.
        triggers: The service's triggers, oldest first.
        lost: Whether the newest verdict on the champion says that its skill is lost.
    """
    if not lost or route.champion == route.baseline:
        return None
    refused = _newest_refusal(route, triggers)
    if refused is None:
        return None
    return Fallback(
        replace(route, champion=route.baseline, previous_champion=None),
        f"{route.champion} lost its skill and the retraining that should have replaced it was "
        f"refused ({refused.model_id}); {route.baseline} serves instead",
        {route.baseline: Status.DEPLOYED, route.champion: Status.RETIRED},
    )


def holds_up_return(row: Rollout, began: datetime, now: datetime) -> bool:
    """Whether the return to the baseline waits for an open rollout; else that is aborted first.

    It waits for a rollout that is being undone, which ends by itself, and for one that replaces the
    champion, in the first hour after it began. It never waits for a rollout that only compares
    versions, such as a shadow, nor for one that has been open for longer.

    Args:
        row: The rollout.
        began: When it began.
        now: The time of the store, or of the rehearsal.
    """
    if row.phase in (Phase.ROLLBACK, Phase.REVERTED):
        return True
    return row.strategy in REPLACING and now < began + timedelta(seconds=HOLDS_UP_S)


def _newest_refusal(route: Route, triggers: Sequence[TriggerRow]) -> TriggerRow | None:
    """The newest trigger about the champion's lost skill, if its answer was a refusal.

    A trigger that still waits may lead to a challenger.
    """
    matching = [
        row for row in triggers if row.cause is Cause.PERFORMANCE and row.champion == route.champion
    ]
    if not matching or any(row.state in _OPEN for row in matching):
        return None
    newest = matching[-1]
    answered = newest.state is TriggerState.ANSWERED
    return newest if answered and newest.answer is Answer.REFUSED else None


def return_to_baseline(
    store: Store, service: str | None = None, *, now: datetime | None = None
) -> tuple[Move, ...]:
    """Put the baseline back where a champion lost its skill and its retraining was refused.

    Every replica holds every baseline, so the change takes effect at once; where none can load it,
    the next call tries again. Where a rollout holds it up for too long, its abort is requested, and
    the controller makes up for the return when the rollout has ended. A service that the store
    refuses to change does not hold up the others; the next call tries it again.

    Args:
        store: The store.
        service: Only this service; None for all.
        now: Replaces the database's clock in rehearsals.
    """
    moves = []
    for route in _routes_with_lost_skill(store, service):
        try:
            move = _return_one(store, route.service, now)
        except StoreError as error:
            extra = {"service": route.service, "model_id": route.champion}
            log.warning(
                "service=%s is not back on its baseline: %s", route.service, error, extra=extra
            )
            continue
        if move is not None:
            move.log(logging.WARNING)
            moves.append(move)
    return tuple(moves)


def _routes_with_lost_skill(store: Store, service: str | None) -> list[Route]:
    """Read outside the write transaction: usually empty, so no write lock is taken."""
    lost = {
        (alert.service, alert.subject)
        for alert in list_alerts(store, service=service, lasting_only=True)
        if alert.condition is Condition.PERFORMANCE_DEGRADED
    }
    return [route for route in list_routes(store) if (route.service, route.champion) in lost]


def _return_one(store: Store, service: str, now: datetime | None) -> Move | None:
    """Decide by what the write transaction sees, and change the route in it."""
    with store.write() as connection:
        route, row = lock_slot(connection, service)
        if route is None:
            return None
        back = decide_return(
            route,
            read_triggers(connection, service),
            # The alert begins with a verdict; a later whole window without loss ends it.
            lost=is_lasting(
                connection,
                condition=Condition.PERFORMANCE_DEGRADED,
                service=service,
                subject=route.champion,
            ),
        )
        replicas = live_replicas(connection)
        if back is None or (replicas and not is_held(back.route.champion, replicas)):
            return None
        why = audit.Why(now or store_time(connection), actor="monitor", reason=back.reason)
        freed = route if row is None else _end_first(connection, row, route, why)
        if freed is None:
            return None
        alone = replace(freed, champion=back.route.champion, previous_champion=None)
        change_route(connection, freed, alone, RETURN, why)
        for model_id, status in back.statuses.items():
            change_status(connection, model_id, status, why)
        raise_returned_to_baseline(connection, route, reason=back.reason, at=why.at)
        begin_shadow_again(connection, service, why.at)
    return Move(service, RETURN, back.reason, route.champion)


def _end_first(connection: Connection, row: Rollout, route: Route, why: audit.Why) -> Route | None:
    """End a rollout that must not hold up the return; the route after it, None while that waits.

    One that only compares ends at once; of another the abort is requested, once.
    """
    if holds_up_return(row, began_at(connection, row.id), why.at):
        return None
    test = lock_test_of(connection, row.id)
    if makes_room(row, test_has_verdict=test is not None and test.verdict is not None):
        if test is not None:
            return interrupt_test(connection, row, route, test, why)
        return interrupt_rollout(connection, row, route, why.reason, at=why.at, again=True)
    if row.abort_requested is None:
        write_abort(connection, row, why)
    return None
