"""The dashboard and the overview that a page polls, as answers."""

from __future__ import annotations

from mlops.api.documents import Document, Id, Utc
from mlops.api.experiment_documents import ExperimentDocument
from mlops.api.model_documents import ModelSummary
from mlops.api.paging import write_name_cursor
from mlops.api.record_documents import AlertDocument, TriggerDocument
from mlops.monitoring.dashboard import Dashboard
from mlops.monitoring.overview import (
    Overview,
    RolloutOverview,
    ServiceOverview,
    VersionOverview,
)
from mlops.settings import FileClock
from mlops.store import Phase


class DashboardSummary(Document):
    """How many there are now; a service is training while a training of it runs."""

    total_models: int
    deployed_models: int
    training_models: int
    active_experiments: int


class DashboardMetrics(Document):
    """Averages over the deployed versions; null where nothing can be averaged.

    ``average_mse`` is relative: MSE / variance of the outcomes on the same bars, so that 1 is no
    better than a constant and 0.08 is an R2 of 0.92. Both averages are over the newest 168 known
    outcomes of each service, at most 30 days (or MONITORING_WINDOW_HOURS) old; services with fewer
    than 24 are left out. ``deployment_success_rate`` is of the rollouts that ended in 30 days.
    """

    average_mse: float | None
    average_accuracy: float | None
    deployment_success_rate: float | None


class DashboardAlert(Document):
    """A champion or watched version whose newest deciding look recommends something."""

    model_id: Id
    drift_score: float | None
    recommendation: str


class DashboardDocument(Document):
    """The platform's dashboard."""

    summary: DashboardSummary
    performance_metrics: DashboardMetrics
    drift_alerts: list[DashboardAlert]

    @classmethod
    def of(cls, dashboard: Dashboard) -> DashboardDocument:
        return cls.model_validate(dashboard)


class LiveCounts(Document):
    """How many there are now."""

    services: int
    models: int
    training: int
    tests: int
    lasting_alerts: int


class LiveForecast(Document):
    """The newest forecast of record."""

    bar: Utc
    model_id: Id
    value: float
    low: float | None
    high: float | None
    made_at: Utc


class LiveCheck(Document):
    """The newest look at the champion."""

    bar: Utc
    recommendation: str
    official: bool


class LiveSkillDocument(Document):
    """Share of the baseline's loss that the champion removed in its newest decision window."""

    value: float | None
    low: float | None
    high: float | None
    bar: Utc


class LiveService(Document):
    """One service, as a list shows it.

    ``champion_since`` is the wall clock's, all times of bars are the market's; ``clock`` says
    whether these are the same (``wall``) or the bars are replayed. ``fresh_until`` is until when
    the newest forecast counts as fresh; null where the market keeps a time of its own.
    """

    service: Id
    symbol: str
    timeframe: str
    target: str
    horizon: int
    generation: int
    champion: Id
    champion_since: Utc | None
    is_baseline: bool
    previous_champion: Id | None
    challenger: Id | None
    challenger_share: float
    mirrored_share: float
    clock: FileClock
    forecast: LiveForecast | None
    fresh_until: Utc | None
    check: LiveCheck | None
    skill: LiveSkillDocument | None

    @classmethod
    def of(cls, row: ServiceOverview) -> LiveService:
        own = {name: getattr(row, name) for name in cls.model_fields}
        newest, look = row.forecast, row.check
        return cls(
            **own
            | {
                "forecast": newest
                and LiveForecast(
                    **{name: getattr(newest, name) for name in LiveForecast.model_fields}
                ),
                "check": look
                and LiveCheck(
                    bar=look.bar, recommendation=look.recommendation, official=look.official
                ),
            }
        )


class LiveRollout(Document):
    """A rollout under way; ``step`` counts the entries of ``shares`` from 0."""

    rollout_id: Id
    service: Id
    strategy: str
    model_id: Id
    from_model_id: Id
    phase: Phase
    step: int
    shares: list[float]
    since: Utc
    deadline: Utc
    reason: str
    requested_by: str
    evidence: str

    @classmethod
    def of(cls, row: RolloutOverview) -> LiveRollout:
        own = {name: getattr(row, name) for name in cls.model_fields}
        return cls(**own | {"phase": Phase(row.phase), "shares": list(row.shares)})


class LiveVersion(Document):
    """A version, with a sentence for each gate that refused it."""

    model: ModelSummary
    refused_by: list[str]

    @classmethod
    def of(cls, row: VersionOverview) -> LiveVersion:
        return cls(model=ModelSummary.of(row.version), refused_by=list(row.refused_by))


class OverviewDocument(Document):
    """What an installation is doing; ``at`` is when it was read, by the store's clock.

    ``next`` is the cursor of the next 50 services. ``alerts`` begins with those that last.
    """

    at: Utc
    counts: LiveCounts
    services: list[LiveService]
    next: str | None
    rollouts: list[LiveRollout]
    tests: list[ExperimentDocument]
    alerts: list[AlertDocument]
    triggers: list[TriggerDocument]
    versions: list[LiveVersion]

    @classmethod
    def of(cls, overview: Overview) -> OverviewDocument:
        counts = overview.counts
        return cls(
            at=overview.at,
            counts=LiveCounts(
                services=overview.services_in_use,
                models=counts.versions,
                training=counts.training,
                tests=counts.running_tests,
                lasting_alerts=overview.lasting_alerts,
            ),
            services=[LiveService.of(row) for row in overview.services],
            next=write_name_cursor(overview.services_after),
            rollouts=[LiveRollout.of(row) for row in overview.rollouts],
            tests=[ExperimentDocument.of(answer) for answer in overview.tests],
            alerts=[AlertDocument.of(row) for row in overview.alerts],
            triggers=[TriggerDocument.of(row) for row in overview.triggers],
            versions=[LiveVersion.of(row) for row in overview.versions],
        )
