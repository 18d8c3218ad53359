"""A wish to go live: a rollout in phase `waiting`, written by the commit of its version.

    WAITING -> PENDING, when its service has no open rollout
    WAITING -> FAILED, when it is replaced or aborted, or its version may not go live any more

So a version that passed is rolled out whoever dies after its commit. A service has one wish, the
newest. A wish holds up nobody: a person's request goes first, and the wish waits behind it. A
shadow makes room for a wish, and begins again as a wish of its own when its service is free.

A wish for an A/B test waits for the process that can plan the test by the market's clock
(`list_waiting_tests`); it ends as replaced when that requests the test.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlops.rollout.comparing import INTERRUPTED, makes_room
from mlops.rollout.decide import SHADOWABLE, allowed_statuses
from mlops.rollout.plan import RolloutPlan, Strategy
from mlops.store import ModelVersion, Phase, Rollout, Route, Status, Store, audit
from mlops.store.engine import Connection
from mlops.store.judgements import needs_person
from mlops.store.rollouts import (
    Arrow,
    insert_rollout,
    lock_waiting_rollout,
    move_rollout,
    newest_of_strategy,
    open_rollouts,
    status_of,
    waiting_rollouts,
)
from mlops.store.routes import lock_route, read_route
from mlops.store.sql import store_time

WAITING_FOR = "waits until its service has no open rollout"
BEGUN = "the service has no open rollout"
AGAIN = "its service is free again"


def insert_wish(
    connection: Connection,
    version: ModelVersion,
    *,
    plan: RolloutPlan,
    why: audit.Why,
    test: Mapping[str, Any] | None = None,
) -> None:
    """Write the wish that a new challenger go live, in the transaction that registers it.

    It replaces the wish of an older version. A refused version leaves no wish, nor does one of a
    retired service, nor one whose verdict rests on its caller's word: a person takes that live.

    Args:
        connection: The caller's transaction.
        version: The version, inserted before in this transaction.
        plan: The figures of its rollout.
        why: The author and the reason, for the audit log; the time is the store's.
        test: Of a wish for an A/B test, what was asked for, as JSON; kept in its plan as ``test``.
    """
    route = lock_route(connection, version.service)
    if version.status is not Status.CHALLENGER or route is None or route.retired_at is not None:
        return
    if needs_person(version):
        return
    at = store_time(connection)
    older = lock_waiting_rollout(connection, version.service)
    if older is not None:
        end_wish(connection, older, route, f"replaced: {version.model_id} passed since", at)
    wish = Rollout(
        id=new_rollout_id(),
        service=version.service,
        strategy=plan.strategy,
        from_version=route.champion,
        to_version=version.model_id,
        plan=plan.to_dict() | ({} if test is None else {"test": dict(test)}),
        phase=Phase.WAITING,
        step=0,
        since=at,
        deadline=at,
        reason=WAITING_FOR,
        abort_requested=None,
        forced=False,
        requested_by=why.actor,
        requested_why=why.reason,
        requested_at=at,
    )
    insert_rollout(connection, wish, replace(why, at=at))


def decide_wish(
    wish: Rollout, route: Route, statuses: Mapping[str, Status], *, busy: bool
) -> Arrow | None:
    """The next arrow of a waiting rollout; None while it has to wait.

    One that is to carry an A/B test is begun by the request for that test.

    Args:
        wish: The waiting rollout.
        route: The route of its service.
        statuses: Those of the versions, by model_id.
        busy: Whether its service has an open rollout.
    """
    status = statuses.get(wish.to_version)
    plan = RolloutPlan.from_dict(wish.plan)
    if wish.abort_requested is not None:
        return _make_arrow(Phase.FAILED, f"aborted by {wish.abort_requested}")
    if status not in allowed_statuses(plan):
        return _make_arrow(Phase.FAILED, f"the version is {status} now and may not go live")
    if wish.to_version == route.champion:
        return _make_arrow(Phase.FAILED, "the version is the champion already")
    if busy or plan.strategy is Strategy.AB_TEST:
        return None
    return _make_arrow(Phase.PENDING, BEGUN, patience=plan.patience(Phase.PENDING))


def is_asking(wish: Rollout, route: Route, statuses: Mapping[str, Status]) -> bool:
    """Whether a waiting rollout would begin now, if its service had no open rollout.

    A shadow that waits to begin again asks nobody to make room.
    """
    if wish.strategy == Strategy.SHADOW:
        return False
    arrow = decide_wish(wish, route, statuses, busy=False)
    return arrow is not None and arrow.to is Phase.PENDING


def list_waiting_tests(store: Store) -> tuple[Rollout, ...]:
    """The wishes for an A/B test whose service is free, or has a shadow that makes room.

    ``plan["test"]`` of each is what `insert_wish` was given.
    """
    with store.read() as connection:
        opened = {row.service: row for row in open_rollouts(connection)}
        wishes = waiting_rollouts(connection)
    return tuple(
        wish
        for wish in wishes
        if wish.strategy == Strategy.AB_TEST
        if wish.service not in opened or makes_room_for_wish(opened[wish.service])
    )


def makes_room_for_wish(row: Rollout) -> bool:
    """Whether an open rollout is a shadow, which a wish may end; an A/B test holds its service."""
    return makes_room(row) and row.strategy == Strategy.SHADOW


def begin_shadow_again(connection: Connection, service: str, at: datetime) -> None:
    """Let the last shadow of a service wait to begin again, if it was interrupted and may.

    It does so where the service has no open rollout and no wish, in the transaction that ends the
    rollout for which it made room.
    """
    shadow = newest_of_strategy(connection, service, Strategy.SHADOW)
    if shadow is None or not shadow.phase.final:
        return
    if not (shadow.abort_requested or "").startswith(INTERRUPTED):
        return
    route = read_route(connection, service)
    status = status_of(connection, {shadow.to_version}).get(shadow.to_version)
    may_begin = route is not None and route.retired_at is None and status in SHADOWABLE
    if not may_begin or route is None or route.champion == shadow.to_version:
        return
    if open_rollouts(connection, service) or waiting_rollouts(connection, service):
        return
    again = replace(
        shadow,
        id=new_rollout_id(),
        from_version=route.champion,
        phase=Phase.WAITING,
        step=0,
        since=at,
        deadline=at,
        reason=WAITING_FOR,
        abort_requested=None,
        requested_at=at,
        ended_at=None,
    )
    why = audit.Why(at, actor=shadow.requested_by, reason=f"{AGAIN}; {shadow.id} was interrupted")
    insert_rollout(connection, again, why)


def end_wish(
    connection: Connection,
    wish: Rollout,
    route: Route,
    reason: str,
    at: datetime,
    *,
    again: bool = True,
) -> None:
    """End a waiting rollout that another request replaces, in the transaction of that request.

    A shadow that waited to begin again does so when the other one has ended, if ``again``.
    """
    arrow = _make_arrow(Phase.FAILED, reason)
    if wish.strategy == Strategy.SHADOW and again:
        arrow = replace(arrow, abort=f"{INTERRUPTED}{reason}")
    move_rollout(connection, wish, route, arrow, term=None, at=at)


def new_rollout_id() -> str:
    """An id that no other rollout has."""
    return f"rollout-{secrets.token_hex(6)}"


def _make_arrow(to: Phase, reason: str, *, patience: timedelta = timedelta(0)) -> Arrow:
    return Arrow(to=to, step=0, patience=patience, reason=reason)
