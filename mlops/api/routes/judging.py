"""Versions from elsewhere, put before the gates."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import Response

from mlops.api.children import Work
from mlops.api.context import Actor, ApiContext, Context
from mlops.api.documents import Body, Document, Id, Moment, PathId, Reason, Utc
from mlops.api.operations import (
    ANSWER_WITHIN_S,
    OperationDocument,
    answer_operation,
    prefers_async,
)
from mlops.api.problems import list_problems
from mlops.api.routes.uploads import Prefer
from mlops.api.strict_requests import StrictRoute
from mlops.errors import RegistryError
from mlops.manager import MLOpsManager
from mlops.settings import Settings
from mlops.store import ModelVersion, Status
from mlops.store.judgements import EvidenceKind, JudgementBasis, needs_person
from mlops.store.operations import Operation
from mlops.validation.report import GateReport

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)

KIND = "judge"


class JudgeBody(Body):
    """Until when a version was trained, by its caller's word.

    Without a time its forecasts on record here are judged, such as those of a shadow.
    """

    trained_until: Moment | None = None
    reason: Reason = ""


class JudgedBars(Document):
    """The bars whose forecasts were judged.

    ``recorded`` of the ``count`` forecasts are on record here; ``digest`` is a hash of the bars.
    """

    count: int
    recorded: int
    since: Utc
    until: Utc
    origin: str
    digest: str


class GateDocument(Document):
    """What one gate said; ``value`` and ``asked`` are null where there is no number."""

    name: str
    title: str
    passed: bool
    severity: Literal["hard", "advisory"]
    value: float | None
    asked: float | None
    reason: str


class JudgedDocument(Document):
    """A version from elsewhere with its verdict.

    ``evidence`` is ``word`` where only the caller says that the judged bars were not trained on,
    and ``record`` where the forecasts were made here. With ``needs_person`` the version never goes
    live by itself. ``alpha`` is the level of gate G2 at the ``place`` of this judgement among all
    studies of the service; ``compared`` versions and trials forecast the same bars.
    """

    model_id: Id
    service: Id
    status: Status
    passed: bool
    evidence: EvidenceKind
    trained_until: Utc | None
    needs_person: bool
    bars: JudgedBars
    alpha: float
    place: int
    compared: int
    gates: list[GateDocument]

    @classmethod
    def of(cls, row: ModelVersion) -> JudgedDocument:
        """The document of a version that was judged.

        Raises:
            RegistryError: when it was not.
        """
        basis = JudgementBasis.of(row)
        if basis is None or row.report is None:
            raise RegistryError(f"{row.model_id} has no verdict; judge it first")
        report = GateReport.from_dict(row.report)
        return cls(
            model_id=row.model_id,
            service=row.service,
            status=row.status,
            passed=report.passed,
            evidence=basis.kind,
            trained_until=basis.trained_until,
            needs_person=needs_person(row),
            bars=JudgedBars(
                count=basis.bars,
                recorded=basis.recorded,
                since=basis.since,
                until=basis.until,
                origin=basis.origin,
                digest=basis.bars_digest,
            ),
            alpha=report.alpha,
            place=basis.place,
            compared=basis.compared,
            gates=_list_gates(report),
        )


@router.post(
    "/{model_id}/judge",
    response_model=JudgedDocument,
    responses={
        202: {"model": OperationDocument, "description": "It is being judged"},
        **list_problems("not-found", "malformed-request", "invalid-request", "not-available"),
    },
)
async def judge_model(
    model_id: PathId, body: JudgeBody, context: Context, actor: Actor, prefer: Prefer = None
) -> Response:
    """Put a version from elsewhere before the gates, on bars of its service's own source.

    Each judgement of other forecasts counts as one more trial of the service.
    """
    await to_thread.run_sync(context.manager.get_model, model_id)
    until = None if body.trained_until is None else body.trained_until.isoformat()
    with context.children.reserve(Work.COMPUTATION) as place:
        work = context.children.start(
            place,
            judge_in_child,
            context.manager.config,
            model_id,
            until,
            actor,
            body.reason,
        )
    answer = await context.operations.await_work(
        work,
        KIND,
        partial(_describe_judged, context),
        actor=actor,
        within_s=0.0 if prefers_async(prefer) else ANSWER_WITHIN_S,
    )
    if isinstance(answer, Operation):
        return answer_operation(answer)
    return Response(answer.model_dump_json(), media_type="application/json")


def judge_in_child(
    settings: Settings, model_id: str, trained_until: str | None, actor: str, reason: str
) -> dict[str, str]:
    """Judge a version; a child does it, which answers with the id of the version."""
    manager = MLOpsManager(settings)
    judged = manager.judge_model(model_id, trained_until, actor=actor, reason=reason)
    return {"model_id": asyncio.run(judged).model_id}


def _describe_judged(context: ApiContext, value: Any) -> JudgedDocument:
    return JudgedDocument.of(context.manager.get_model(value["model_id"]))


def _list_gates(report: GateReport) -> list[GateDocument]:
    """Every result; numbers that are not finite are left to the response, which writes null."""
    return [
        GateDocument(
            name=result.name,
            title=result.title,
            passed=result.passed,
            severity=result.severity,
            value=result.value,
            asked=result.threshold,
            reason=result.reason,
        )
        for result in report.results
    ]
