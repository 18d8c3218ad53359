"""The steps of a training: each is one library call with the project's settings put in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from mlops.data.bars import Bars
from mlops.data.calendar import calendar_for
from mlops.data.load import load_bars, open_source
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.registry.baseline import ensure_service
from mlops.registry.reconcile import Reconciled, reconcile
from mlops.registry.tracking import RunLog, open_run
from mlops.reports.cards import card_section, save_card
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.study import Study
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import ModelVersion, Why
from mlops.store.leases import HeldLease
from mlops.store.triggers import Claim
from mlops.training.publish import Request, publish
from mlops.training.retraining import Retraining, claim_retraining, market_time
from mlops.training.run import Effort, judge_training, run_search
from mlops.training.training_plan import TrainingPlan, plan_training
from mlops.training.verdict import Judgement
from mlops.validation.evidence import Thresholds
from tasks.artifacts import show_progress
from tasks.context import Project, available_threads, current_installation


@task(cache_policy=NO_CACHE)
def claim(service: str) -> Retraining | None:
    """Take what asks for a retraining of a service, so that no other run does."""
    store = current_installation().store
    now = market_time(store, service, datetime.now(UTC))
    return claim_retraining(store, service, str(flow_run.id), now=now)


@task(cache_policy=NO_CACHE)
def repair(project: Project) -> Reconciled:
    """Finish or clear what killed trainings left half done."""
    return reconcile(project.registry)


@task(cache_policy=NO_CACHE)
def load(project: Project, service: Service, config: TrainingConfig) -> Bars:
    """Load the service's validated bars that were known by ``config.end``.

    The source itself is patient with the network, and what it refuses no retry mends.
    """
    path = config.bars_file
    return load_bars(
        service,
        cache_root=project.settings.bars_path,
        start=config.start,
        now=config.end,
        source=None if path is None else open_source("file", path=path),
        exchange_base_url=project.settings.exchange_base_url or None,
    )


@task(cache_policy=NO_CACHE)
def build_dataset(project: Project, service: Service, bars: Bars) -> Dataset:
    """Wrap the bars with labels and features, and begin the service where it has not begun."""
    dataset = Dataset(
        bars.frame,
        timeframe=service.timeframe,
        target=TargetSpec(service.target, service.horizon),
        calendar=calendar_for(service.venue, service.symbol),
        cache_dir=project.settings.mlops_base_path / "features",
        provenance=bars.provenance,
    )
    # In market time, for the service's yearly budget accrues from here.
    begun = Why(at=_market_time(dataset), actor="train", reason="first training")
    ensure_service(project.registry, service, dataset, begun)
    return dataset


@task(cache_policy=NO_CACHE)
def plan(
    project: Project,
    service: Service,
    dataset: Dataset,
    *,
    model_type: ModelType,
    config: TrainingConfig,
    reason: str,
) -> TrainingPlan:
    """Decide slices, recipes and mandate, and prove that no feature looks ahead."""
    return plan_training(
        project.registry,
        service,
        dataset,
        model_type=model_type,
        config=config,
        reason=reason,
        min_bars=project.settings.min_training_data_points,
    )


@task(cache_policy=NO_CACHE)
def search(project: Project, assignment: TrainingPlan, run: RunLog) -> Study:
    """Try every recipe forward in time and carry the best through the holdout."""
    with show_progress(assignment.service.key) as report:
        return run_search(
            project.registry,
            assignment,
            effort=Effort(
                device=project.settings.device,
                threads=available_threads(),
                deadline=project.deadline,
                fee_bps=project.settings.fee_for(assignment.service.symbol),
            ),
            run=run,
            report=report,
        )


@task(cache_policy=NO_CACHE)
def judge(project: Project, assignment: TrainingPlan, study: Study) -> Judgement:
    """Put the winner before the gates."""
    settings = project.settings
    return judge_training(
        project.registry,
        assignment,
        study,
        thresholds=_thresholds(settings),
        fee_bps=settings.fee_for(assignment.service.symbol),
        yearly_alpha=settings.yearly_alpha_budget,
        now=_market_time(assignment.dataset),
    )


@task(cache_policy=NO_CACHE)
def register(
    project: Project,
    assignment: TrainingPlan,
    *,
    study: Study,
    judgement: Judgement,
    run: RunLog,
    turn: HeldLease | None = None,
    answers: Claim | None = None,
) -> ModelVersion:
    """Register the winner, as challenger or as refused; that answers what asked for it."""
    return publish(
        project.registry,
        assignment.service,
        assignment.dataset,
        study=study,
        judgement=judgement,
        proof=assignment.proof,
        request=_request(assignment, turn, answers),
        run=run,
        why=_why(assignment.reason),
    )


@task(cache_policy=NO_CACHE)
def draw_card(
    project: Project,
    assignment: TrainingPlan,
    *,
    study: Study,
    judgement: Judgement,
    version: ModelVersion,
    run: RunLog,
) -> Path:
    """Draw the version's model card; it is kept with the run and under the reports."""
    section = card_section(assignment, study, judgement, version)
    path = save_card(section, project.settings.reports_path, version.model_id)
    run.artifact(path)
    return path


def training_run(
    project: Project, service: Service, model_type: ModelType, config: TrainingConfig
) -> AbstractContextManager[RunLog]:
    """The MLflow run of one training; it ends failed where the training does."""
    return open_run(
        project.registry.tracking,
        f"train {model_type} {service.symbol}",
        tags={"service": service.key, "config": config.model_dump_json()},
    )


def _thresholds(settings: Settings) -> Thresholds:
    return Thresholds(
        min_model_accuracy=settings.min_model_accuracy,
        max_model_mse=settings.max_model_mse,
        min_r2_score=settings.min_r2_score,
        mode=settings.validation_threshold_mode,
        max_drawdown=settings.max_drawdown_limit,
    )


def _request(assignment: TrainingPlan, turn: HeldLease | None, answers: Claim | None) -> Request:
    return Request(
        model_type=str(assignment.model_type),
        config=assignment.config.model_dump(mode="json"),
        digest=assignment.request,
        reason=assignment.reason,
        turn=turn,
        answers=answers,
    )


def _why(reason: str) -> Why:
    return Why(at=datetime.now(UTC), actor="train", reason=reason)


def _market_time(dataset: Dataset) -> datetime:
    """The close of the last bar: the time a verdict counts from, in rehearsals too."""
    close: datetime = (dataset.frame.index[-1] + dataset.step).to_pydatetime()
    return close
