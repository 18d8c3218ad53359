"""Requests for a rollout, and the roll-back of a service to its previous champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from mlops.errors import RolloutError, RolloutRefused, ServiceNotFound
from mlops.rollout.decide import DEPLOYABLE, is_held
from mlops.rollout.plan import RolloutPlan, Strategy
from mlops.rollout.slot import clear_slot, lock_slot
from mlops.rollout.wishes import end_wish, new_rollout_id
from mlops.store import (
    AbTest,
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
from mlops.store.ab_tests import insert_test, read_test_of_request
from mlops.store.engine import Connection
from mlops.store.ledger import record_ab_test
from mlops.store.replicas import LoadCause, ReplicaState, live_replicas
from mlops.store.requests import RequestKey
from mlops.store.rollouts import (
    insert_rollout,
    lock_waiting_rollout,
    open_rollout,
    read_rollout_of_request,
)
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
    end_test: bool = False,
    request: RequestKey | None = None,
    now: datetime | None = None,
) -> Rollout:
    """Request a rollout: write its row, which the controller then advances.

    A training's wish to go live waits behind it, or ends where it is about the same version. A
    shadow of the service is ended, and begins again afterwards.

    Args:
        store: The store.
        model_id: The version that is to go live.
        plan: The figures of the rollout.
        why: The author and the reason, for the audit log.
        force: Let a version through that its gates refused, or whose metrics are claims; ``why``
            must then name a person and a reason. A version with claims may be shadowed without.
        end_test: Stop the service's A/B test if one runs.
        request: Names this request; the repeat of one that made a rollout returns that.
        now: Replaces the database's clock in rehearsals.

    Raises:
        RequestKeyReused: when the key is that of another request.
        RolloutRefused: when the version may not go live, or another rollout is open that does not
            make room.
        RolloutError: for the plan of an A/B test, which `request_test` takes.
        VersionNotFound: when there is no such version.
    """
    if plan.strategy is Strategy.AB_TEST:
        raise RolloutError("a rollout of strategy ab_test carries a test; use request_test")
    service = get_version(store, model_id).service
    with store.write() as connection:
        if request is not None:
            lock_route(connection, service)
            known = read_rollout_of_request(connection, request)
            if known is not None:
                return known
        asked = _Request(service, model_id, _dated(connection, why, now))
        route = _take_slot(connection, asked, plan, force=force, end_test=end_test)
        return _insert_pending(connection, asked, route, plan, forced=force, request=request)


def request_test(
    store: Store,
    test: AbTest,
    plan: RolloutPlan,
    why: audit.Why,
    *,
    end_test: bool = False,
    now: datetime | None = None,
) -> AbTest:
    """Request an A/B test: write its row and its rollout's in one transaction.

    Args:
        store: The store.
        test: The test; its ``rollout_id``, author, reason and time of request are set here. A
            ``request_key`` that has a test already begins no second one.
        plan: The figures of its rollout, from `mlops.rollout.plan.ab_test_plan`.
        why: The author and the reason, for the audit log.
        end_test: Stop the service's present test if one runs.
        now: Replaces the database's clock in rehearsals.

    Returns:
        The test as it is stored, or the one that the same request began before.

    Raises:
        RolloutRefused: when the challenger may not go live, the champion is another one by now, or
            another rollout is open that does not make room.
        RolloutError: when plan and test differ in their split.
        VersionNotFound: when there is no such version.
    """
    if plan.strategy is not Strategy.AB_TEST or plan.weights_bp != (test.split_bp,):
        raise RolloutError(
            f"the plan ({plan.strategy}, {plan.weights_bp}) is not that of a test with a split of "
            f"{test.split_bp} basis points; use ab_test_plan"
        )
    service = get_version(store, test.challenger_id).service
    with store.write() as connection:
        if test.request_key is not None:
            lock_route(connection, service)
            known = read_test_of_request(connection, test.request_key)
            if known is not None:
                return known
        asked = _Request(service, test.challenger_id, _dated(connection, why, now))
        route = _take_slot(connection, asked, plan, force=False, end_test=end_test)
        _check_arms(route, test)
        row = _insert_pending(connection, asked, route, plan, forced=False)
        written = replace(
            test,
            service=service,
            rollout_id=row.id,
            requested_by=why.actor,
            requested_why=why.reason,
            requested_at=row.requested_at,
        )
        insert_test(connection, written, asked.why)
        record_ab_test(connection, service, test_id=test.id, alpha=test.alpha, at=test.since_bar)
    return written


@dataclass(frozen=True, slots=True)
class _Request:
    """The version that is asked for; ``why`` has the time of the request."""

    service: str
    model_id: str
    why: audit.Why


def _dated(connection: Connection, why: audit.Why, now: datetime | None) -> audit.Why:
    return replace(why, at=now or store_time(connection))


def _take_slot(
    connection: Connection, asked: _Request, plan: RolloutPlan, *, force: bool, end_test: bool
) -> Route:
    """Check the version and free the route of its service for it; returns that route."""
    # Locked: until the rollout is there the service could be retired, or the bundle marked.
    locked, other = lock_slot(connection, asked.service)
    row = lock_version(connection, asked.model_id)
    route = _require_route(locked, row)
    _check_gates(row, plan, asked.why, force=force)
    if other is None:
        return route
    return clear_slot(connection, route, other, asked.model_id, asked.why, end_test=end_test)


def _insert_pending(
    connection: Connection,
    asked: _Request,
    route: Route,
    plan: RolloutPlan,
    *,
    forced: bool,
    request: RequestKey | None = None,
) -> Rollout:
    """Insert the rollout; a wish about the same version ends."""
    why = asked.why
    rollout = Rollout(
        id=new_rollout_id(),
        service=route.service,
        strategy=plan.strategy,
        from_version=route.champion,
        to_version=asked.model_id,
        plan=plan.to_dict(),
        phase=Phase.PENDING,
        step=0,
        since=why.at,
        deadline=why.at + plan.patience(Phase.PENDING),
        reason=PENDING_FOR,
        abort_requested=None,
        forced=forced,
        requested_by=why.actor,
        requested_why=why.reason,
        requested_at=why.at,
        request_key=None if request is None else request.key,
        request_digest=None if request is None else request.digest,
    )
    wish = lock_waiting_rollout(connection, route.service)
    if wish is not None and wish.to_version == asked.model_id:
        reason = f"replaced by {rollout.id} of {why.actor}"
        end_wish(connection, wish, route, reason, why.at, again=False)
    insert_rollout(connection, rollout, why)
    return rollout


def _check_arms(route: Route, test: AbTest) -> None:
    if route.champion != test.champion_id:
        raise RolloutRefused(
            f"{route.champion} is the champion of {route.service}, not {test.champion_id}; test "
            "against that one, or compare the two on past bars"
        )
    if route.baseline == test.challenger_id:
        raise RolloutRefused(
            f"{test.challenger_id} is the baseline of {route.service} and cannot be a challenger; "
            "roll the service back to it instead"
        )


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
        raise ServiceNotFound(f"service {service} has not begun; there is nothing to roll back")
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


def _check_gates(row: ModelVersion, plan: RolloutPlan, why: audit.Why, *, force: bool) -> None:
    refusal = _reason_not_to_deploy(row, plan)
    if refusal is None:
        return
    if not force:
        raise RolloutRefused(
            f"{row.model_id} may not go live: {refusal}. Read manager.explain({row.model_id!r}); "
            f"{_describe_way(row)}force=True with actor and reason overrides it, on record",
            gates=_list_refusals(row),
        )
    if why.actor in ("", audit.SYSTEM) or not why.reason.strip():
        raise RolloutRefused(
            f"forcing {row.model_id} past its gates ({refusal}) needs a person and a reason; got "
            f"actor {why.actor!r} and reason {why.reason!r}"
        )


def _list_refusals(row: ModelVersion) -> tuple[str, ...]:
    """A sentence for each gate that refused a version."""
    results = (row.report or {}).get("results", ())
    return tuple(
        f"{result['name']} {result['title']}: {result['reason']}"
        for result in results
        if not result["passed"] and result["severity"] == "hard"
    )


def _reason_not_to_deploy(row: ModelVersion, plan: RolloutPlan) -> str | None:
    if row.claims_only:
        shadowed = plan.strategy is Strategy.SHADOW and row.status is Status.REFUSED
        return None if shadowed else "its figures are its caller's claims, no gate judged it"
    if row.report is not None and not row.report.get("passed", False):
        return "its gates refused it"
    if row.status not in DEPLOYABLE:
        return f"its status is {row.status}"
    return None


def _describe_way(row: ModelVersion) -> str:
    """How a version with claims gets a verdict; empty for others."""
    if not row.claims_only:
        return ""
    return "manager.judge_model(...) judges it, deployment_strategy='shadow' collects evidence; "
