"""A wish to go live: a rollout in phase `waiting`, written by the commit of its version.

    WAITING -> PENDING, when its service has no open rollout
    WAITING -> FAILED, when it is replaced or aborted, or its version may not go live any more

So a version that passed is rolled out whoever dies after its commit. A service has one wish, the
newest. A wish holds up nobody: a person's request goes first, and the wish waits behind it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from mlops.rollout.decide import DEPLOYABLE
from mlops.rollout.plan import RolloutPlan
from mlops.store import ModelVersion, Phase, Rollout, Route, Status, audit
from mlops.store.engine import Connection
from mlops.store.rollouts import Arrow, insert_rollout, lock_waiting_rollout, move_rollout
from mlops.store.routes import lock_route
from mlops.store.sql import store_time

WAITING_FOR = "waits until its service has no open rollout"
BEGUN = "the service has no open rollout"


def insert_wish(
    connection: Connection, version: ModelVersion, *, plan: RolloutPlan, why: audit.Why
) -> None:
    """Write the wish that a new challenger go live, in the transaction that registers it.

    It replaces the wish of an older version. A refused version leaves no wish, nor does one of a
    retired service.

    Args:
        connection: The caller's transaction.
        version: The version, inserted before in this transaction.
        plan: The figures of its rollout.
        why: The author and the reason, for the audit log; the time is the store's.
    """
    route = lock_route(connection, version.service)
    if version.status is not Status.CHALLENGER or route is None or route.retired_at is not None:
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
        plan=plan.to_dict(),
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

    Args:
        wish: The waiting rollout.
        route: The route of its service.
        statuses: Those of the versions, by model_id.
        busy: Whether its service has an open rollout.
    """
    status = statuses.get(wish.to_version)
    if wish.abort_requested is not None:
        return _make_arrow(Phase.FAILED, f"aborted by {wish.abort_requested}")
    if status not in DEPLOYABLE:
        return _make_arrow(Phase.FAILED, f"the version is {status} now and may not go live")
    if wish.to_version == route.champion:
        return _make_arrow(Phase.FAILED, "the version is the champion already")
    if busy:
        return None
    plan = RolloutPlan.from_dict(wish.plan)
    return _make_arrow(Phase.PENDING, BEGUN, patience=plan.patience(Phase.PENDING))


def end_wish(
    connection: Connection, wish: Rollout, route: Route, reason: str, at: datetime
) -> None:
    """End a waiting rollout that another request replaces, in the transaction of that request."""
    move_rollout(connection, wish, route, _make_arrow(Phase.FAILED, reason), term=0, at=at)


def new_rollout_id() -> str:
    """An id that no other rollout has."""
    return f"rollout-{secrets.token_hex(6)}"


def _make_arrow(to: Phase, reason: str, *, patience: timedelta = timedelta(0)) -> Arrow:
    return Arrow(to=to, step=0, patience=patience, reason=reason)
