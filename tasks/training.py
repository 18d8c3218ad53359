"""The steps of a training as tasks: each calls the library with the project's settings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from mlops.data.acceptance import accept_bars
from mlops.data.bars import Bars
from mlops.data.findings import Findings
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import count_usable_cores
from mlops.registry.bar_files import load_chosen_bars
from mlops.registry.baseline import ensure_service
from mlops.registry.markets import choose_bars, keep_chosen_file, note_calendar, set_market_of
from mlops.registry.ownership import owner_tags
from mlops.registry.reconcile import Reconciled, reconcile
from mlops.registry.tracking import RunLog, open_run
from mlops.reports.cards import card_section, save_card
from mlops.rollout.plan import AbTestSettings, RolloutPlan
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.study import Study
from mlops.service import Service
from mlops.store import ModelVersion, Why
from mlops.store.leases import Lease
from mlops.store.triggers import Claim
from mlops.training.judgement import Judgement
from mlops.training.publish import publish
from mlops.training.retraining import Retraining, claim_retraining, market_time
from mlops.training.run import Effort, judge_training, run_search
from mlops.training.training_plan import TrainingPlan, plan_training
from mlops.validation.evidence import Thresholds
from tasks.artifacts import show_progress
from tasks.context import Project, current_installation


@task(cache_policy=NO_CACHE)
def claim(service: str, lease: Lease, now: datetime | None) -> Retraining | None:
    """Claim the triggers of a service under its training lease; None where none waits."""
    store = current_installation().store
    moment = now or market_time(store, service, datetime.now(UTC))
    return claim_retraining(store, service, str(flow_run.id), lease=lease, now=moment)


@task(cache_policy=NO_CACHE)
def repair(project: Project) -> Reconciled:
    """Finish or remove what killed registrations left half done."""
    return reconcile(project.registry)


@task(cache_policy=NO_CACHE)
def choose(project: Project, service: Service, config: TrainingConfig) -> TrainingConfig:
    """Complete the choice of bars by what the service has, so that every process reads the same."""
    clock = project.settings.file_clock
    chosen = choose_bars(project.registry.store, service, config, clock=clock)
    return config.model_copy(update=dict(chosen))


@task(cache_policy=NO_CACHE)
def load(project: Project, service: Service, config: TrainingConfig) -> Bars:
    """Load the service's validated bars that were known by ``config.end``.

    The task has no retries: the source repeats failed requests itself.
    """
    bars = load_chosen_bars(
        lambda: project.registry.store,
        service,
        config,
        cache_root=project.settings.bars_path,
        start=config.start,
        now=config.end,
        exchange_base_url=project.settings.exchange_url,
    )
    return accept_bars(bars)


@task(cache_policy=NO_CACHE)
def build_dataset(project: Project, service: Service, bars: Bars) -> Dataset:
    """Wrap the bars with labels and features."""
    return Dataset(
        bars.frame,
        timeframe=service.timeframe,
        target=TargetSpec(service.target, service.horizon),
        calendar=bars.calendar,
        cache_dir=project.settings.mlops_base_path / "features",
        provenance=bars.provenance,
        findings=Findings.of(bars),
    )


@task(cache_policy=NO_CACHE)
def begin_service(
    project: Project, service: Service, config: TrainingConfig, dataset: Dataset
) -> TrainingConfig:
    """Begin the service where it has not begun; keep the bars of its file for every process."""
    choice = note_calendar(config, dataset.calendar)
    keep_chosen_file(project.registry.store, service, choice, project.settings.bars_path)
    # In market time: the service's yearly budget accrues from here.
    begun = Why(at=_market_time(dataset), actor="train", reason="first training")
    within = [set_market_of(service, choice, begun)]
    ensure_service(project.registry, service, dataset, begun, within)
    return config.model_copy(update=dict(choice))


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
    """Decide refit policy, recipes and slices, and prove that no feature looks ahead."""
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
def search(project: Project, plan: TrainingPlan, run: RunLog) -> Study:
    """Walk every recipe forward in time and forecast the holdout with the best one."""
    with show_progress(plan.service.key) as report:
        return run_search(
            project.registry,
            plan,
            effort=Effort(
                device=project.settings.device,
                threads=count_usable_cores(),
                deadline=project.deadline,
                fee_bps=project.settings.fee_for(plan.service.symbol),
            ),
            run=run,
            report=report,
        )


@task(cache_policy=NO_CACHE)
def judge(project: Project, plan: TrainingPlan, study: Study) -> Judgement:
    """Judge the winner by the gates."""
    settings = project.settings
    return judge_training(
        project.registry,
        plan,
        study,
        thresholds=Thresholds.of(settings),
        fee_bps=settings.fee_for(plan.service.symbol),
        yearly_alpha=settings.yearly_alpha_budget,
        now=_market_time(plan.dataset),
    )


@task(cache_policy=NO_CACHE)
def register(
    project: Project,
    plan: TrainingPlan,
    *,
    study: Study,
    judgement: Judgement,
    run: RunLog,
    lease: Lease | None = None,
    answers: Claim | None = None,
    rollout: RolloutPlan | None = None,
    test: AbTestSettings | None = None,
) -> ModelVersion:
    """Register the winner; the commit answers the triggers and writes the wish to go live."""
    why = Why(at=datetime.now(UTC), actor="train", reason=plan.reason)
    return publish(
        project.registry,
        plan,
        study,
        judgement,
        run,
        why=why,
        lease=lease,
        answers=answers,
        rollout=rollout,
        test=None if rollout is None or test is None else test.model_dump(mode="json"),
    )


@task(cache_policy=NO_CACHE)
def draw_card(
    project: Project,
    plan: TrainingPlan,
    *,
    study: Study,
    judgement: Judgement,
    version: ModelVersion,
    run: RunLog,
) -> Path:
    """Draw the version's model card; keep it with the MLflow run and in the reports folder."""
    section = card_section(plan, study, judgement, version)
    path = save_card(section, project.settings.reports_path, version.model_id)
    run.log_artifact(path)
    return path


def training_run(
    project: Project,
    service: Service,
    model_type: ModelType,
    config: TrainingConfig,
    lease: Lease,
) -> AbstractContextManager[RunLog]:
    """The MLflow run of one training; it ends failed where the training does.

    Args:
        lease: The service's training lease: `repair` ends the run once nobody holds it.
    """
    return open_run(
        project.registry.tracking,
        f"train {model_type} {service.symbol}",
        tags={"service": service.key, "config": config.model_dump_json()},
        owner=owner_tags(project.registry.store, lease),
    )


def _market_time(dataset: Dataset) -> datetime:
    """The close of the last bar; a replayed year is budgeted by it."""
    close: datetime = (dataset.frame.index[-1] + dataset.step).to_pydatetime()
    return close
