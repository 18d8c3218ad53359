"""A/B tests: planned, started, looked at, ended, listed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from mlops.ab_testing.requests import LONGEST_HOURS, OnShortPlan
from mlops.api.context import Actor, ApiContext, Context, wait_for
from mlops.api.documents import Body, Flag, Id, Name, Number, PathId, QueryId, Reason
from mlops.api.experiment_documents import (
    EvaluationDocument,
    ExperimentDocument,
    ExperimentList,
    LookDocument,
    LookList,
    PlanDocument,
    StartedExperiment,
)
from mlops.api.paging import USUAL_ROWS, Cursor, Limit, read_cursor, write_cursor
from mlops.api.problems import Problem, list_problems
from mlops.api.request_keys import RequestName
from mlops.api.routes.rollouts import ReasonBody
from mlops.api.strict_requests import StrictRoute

router = APIRouter(prefix="/experiments", tags=["experiments"], route_class=StrictRoute)

Hours = Annotated[Number, Field(gt=0, le=LONGEST_HOURS)]


class PlanBody(Body):
    """Two versions of one service, of which one is live.

    ``traffic_split`` is the share of the requests that model B answers, ``duration_hours`` is in
    market time.
    """

    model_a_id: Id
    model_b_id: Id
    traffic_split: Annotated[Number, Field(ge=0, le=1)] = 0.5
    duration_hours: Hours = 48.0


class TestBody(PlanBody):
    """A test that begins now.

    ``promote``: a challenger that is better goes live. ``on_short_plan``: what becomes of a test
    that cannot decide. ``end_test``: a running test of the service is stopped for this one.
    """

    __test__ = False

    test_name: Name | None = None
    promote: Flag = True
    on_short_plan: OnShortPlan = OnShortPlan.ACCEPT
    end_test: Flag = False
    reason: Reason = ""


class ExtendBody(Body):
    """Hours of trading that a test goes on for."""

    hours: Hours
    reason: Reason = ""


REFUSALS = list_problems("not-found", "conflict", "invalid-request")


@router.post(
    "/ab-test",
    status_code=201,
    responses=list_problems("not-found", "conflict", "invalid-request", "key-reused"),
)
def start_test(
    body: TestBody, response: Response, context: Context, actor: Actor, request: RequestName
) -> StartedExperiment:
    """Start an A/B test: champion against another version on the same coming bars."""
    _check_duration(context, body.duration_hours)
    answer = wait_for(
        context.manager.start_ab_test,
        body.model_a_id,
        body.model_b_id,
        body.test_name or "",
        body.traffic_split,
        body.duration_hours,
        promote=body.promote,
        on_short_plan=body.on_short_plan,
        end_test=body.end_test,
        request_key=None if request is None else request.key,
        request_digest=None if request is None else request.digest,
        actor=actor,
        reason=body.reason,
    )
    assert answer.plan is not None, "the answer of a start has its plan"
    response.headers["location"] = f"/mlops/api/experiments/{answer.id}"
    return StartedExperiment.of(answer, answer.plan)


@router.post("/ab-test/plan", responses=REFUSALS)
def plan_test(body: PlanBody, context: Context) -> PlanDocument:
    """What a test could see, and when; nothing begins."""
    _check_duration(context, body.duration_hours)
    plan = context.manager.plan_ab_test(
        body.model_a_id, body.model_b_id, body.traffic_split, body.duration_hours
    )
    return PlanDocument.of(plan)


@router.post("/{experiment_id}/evaluate", responses=REFUSALS)
def evaluate_test(experiment_id: PathId, context: Context) -> EvaluationDocument:
    """Look at a test now; the same bar again gives the same figures."""
    return EvaluationDocument.of(wait_for(context.manager.evaluate_ab_test, experiment_id))


@router.post("/{experiment_id}/stop", responses=REFUSALS)
def stop_test(
    experiment_id: PathId, context: Context, actor: Actor, body: ReasonBody | None = None
) -> ExperimentDocument:
    """End a test as stopped; the champion stays."""
    reason = "" if body is None else body.reason
    stop = context.manager.stop_ab_test
    return ExperimentDocument.of(wait_for(stop, experiment_id, actor=actor, reason=reason))


@router.post("/{experiment_id}/extend", responses=REFUSALS)
def extend_test(
    experiment_id: PathId, body: ExtendBody, context: Context, actor: Actor
) -> ExperimentDocument:
    """Let a test last longer, which cannot be undone."""
    answer = wait_for(
        context.manager.extend_ab_test, experiment_id, body.hours, actor=actor, reason=body.reason
    )
    return ExperimentDocument.of(answer)


@router.get("", responses=list_problems("invalid-request"))
def list_tests(
    context: Context,
    service: QueryId | None = None,
    cursor: Cursor = None,
    limit: Limit = USUAL_ROWS,
) -> ExperimentList:
    """The tests of a service or of all, newest first, each with its newest look."""
    page = context.manager.ab_test_page(service, after=read_cursor(cursor), limit=limit)
    return ExperimentList(
        experiments=[ExperimentDocument.of(answer) for answer in page.rows],
        next=write_cursor(page.next),
    )


@router.get("/{experiment_id}", responses=list_problems("not-found", "invalid-request"))
def get_test(experiment_id: PathId, context: Context) -> ExperimentDocument:
    """A test with its newest look."""
    return ExperimentDocument.of(context.manager.get_ab_test(experiment_id))


@router.get("/{experiment_id}/looks", responses=list_problems("not-found", "invalid-request"))
def list_looks(experiment_id: PathId, context: Context) -> LookList:
    """Every look at a test, oldest first."""
    looks = context.manager.ab_test_looks(experiment_id)
    return LookList(experiment_id=experiment_id, looks=[LookDocument.of(look) for look in looks])


def _check_duration(context: ApiContext, hours: float) -> None:
    least = context.manager.config.ab_test_min_duration_hours
    if hours < least:
        detail = (
            f"duration_hours={hours:g} is less than AB_TEST_MIN_DURATION_HOURS={least:g}, before "
            "which no challenger goes live; ask for a longer test"
        )
        raise Problem("invalid-request", detail, entries=[("/duration_hours", detail)])
