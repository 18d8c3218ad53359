"""Runs a planned training: trials are counted, archived and logged as they finish, then judged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mlops.arrays import FloatArray
from mlops.errors import TrainingTimeout
from mlops.models import manifest
from mlops.models.base import FitContext
from mlops.registry.bundles import last_close
from mlops.registry.connection import Registry, load
from mlops.registry.tracking import RunLog
from mlops.search.study import Report, Study, StudyContext, Trial, run_refit, run_study
from mlops.search.trial_archive import TrialArchive, studies_folder
from mlops.store import count_trials, record_trials
from mlops.training.champion import fitted_until
from mlops.training.judgement import Judgement, evidence_of, judge_study, make_ranker
from mlops.training.publish import log_trial
from mlops.training.refit_policy import RefitPolicy, alpha_for_judgement, champion_of
from mlops.training.training_plan import TrainingPlan
from mlops.validation.evidence import Override, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a training may use.

    Args:
        device: Device of torch, such as `cpu`.
        deadline: In seconds of `time.monotonic`.
        fee_bps: Costs of one turnover of the whole position, in basis points.
    """

    device: str
    threads: int
    deadline: float
    fee_bps: float


def run_search(
    registry: Registry, plan: TrainingPlan, *, effort: Effort, run: RunLog, report: Report
) -> Study:
    """Try the recipes of the plan and forecast the holdout with the best of them.

    A search that was killed is resumed when the same request is made on the same bars.

    Args:
        run: The MLflow run of the training.
        report: Called with the progress.

    Raises:
        TrainingTimeout: when the deadline passes.
    """
    _log_request(plan, run)
    context = _study_context(registry, plan, effort=effort, run=run, report=report)
    if plan.policy.recipe is not None:
        return run_refit(context, plan.policy.recipe, key=plan.study_key)
    with _exclusive_folder(_studies_folder(registry, plan) / plan.study_key, effort) as folder:
        return run_study(
            context,
            plan.search,
            key=plan.study_key,
            journal=folder / "journal.log",
        )


def judge_training(
    registry: Registry,
    plan: TrainingPlan,
    study: Study,
    *,
    thresholds: Thresholds,
    fee_bps: float,
    yearly_alpha: float,
    now: datetime,
) -> Judgement:
    """Judge the winner of a study.

    Archived trials of earlier studies on the same bars are judged with it; trials that were
    counted but not archived are allowed for by their number. A refit continues the record of
    its recipe, and spends its level from the yearly budget.

    Args:
        fee_bps: Costs of one turnover of the whole position, in basis points.
        yearly_alpha: Budget of false promotions a year.
        now: Market time.
    """
    service, dataset, policy = plan.service, plan.dataset, plan.policy
    archive = TrialArchive(_studies_folder(registry, plan))
    rows = study.compared_rows
    earlier = {} if study.is_refit else archive.earlier(study.key, dataset.labels.made_at[rows])
    unkept = 0
    if not study.is_refit:
        counted = count_trials(registry.store, service.key)
        unkept = max(0, counted - len(study.trials) - len(earlier))
    # Before anything is spent: the record may not be readable.
    before = _read_continued_record(registry, policy)
    alpha = alpha_for_judgement(
        registry.store,
        service,
        policy,
        watermark=dataset.content_hash,
        testable=len(rows) >= thresholds.min_test_bars,
        yearly=yearly_alpha,
        now=now,
    )
    champion = champion_of(registry.store, service)
    override = plan.config.leak_override
    evidence = evidence_of(
        study,
        dataset,
        baseline=plan.baseline,
        fee_bps=fee_bps,
        alpha=alpha,
        causality_proven=True,  # plan_training() ends a training whose proof fails
        earlier=earlier,
        n_unkept=unkept,
        before=before,
        champion=None if champion is None else load(registry, champion.model_id).forecaster,
        champion_saw=None if champion is None else fitted_until(champion),
        leak_override=None
        if override is None
        else Override(actor=override.actor, reason=override.reason),
    )
    return judge_study(study, dataset, evidence, baseline=plan.baseline, thresholds=thresholds)


def _read_continued_record(registry: Registry, policy: RefitPolicy) -> Forecasts | None:
    """What the recipe of a refit forecast out of sample so far; None for a search."""
    if policy.continues is None:
        return None
    bundle = load(registry, policy.continues)
    return read_record(bundle.tensors(manifest.REFERENCE), bundle.service)


def _log_request(plan: TrainingPlan, run: RunLog) -> None:
    """Log request and bars to MLflow before anything can fail."""
    dataset = plan.dataset
    asked = {
        **plan.config.model_dump(mode="json"),
        "model_type": str(plan.model_type),
        "reason": plan.reason,
    }
    # The winner's own parameters are logged under their plain names when it is known.
    run.log_params({f"asked.{name}": value for name, value in asked.items()})
    run.log_dataset(
        plan.service.key,
        content_hash=dataset.content_hash,
        source="unknown" if dataset.provenance is None else dataset.provenance.label,
        rows=len(dataset),
    )


def _study_context(
    registry: Registry, plan: TrainingPlan, *, effort: Effort, run: RunLog, report: Report
) -> StudyContext:
    service, dataset, slices = plan.service, plan.dataset, plan.slices
    key, at = plan.study_key, last_close(dataset).to_pydatetime()
    archive = TrialArchive(_studies_folder(registry, plan))
    rank = make_ranker(dataset, slices, baseline=plan.baseline, fee_bps=effort.fee_bps)
    made_at = dataset.labels.made_at

    def keep(trial: Trial) -> None:
        # Counted before it is archived: a kill in between leaves a trial that is run again under
        # its number, never an uncounted one.
        numbers = range(archive.count(key) + 1)
        record_trials(registry.store, service.key, study=key, numbers=numbers, at=at)
        archive.keep(key, trial.name, made_at, trial.forecasts)
        log_trial(run, trial, rank({trial.name: trial.forecasts})[trial.name])

    def recall(name: str) -> FloatArray | None:
        return archive.recall(key, name, made_at)

    return StudyContext(
        dataset=dataset,
        slices=slices,
        fit_context=FitContext(
            seed=plan.config.seed,
            device=effort.device,
            threads=effort.threads,
            deadline=effort.deadline,
        ),
        rank=rank,
        keep=keep,
        recall=recall,
        report=report,
        allowed_classes=plan.allowed_classes,
        expected_folds=plan.search.n_trials * len(slices.development) + len(slices.holdout),
    )


@contextmanager
def _exclusive_folder(folder: Path, effort: Effort) -> Iterator[Path]:
    """Lock a study's folder: a second run of the same study waits, then recalls its trials."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "study.lock", timeout=max(0.0, effort.deadline - time.monotonic()))
    try:
        lock.acquire()
    except Timeout as error:
        raise TrainingTimeout(
            f"the same training has been running elsewhere until the deadline ({folder}); "
            "wait for it to end"
        ) from error
    try:
        yield folder
    finally:
        lock.release()


def _studies_folder(registry: Registry, plan: TrainingPlan) -> Path:
    return studies_folder(registry.home, plan.service.key)
