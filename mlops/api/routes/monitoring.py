"""Monitoring: drift of given rows, watches, the dashboard and what a page polls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from mlops.api.children import Work
from mlops.api.context import Actor, Context, wait_for
from mlops.api.documents import (
    MOST_NAME,
    TEXT_PATTERN,
    Body,
    Document,
    Flag,
    Id,
    Name,
    Number,
    QueryId,
)
from mlops.api.overview_documents import DashboardDocument, OverviewDocument
from mlops.api.paging import Cursor, read_name_cursor
from mlops.api.polled import get_polled
from mlops.api.problems import list_problems
from mlops.api.record_documents import StoppedWatch, WatchDocument, WatchList
from mlops.api.snapshot import answer_with_etag
from mlops.api.strict_requests import StrictRoute
from mlops.manager import MLOpsManager
from mlops.monitoring.drift.report import Recommendation, ReportStatus
from mlops.settings import Settings
from mlops.store.monitor_runs import LONGEST_HOURS, SHORTEST_HOURS

router = APIRouter(prefix="/monitoring", tags=["monitoring"], route_class=StrictRoute)

MOST_ROWS, MOST_COLUMNS = 20_000, 300

Cell: TypeAlias = Number | Annotated[str, Field(max_length=64, pattern=TEXT_PATTERN)] | None
Column: TypeAlias = Annotated[str, Field(min_length=1, max_length=MOST_NAME, pattern=TEXT_PATTERN)]
Row: TypeAlias = Annotated[dict[Column, Cell], Field(min_length=1, max_length=MOST_COLUMNS)]


Hours: TypeAlias = Annotated[float, Query(ge=SHORTEST_HOURS, le=LONGEST_HOURS, allow_inf_nan=False)]


class DriftBody(Body):
    """Rows to set against a version's reference, oldest first.

    They are bars with `open`, `high`, `low`, `close`, `volume` and their open time, with the
    history that the features need before the window; or the version's own columns. The other
    fields say how the time of bars is written, as for a file.
    """

    model_id: Id
    data: Annotated[list[Row], Field(min_length=1, max_length=MOST_ROWS)]
    timezone: Name | None = None
    stamps: Literal["open", "close"] | None = None
    dayfirst: Flag | None = None
    time_column: Name | None = None
    time_format: Name | None = None

    def list_time_arguments(self) -> dict[str, Any]:
        """The fields about times that were given."""
        return self.model_dump(exclude={"model_id", "data"}, exclude_none=True)


class ColumnDocument(Document):
    """One watched column; null where a figure does not exist.

    ``status`` is tested, or says why the column was not. ``effect`` is the Kolmogorov distance to
    the reference beyond the usual one, ``location`` the shift in standard deviations.
    """

    name: str
    role: str
    status: str
    reason: str
    n: int
    reference_bars: int
    p_value: float | None
    effect: float | None
    location: float | None
    scale: float | None
    missing_share: float | None


class DriftDocument(Document):
    """The verdict on the last window of the rows.

    ``drift_score`` is the largest effect among the columns behind the recommendation, 0 without
    one; ``behind`` names them, ``reasons`` says why.
    """

    model_id: Id
    status: ReportStatus
    drift_detected: bool
    performance_degraded: bool
    recommendation: Recommendation
    drift_score: float
    window_bars: int
    behind: list[str]
    reasons: list[str]
    advice: list[str]
    suggested_window: int
    columns: list[ColumnDocument]

    @classmethod
    def of(cls, model_id: str, report: Mapping[str, Any]) -> DriftDocument:
        """The document of a `DriftReport.to_dict`."""
        columns = [
            ColumnDocument(**{name: column[name] for name in ColumnDocument.model_fields})
            for column in report["columns"]
        ]
        same = {
            name: report[name]
            for name in cls.model_fields
            if name not in {"model_id", "drift_score", "columns"}
        }
        return cls(model_id=model_id, drift_score=report["score"], columns=columns, **same)


# First, because pages poll them: a path is compared with each route before its own.
@router.get(
    "/dashboard", response_model=DashboardDocument, responses=list_problems("not-available")
)
async def get_dashboard(request: Request) -> Response:
    """The figures of the platform's dashboard, at most five seconds old."""
    return answer_with_etag(request, await get_polled(request).dashboard.read())


@router.get(
    "/live",
    response_model=OverviewDocument,
    responses=list_problems("invalid-request", "not-available")
    | {304: {"description": "Nothing has changed since the `ETag` of `If-None-Match`"}},
)
async def get_live(request: Request, cursor: Cursor = None) -> Response:
    """Services, rollouts, tests, alerts, queue and newest versions, for a page that polls."""
    after = read_name_cursor(cursor)
    return answer_with_etag(request, await get_polled(request).live.read(after))


@router.post("/drift", responses=list_problems("not-found", "invalid-request", "not-available"))
def check_drift(body: DriftBody, context: Context) -> DriftDocument:
    """Compare rows with those that a version was trained on.

    Rows with none of the version's columns are refused, with their names; where some are missing
    they are `absent` in the answer. Fewer than 24 rows are `insufficient_data`.
    """
    context.manager.get_model(body.model_id)
    report = context.children.run(
        Work.COMPUTATION,
        check_in_child,
        context.manager.config,
        body.model_id,
        body.data,
        body.list_time_arguments(),
    )
    return DriftDocument.of(body.model_id, report)


def check_in_child(
    settings: Settings, model_id: str, data: object, times: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare rows with a version's reference; a child does it, for it may compute for seconds."""
    manager = MLOpsManager(settings)
    return asyncio.run(manager.monitor_model_drift(model_id, data, **times)).to_dict()


@router.post(
    "/start-continuous",
    responses=list_problems("not-found", "conflict", "invalid-request", "not-available"),
)
def start_watching(
    model_id: QueryId, context: Context, actor: Actor, interval_hours: Hours = SHORTEST_HOURS
) -> WatchDocument:
    """Let the hourly monitor look at a version until it is told to stop, restarts included.

    Asked again, it changes the interval. A baseline has nothing that could drift.
    """
    start = context.manager.start_continuous_monitoring
    return WatchDocument.of(wait_for(start, model_id, interval_hours, actor=actor))


@router.post(
    "/stop-continuous", responses=list_problems("not-found", "invalid-request", "not-available")
)
def stop_watching(model_id: QueryId, context: Context, actor: Actor) -> StoppedWatch:
    """Stop looking at a version; a champion is looked at nevertheless."""
    stop = context.manager.stop_continuous_monitoring
    return StoppedWatch(model_id=model_id, stopped=wait_for(stop, model_id, actor=actor))


@router.get("/continuous", responses=list_problems("not-available"))
def list_watched(context: Context) -> WatchList:
    """The versions that the monitor looks at on request."""
    watches = context.manager.continuous_monitoring()
    return WatchList(watches=[WatchDocument.of(row) for row in watches])
