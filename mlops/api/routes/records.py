"""What monitoring wrote: alerts, checks and triggers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from mlops.api.context import Context
from mlops.api.documents import QueryFlag, QueryId
from mlops.api.paging import USUAL_ROWS, Cursor, Limit, read_cursor, write_cursor
from mlops.api.problems import list_problems
from mlops.api.record_documents import (
    AlertDocument,
    AlertPage,
    CheckDocument,
    CheckPage,
    TriggerDocument,
    TriggerPage,
)
from mlops.api.strict_requests import StrictRoute
from mlops.store.triggers import TriggerState

router = APIRouter(tags=["records"], route_class=StrictRoute)

FAILURES = list_problems("invalid-request", "not-available")


@router.get("/alerts", responses=FAILURES)
def list_alerts(
    context: Context,
    *,
    service: QueryId | None = None,
    lasting: QueryFlag = False,
    cursor: Cursor = None,
    limit: Limit = USUAL_ROWS,
) -> AlertPage:
    """Alerts, newest first; `lasting=true` leaves out those that have ended."""
    page = context.manager.alert_page(
        service=service, lasting_only=lasting, after=read_cursor(cursor), limit=limit
    )
    return AlertPage(
        alerts=[AlertDocument.of(row) for row in page.rows], next=write_cursor(page.next)
    )


@router.get("/checks", responses=FAILURES)
def list_checks(
    context: Context,
    *,
    service: QueryId | None = None,
    model_id: QueryId | None = None,
    official: QueryFlag = False,
    cursor: Cursor = None,
    limit: Limit = USUAL_ROWS,
) -> CheckPage:
    """The monitor's looks at versions, newest first; `official=true` keeps those that decide."""
    page = context.manager.check_page(
        service=service,
        model_id=model_id,
        official_only=official,
        after=read_cursor(cursor),
        limit=limit,
    )
    return CheckPage(
        checks=[CheckDocument.of(row) for row in page.rows], next=write_cursor(page.next)
    )


@router.get("/triggers", responses=FAILURES)
def list_triggers(
    context: Context,
    *,
    service: QueryId | None = None,
    state: Annotated[TriggerState | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = USUAL_ROWS,
) -> TriggerPage:
    """The reasons to retrain services, newest first, with what became of each."""
    page = context.manager.trigger_page(
        service=service, state=state, after=read_cursor(cursor), limit=limit
    )
    return TriggerPage(
        triggers=[TriggerDocument.of(row) for row in page.rows], next=write_cursor(page.next)
    )
