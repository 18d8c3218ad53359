"""Services taken back to their previous champion, retired, and brought back."""

from __future__ import annotations

from fastapi import APIRouter

from mlops.api.context import Actor, Context, wait_for
from mlops.api.documents import Document, Id, PathId, Utc
from mlops.api.problems import list_problems
from mlops.api.routes.rollouts import ReasonBody
from mlops.api.strict_requests import StrictRoute
from mlops.store import Route

router = APIRouter(prefix="/services/{service}", tags=["services"], route_class=StrictRoute)

REFUSALS = list_problems("not-found", "conflict", "invalid-request")


class RouteDocument(Document):
    """Who answers a service after a change; ``share`` is that of the challenger."""

    service: Id
    generation: int
    champion: Id
    previous_champion: Id | None
    baseline: Id
    challenger: Id | None
    share: float
    updated_at: Utc
    retired_at: Utc | None

    @classmethod
    def of(cls, route: Route) -> RouteDocument:
        return cls(
            service=route.service,
            generation=route.generation,
            champion=route.champion,
            previous_champion=route.previous_champion,
            baseline=route.baseline,
            challenger=route.challenger,
            share=route.weight_bp / 10_000,
            updated_at=route.updated_at,
            retired_at=route.retired_at,
        )


@router.post("/rollback", responses=REFUSALS)
def roll_back_service(
    service: PathId, context: Context, actor: Actor, body: ReasonBody | None = None
) -> RouteDocument:
    """Make the previous champion live again at once, after a check that it loads and forecasts."""
    reason = "" if body is None else body.reason
    roll_back = context.manager.rollback_model
    return RouteDocument.of(wait_for(roll_back, service, actor=actor, reason=reason))


@router.post("/retire", responses=REFUSALS)
def retire_service(
    service: PathId, context: Context, actor: Actor, body: ReasonBody | None = None
) -> RouteDocument:
    """End a service: replicas stop serving it, and nothing monitors or retrains it any more."""
    reason = "" if body is None else body.reason
    retire = context.manager.retire_service
    return RouteDocument.of(wait_for(retire, service, actor=actor, reason=reason))


@router.post("/restore", responses=REFUSALS)
def restore_service(
    service: PathId, context: Context, actor: Actor, body: ReasonBody | None = None
) -> RouteDocument:
    """Bring a retired service back, with the champion that it had."""
    reason = "" if body is None else body.reason
    restore = context.manager.restore_service
    return RouteDocument.of(wait_for(restore, service, actor=actor, reason=reason))
