"""Services: listed, and looked up with their history and their forecasts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from mlops.api.context import Context
from mlops.api.documents import PathId, QueryId, QueryMoment
from mlops.api.model_documents import LivePeriodDocument
from mlops.api.paging import (
    USUAL_ROWS,
    Cursor,
    Limit,
    read_name_cursor,
    write_name_cursor,
)
from mlops.api.problems import list_problems
from mlops.api.service_documents import (
    ForecastDocument,
    ForecastList,
    LiveDocument,
    ServiceDocument,
    ServiceHistory,
    ServicePage,
)
from mlops.api.strict_requests import StrictRoute
from mlops.manager.services import MOST_FORECASTS

router = APIRouter(prefix="/services", tags=["services"], route_class=StrictRoute)

FAILURES = list_problems("not-found", "invalid-request", "not-available")

Rows = Annotated[
    int, Query(ge=1, le=MOST_FORECASTS, description="Most forecasts; of more the newest are kept")
]


@router.get("", responses=list_problems("invalid-request", "not-available"))
def list_services(
    context: Context, cursor: Cursor = None, limit: Limit = USUAL_ROWS
) -> ServicePage:
    """All services by key, retired ones too."""
    rows, after = context.manager.service_page(after=read_name_cursor(cursor), limit=limit)
    services = [ServiceDocument.of(row) for row in rows]
    return ServicePage(services=services, next=write_name_cursor(after))


@router.get("/{service}", responses=FAILURES)
def get_service(service: PathId, context: Context) -> ServiceDocument:
    """Who answers a service."""
    return ServiceDocument.of(context.manager.service_route(service))


@router.get("/{service}/history", responses=FAILURES)
def get_service_history(service: PathId, context: Context) -> ServiceHistory:
    """Every change of what was live, with who made it and why."""
    context.manager.service_route(service)
    periods = context.manager.live_history(service)
    return ServiceHistory(
        service=service, periods=[LivePeriodDocument.of(period) for period in periods]
    )


@router.get("/{service}/forecasts", responses=FAILURES)
def list_forecasts(
    service: PathId,
    context: Context,
    *,
    model_id: QueryId | None = None,
    since: QueryMoment | None = None,
    until: QueryMoment | None = None,
    limit: Rows = MOST_FORECASTS,
) -> ForecastList:
    """Forecasts of bars opened in `since` to `until` (market time) beside their outcomes.

    Those of record, or with `model_id` those of one version, whatever their role.
    """
    rows = context.manager.service_forecasts(
        service, model_id=model_id, since=since, until=until, limit=limit
    )
    return ForecastList(service=service, forecasts=[ForecastDocument.of(row) for row in rows])


@router.get("/{service}/live", responses=FAILURES)
def get_live_version(
    service: PathId, context: Context, at: QueryMoment | None = None
) -> LiveDocument:
    """Which version was live at a moment of the wall clock, by default now, and why."""
    context.manager.service_route(service)
    moment = at or context.clock()
    period = context.manager.who_was_live(service, moment)
    return LiveDocument(
        service=service,
        at=moment,
        period=None if period is None else LivePeriodDocument.of(period),
    )
