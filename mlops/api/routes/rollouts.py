"""Rollouts: requested, listed, looked up, undone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from mlops.api.context import Actor, Context, wait_for
from mlops.api.documents import Body, Document, Flag, Id, Json, PathId, QueryId, Reason, Utc
from mlops.api.paging import USUAL_ROWS, Cursor, Limit, read_cursor, write_cursor
from mlops.api.problems import list_problems
from mlops.api.request_keys import RequestName
from mlops.api.strict_requests import StrictRoute
from mlops.manager.deployment_requests import Deployment
from mlops.rollout.plan import Strategy
from mlops.store import Phase, Rollout, RolloutEvent

router = APIRouter(tags=["rollouts"], route_class=StrictRoute)

LONGEST_WAIT_S = 60.0


class DeployBody(Body):
    """Which version goes live, and how.

    ``force`` lets a version through that its gates refused; it needs a reason.
    """

    model_id: Id
    deployment_strategy: Strategy | None = None
    force: Flag = False
    end_test: Flag = False
    reason: Reason = ""


class DeploymentDocument(Document):
    """What a request to go live has led to.

    ``success`` is null until it is known, true when the version is live and healthy, false when its
    rollout ended otherwise, as a shadow does. ``rollout_id`` is null where it was live already.
    """

    success: bool | None
    rollout_id: Id | None
    model_id: Id
    service: Id
    deployment_strategy: str | None
    status: Phase
    from_model_id: Id | None
    reason: str

    @classmethod
    def of(cls, deployment: Deployment) -> DeploymentDocument:
        rollout = deployment.rollout
        return cls(
            success=deployment.success,
            rollout_id=None if rollout is None else rollout.id,
            model_id=deployment.model_id,
            service=deployment.service,
            deployment_strategy=None if rollout is None else rollout.strategy,
            status=Phase.DONE if rollout is None else rollout.phase,
            from_model_id=None if rollout is None else rollout.from_version,
            reason="it was live already" if rollout is None else rollout.reason,
        )


class RolloutDocument(Document):
    """A rollout: ``status`` is its phase, ``step`` counts the entries of ``shares`` from 0."""

    rollout_id: Id
    service: Id
    deployment_strategy: str
    model_id: Id
    from_model_id: Id
    status: Phase
    step: int
    shares: list[float]
    since: Utc
    deadline: Utc
    reason: str
    abort_requested: str | None
    forced: bool
    requested_by: str
    requested_why: str
    requested_at: Utc
    ended_at: Utc | None

    @classmethod
    def of(cls, row: Rollout) -> RolloutDocument:
        return cls(
            rollout_id=row.id,
            service=row.service,
            deployment_strategy=row.strategy,
            model_id=row.to_version,
            from_model_id=row.from_version,
            status=row.phase,
            step=row.step,
            shares=[weight / 10_000 for weight in row.plan.get("weights_bp", ())],
            since=row.since,
            deadline=row.deadline,
            reason=row.reason,
            abort_requested=row.abort_requested,
            forced=row.forced,
            requested_by=row.requested_by,
            requested_why=row.requested_why,
            requested_at=row.requested_at,
            ended_at=row.ended_at,
        )


class EventDocument(Document):
    """One arrow that a rollout took; ``detail`` is the evidence."""

    at: Utc
    from_status: Phase | None
    to_status: Phase
    step: int
    generation: int
    reason: str
    detail: Json

    @classmethod
    def of(cls, event: RolloutEvent) -> EventDocument:
        return cls(
            at=event.at,
            from_status=event.from_phase,
            to_status=event.to_phase,
            step=event.step,
            generation=event.generation,
            reason=event.reason,
            detail=dict(event.detail),
        )


class RolloutHistory(Document):
    """A rollout with what it went through, oldest first."""

    rollout: RolloutDocument
    events: list[EventDocument]


class RolloutList(Document):
    """A page of rollouts, newest first."""

    rollouts: list[RolloutDocument]
    next: str | None


class ReasonBody(Body):
    """Why a person changes something; it is kept on record."""

    reason: Reason = ""


@router.post(
    "/models/deploy",
    status_code=202,
    response_model=DeploymentDocument,
    responses={
        200: {"model": DeploymentDocument, "description": "The version is live"},
        **list_problems("not-found", "conflict", "invalid-request", "key-reused"),
    },
)
def deploy_model(
    *,
    body: DeployBody,
    response: Response,
    context: Context,
    actor: Actor,
    request: RequestName,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)] = 0.0,
) -> DeploymentDocument:
    """Request that a version go live; replicas run the rollout.

    ``wait`` holds the answer for so many seconds: 200 when the version is live by then, else 202.
    """
    deployment = wait_for(
        context.manager.request_deployment,
        body.model_id,
        body.deployment_strategy,
        force=body.force,
        end_test=body.end_test,
        wait_s=wait,
        request=request,
        actor=actor,
        reason=body.reason,
    )
    if deployment.success:
        response.status_code = 200
    if deployment.rollout is not None:
        response.headers["location"] = f"/mlops/api/rollouts/{deployment.rollout.id}"
    return DeploymentDocument.of(deployment)


@router.get("/rollouts", responses=list_problems("invalid-request"))
def list_rollouts(
    context: Context,
    service: QueryId | None = None,
    cursor: Cursor = None,
    limit: Limit = USUAL_ROWS,
) -> RolloutList:
    """Rollouts of a service or of all, newest first."""
    page = context.manager.rollout_page(service, after=read_cursor(cursor), limit=limit)
    return RolloutList(
        rollouts=[RolloutDocument.of(row) for row in page.rows], next=write_cursor(page.next)
    )


@router.get("/rollouts/{rollout_id}", responses=list_problems("not-found", "invalid-request"))
def get_rollout(rollout_id: PathId, context: Context) -> RolloutHistory:
    """One rollout, with what it went through."""
    events = context.manager.rollout_events(rollout_id)
    return RolloutHistory(
        rollout=RolloutDocument.of(context.manager.get_rollout(rollout_id)),
        events=[EventDocument.of(event) for event in events],
    )


@router.post(
    "/rollouts/{rollout_id}/abort",
    status_code=202,
    responses=list_problems("not-found", "conflict", "invalid-request"),
)
def abort_rollout(
    rollout_id: PathId, context: Context, actor: Actor, body: ReasonBody | None = None
) -> RolloutDocument:
    """Request that a rollout be undone; replicas undo it."""
    reason = "" if body is None else body.reason
    return RolloutDocument.of(context.manager.request_abort(rollout_id, actor=actor, reason=reason))
