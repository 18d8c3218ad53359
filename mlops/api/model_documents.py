"""Versions as answers: pages of them, their explanation, their lineage, their live figures."""

from __future__ import annotations

from typing import Any

from mlops.api.documents import Document, Id, Json, Utc
from mlops.api.paging import write_cursor
from mlops.data.finding_texts import describe_findings
from mlops.monitoring.performance.live import LivePerformance
from mlops.registry import Explanation
from mlops.registry.version_history import Lineage
from mlops.store import LivePeriod, ModelVersion, Phase, Rollout, Status
from mlops.store.pages import Page
from mlops.store.version_pages import VersionSummary


class ModelSummary(Document):
    """What a list shows of a version; ``metrics`` are claims where ``claims_only`` is true."""

    model_id: Id
    service: Id
    model_type: str
    symbol: str
    status: Status
    version: int
    metrics: Json
    claims_only: bool
    trained_until: Utc | None
    created_at: Utc

    @classmethod
    def of(cls, row: VersionSummary) -> ModelSummary:
        return cls(**_list_summary(row))


class ModelDocument(ModelSummary):
    """A version, with what its gates said and what its caller noted."""

    report: Json | None
    notes: Json

    @classmethod
    def of_version(cls, row: ModelVersion) -> ModelDocument:
        report = None if row.report is None else dict(row.report)
        return cls(**_list_summary(row), report=report, notes=dict(row.notes))


def _list_summary(row: VersionSummary | ModelVersion) -> dict[str, Any]:
    """The fields of a list."""
    same = ("service", "model_id", "model_type", "symbol", "status", "claims_only")
    return {
        **{name: getattr(row, name) for name in (*same, "trained_until", "created_at")},
        "version": row.mlflow_version,
        "metrics": dict(row.metrics),
    }


class ModelPage(Document):
    """Versions, newest first; ``next`` is the cursor of the next page."""

    models: list[ModelSummary]
    next: str | None

    @classmethod
    def of(cls, page: Page[VersionSummary]) -> ModelPage:
        return cls(models=[ModelSummary.of(row) for row in page.rows], next=write_cursor(page.next))


class HistoryEntry(Document):
    """One change: who did what, and why."""

    at: Utc
    actor: str
    action: str
    reason: str


class ExplanationDocument(Document):
    """Why a version has its status.

    ``reasons`` has a sentence for each gate that decided, ``findings`` for what was found of the
    bars it was trained on, ``tests`` for each A/B test it took part in.
    """

    model_id: Id
    service: Id
    status: Status
    verdict: str
    reasons: list[str]
    report: Json | None
    findings: list[str]
    tests: list[str]
    watermark: str
    trained_until: Utc | None
    code_version: str
    digest: str
    history: list[HistoryEntry]

    @classmethod
    def of(cls, explanation: Explanation) -> ExplanationDocument:
        version, findings = explanation.version, explanation.findings
        return cls(
            model_id=version.model_id,
            service=version.service,
            status=version.status,
            verdict=explanation.verdict,
            reasons=list(explanation.reasons),
            report=None if version.report is None else dict(version.report),
            findings=[] if findings is None else [f.text for f in describe_findings(findings)],
            tests=list(explanation.tests),
            watermark=version.watermark,
            trained_until=version.trained_until,
            code_version=version.code_version,
            digest=version.digest,
            history=[HistoryEntry(**_take(HistoryEntry, row)) for row in explanation.history],
        )


class LineageLook(Document):
    """A look of the monitor that raised a trigger."""

    id: Id
    at: Utc
    bar: Utc
    recommendation: str


class LineageTrigger(Document):
    """A reason to retrain that the version answers."""

    id: Id
    cause: str
    text: str
    raised_at: Utc


class LineageRollout(Document):
    """The newest rollout of the version."""

    rollout_id: Id
    deployment_strategy: str
    status: Phase
    reason: str

    @classmethod
    def of(cls, row: Rollout) -> LineageRollout:
        return cls(
            rollout_id=row.id,
            deployment_strategy=row.strategy,
            status=row.phase,
            reason=row.reason,
        )


class LivePeriodDocument(Document):
    """What was live from ``at`` until the next period, and the change that began it."""

    generation: int
    at: Utc
    champion: Id
    previous_champion: Id | None
    challenger: Id | None
    challenger_share: float
    action: str
    actor: str
    reason: str

    @classmethod
    def of(cls, period: LivePeriod) -> LivePeriodDocument:
        own = _take(cls, period, but=("challenger_share",))
        return cls(**own, challenger_share=period.weight_bp / 10_000)


class LineageDocument(Document):
    """The rows that led to a version and followed from it.

    ``flow_run`` is the Prefect run that claimed the triggers; null where a person or a schedule
    asked for the training. ``live`` is what the rollout made live, null where it was not promoted.
    """

    model_id: Id
    status: Status
    looks: list[LineageLook]
    triggers: list[LineageTrigger]
    flow_run: str | None
    rollout: LineageRollout | None
    live: LivePeriodDocument | None

    @classmethod
    def of(cls, lineage: Lineage) -> LineageDocument:
        return cls(
            model_id=lineage.version.model_id,
            status=lineage.version.status,
            looks=[LineageLook(**_take(LineageLook, row)) for row in lineage.looks],
            triggers=[LineageTrigger(**_take(LineageTrigger, row)) for row in lineage.triggers],
            flow_run=lineage.flow_run,
            rollout=None if lineage.rollout is None else LineageRollout.of(lineage.rollout),
            live=None
            if lineage.live_period is None
            else LivePeriodDocument.of(lineage.live_period),
        )


class MeasureDocument(Document):
    """One figure of a window; ``low`` and ``high`` bound it.

    ``baseline`` is that of the service's baseline on the same bars or hours, ``at_promotion`` the
    figure with which the version was promoted.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    at_promotion: float | None


class PerformanceDocument(Document):
    """The figures of a version on one window of bars, whose first and last are named.

    ``n`` counts the forecasts whose outcome and baseline are known. ``degradation`` judges whether
    the skill of its promotion is lost; null where it has no reference.
    """

    model_id: Id
    service: Id
    target: str
    horizon: int
    window_hours: float
    since: Utc
    until: Utc
    n: int
    measures: list[MeasureDocument]
    system: list[MeasureDocument]
    data_quality: list[MeasureDocument]
    completeness: Json
    degradation: Json | None

    @classmethod
    def of(cls, performance: LivePerformance) -> PerformanceDocument:
        legal = performance.to_dict()
        figures = {
            name: [
                MeasureDocument(**_take(MeasureDocument, row)) for row in getattr(performance, name)
            ]
            for name in ("measures", "system", "data_quality")
        }
        plain = {name: legal[name] for name in cls.model_fields if name not in figures}
        return cls(**plain, **figures)


def _take(document: type[Document], row: object, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The attributes of a row that a document has."""
    return {name: getattr(row, name) for name in document.model_fields if name not in but}
