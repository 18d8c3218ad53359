"""Requests for a rollout, and the roll-back of a service to its previous champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from mlops.errors import RolloutError, RolloutRefused
from mlops.rollout.decide import DEPLOYABLE, is_held
from mlops.rollout.plan import RolloutPlan
from mlops.rollout.wishes import end_wish, new_rollout_id
from mlops.store import (
    ModelVersion,
    Phase,
    Rollout,
    Route,
    Status,
    Store,
    audit,
    get_route,
    get_version,
    list_replicas,
)
from mlops.store.replicas import LoadCause, ReplicaState, live_replicas
from mlops.store.rollouts import insert_rollout, lock_waiting_rollout, open_rollout
from mlops.store.routes import change_route, lock_route
from mlops.store.sql import store_time
from mlops.store.versions import change_status, lock_version

PENDING_FOR = "asked for"


def request_rollout(
    store: Store,
    model_id: str,
    plan: RolloutPlan,
    why: audit.Why,
    *,
    force: bool = False,
    now: datetime | None = None,
) -> Rollout:
    """Request a rollout: write its row, which the controller then advances.

    A training's wish to go live waits behind it, or ends where it is about the same version.

    Args:
        store: The store.
        model_id: The version that is to go live.
        plan: The figures of the rollout.
        why: The author and the reason, for the audit log.
        force: Let a version through that its gates refused, or whose metrics are claims; ``why``
            must then name a person and a reason.
        now: Replaces the database's clock in rehearsals.

    Raises:
        RolloutRefused: when the version may not go live, or another rollout is open.
        VersionNotFound: when there is no such version.
    """
    service = get_version(store, model_id).service
    with store.write() as connection:
        # Locked: until the rollout is there the service could be retired, or the bundle marked.
        route = lock_route(connection, service)
        row = lock_version(connection, model_id)
        route = _require_route(route, row)
        _check_gates(row, why, force=force)
        other = open_rollout(connection, row.service)
        if other is not None:
            raise RolloutRefused(
                f"{other.id} is bringing {other.to_version} live on {row.service} ({other.phase}); "
                "wait for it to end, or abort it"
            )
        at = now or store_time(connection)
        rollout = Rollout(
            id=new_rollout_id(),
            service=row.service,
            strategy=plan.strategy,
            from_version=route.champion,
            to_version=model_id,
            plan=plan.to_dict(),
            phase=Phase.PENDING,
            step=0,
            since=at,
            deadline=at + plan.patience(Phase.PENDING),
            reason=PENDING_FOR,
            abort_requested=None,
            forced=force,
            requested_by=why.actor,
            requested_why=why.reason,
            requested_at=at,
        )
        wish = lock_waiting_rollout(connection, row.service)
        if wish is not None and wish.to_version == model_id:
            end_wish(connection, wish, route, f"replaced by {rollout.id} of {why.actor}", at)
        insert_rollout(connection, rollout, replace(why, at=at))
    return rollout


def roll_back(
    store: Store, service: str, why: audit.Why, *, prove: Callable[[ModelVersion], object]
) -> Route:
    """Put the previous champion back at once: every replica holds it already.

    Without a previous champion, or if it has failed since, the baseline takes its place.

    Args:
        store: The store.
        service: Key of the service.
        why: The author and the reason, for the audit log.
        prove: Called with the version before the route changes; must raise if the version does
            not load or forecasts something else. Where no replica lives, it stands for one.

    Raises:
        RolloutError: when a rollout is open, there is no version to go back to, no replica holds
            the version, or one that can does not hold it yet.
    """
    route = get_route(store, service)
    if route is None:
        raise RolloutError(f"service {service} has not begun; there is nothing to roll back")
    previous = route.previous_champion
    if previous is None or get_version(store, previous).status is Status.FAILED:
        target = route.baseline
    else:
        target = previous
    if target == route.champion:
        raise RolloutError(f"{service} is on its baseline {target}; there is nothing before it")
    replicas = [one for one in list_replicas(store) if one.state is not ReplicaState.DRAINING]
    if replicas and not is_held(target, replicas):
        raise RolloutError(f"no live replica holds {target}; wait until one has loaded it")
    missing = [
        replica.id
        for replica in replicas
        if not replica.holds(target) and not replica.failed_to_load(target, LoadCause.REPLICA)
    ]
    if missing:
        raise RolloutError(
            f"{target} is not ready in {', '.join(missing)}; wait until it is (`/readyz`, "
            "the replica's log), or stop that replica"
        )
    prove(get_version(store, target))
    with store.write() as connection:
        lock_route(connection, service)
        other = open_rollout(connection, service)
        if other is not None:
            raise RolloutError(
                f"{other.id} is bringing {other.to_version} live ({other.phase}); abort it instead"
            )
        # The proof takes seconds, in which the replica that holds the version may have ended.
        if replicas and not is_held(target, live_replicas(connection)):
            raise RolloutError(f"no live replica holds {target} any more; try again")
        change_status(connection, target, Status.DEPLOYED, why)
        change_status(connection, route.champion, Status.RETIRED, why)
        back = replace(route, champion=target, previous_champion=None)
        return change_route(connection, route, back, "roll_back", why)


def _require_route(route: Route | None, row: ModelVersion) -> Route:
    """The route of a version's service, on which the version may go live.

    Raises:
        RolloutRefused: when there is none, it is retired, or the version is live or has no bundle.
    """
    if route is None:
        raise RolloutRefused(f"service {row.service} has not begun; register its baseline first")
    if route.retired_at is not None:
        raise RolloutRefused(f"service {row.service} is retired; restore_service brings it back")
    if route.champion == row.model_id:
        raise RolloutRefused(f"{row.model_id} is the champion of {row.service} already")
    if row.bundle_removed_at is not None:
        raise RolloutRefused(
            f"the bundle of {row.model_id} was removed on {row.bundle_removed_at:%Y-%m-%d}, "
            "BUNDLE_DAYS after the version's last change; train its recipe again"
        )
    return route


def _check_gates(row: ModelVersion, why: audit.Why, *, force: bool) -> None:
    refusal = _reason_not_to_deploy(row)
    if refusal is None:
        return
    if not force:
        raise RolloutRefused(
            f"{row.model_id} may not go live: {refusal}. Read manager.explain({row.model_id!r}); "
            "force=True with actor and reason overrides it, on record"
        )
    if why.actor in ("", audit.SYSTEM) or not why.reason.strip():
        raise RolloutRefused(
            f"forcing {row.model_id} past its gates ({refusal}) needs a person and a reason; got "
            f"actor {why.actor!r} and reason {why.reason!r}"
        )


def _reason_not_to_deploy(row: ModelVersion) -> str | None:
    if row.claims_only:
        return "its figures are its caller's claims, no gate judged it"
    if row.report is not None and not row.report.get("passed", False):
        return "its gates refused it"
    if row.status not in DEPLOYABLE:
        return f"its status is {row.status}"
    return None
