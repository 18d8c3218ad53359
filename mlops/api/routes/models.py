"""Versions: listed and looked up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from mlops.api.context import Context, wait_for
from mlops.api.documents import PathId, QueryId, QueryMoment, QueryName
from mlops.api.model_documents import (
    ExplanationDocument,
    LineageDocument,
    ModelDocument,
    ModelPage,
    PerformanceDocument,
)
from mlops.api.paging import USUAL_ROWS, Cursor, Limit, read_cursor
from mlops.api.problems import list_problems
from mlops.api.strict_requests import StrictRoute
from mlops.store import Status

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)

FAILURES = list_problems("not-found", "invalid-request", "not-available")


@router.get("", responses=list_problems("invalid-request", "not-available"))
def list_models(
    context: Context,
    *,
    model_type: QueryName | None = None,
    symbol: QueryName | None = None,
    status: Annotated[Status | None, Query()] = None,
    service: QueryId | None = None,
    cursor: Cursor = None,
    limit: Limit = USUAL_ROWS,
) -> ModelPage:
    """The versions that match every filter given, newest first, without report and notes."""
    page = context.manager.model_page(
        model_type=model_type,
        symbol=symbol,
        status=status,
        service=service,
        after=read_cursor(cursor),
        limit=limit,
    )
    return ModelPage.of(page)


@router.get("/{model_id}", responses=list_problems("not-found", "invalid-request"))
def get_model(model_id: PathId, context: Context) -> ModelDocument:
    """One version."""
    return ModelDocument.of_version(context.manager.get_model(model_id))


@router.get("/{model_id}/explain", responses=FAILURES)
def explain_model(model_id: PathId, context: Context) -> ExplanationDocument:
    """Why a version passed or was refused, on what data, by which code."""
    return ExplanationDocument.of(context.manager.explain(model_id))


@router.get("/{model_id}/trace", responses=FAILURES)
def trace_model(model_id: PathId, context: Context) -> LineageDocument:
    """What led to a version, from the look that asked for it to what it made live."""
    return LineageDocument.of(context.manager.trace(model_id))


@router.get("/{model_id}/performance", responses=FAILURES)
def measure_model(
    model_id: PathId, context: Context, at: QueryMoment | None = None
) -> PerformanceDocument:
    """A version's figures on its latest known outcomes, and whether its skill is lost.

    `at` is market time, by default now: where bars are replayed, that of the newest look.
    """
    measure = context.manager.monitor_model_performance
    return PerformanceDocument.of(wait_for(measure, model_id, now=at))
