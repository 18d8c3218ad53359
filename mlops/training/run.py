"""Carries out a training: trials are archived and logged as they finish, counted, and judged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from mlops.errors import TrainingTimeout
from mlops.models import manifest
from mlops.models.base import FitContext
from mlops.models.bundle import read_tensors
from mlops.registry.bundles import last_close
from mlops.registry.connection import Registry, load
from mlops.registry.tracking import RunLog
from mlops.search.config import TrainingConfig
from mlops.search.study import Report, Study, StudyContext, Trial, run_refit, run_study
from mlops.search.trial_archive import TrialArchive
from mlops.store import ModelVersion, count_trials, record_trials
from mlops.training.judgement import Judgement, evidence_of, judge_study, make_ranker
from mlops.training.publish import log_trial
from mlops.training.refit_policy import RefitPolicy, alpha_for_judgement, champion_of
from mlops.training.training_plan import TrainingPlan, naive_utc
from mlops.validation.evidence import Override, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import read_record

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a training may use: device, threads, time (a `time.monotonic` second), costs."""

    device: str
    threads: int
    deadline: float
    fee_bps: float


def run_search(
    registry: Registry, assignment: TrainingPlan, *, effort: Effort, run: RunLog, report: Report
) -> Study:
    """Try what is assigned and carry the best through the holdout.

    A killed search goes on where it stopped when the same request meets the same bars.

    Raises:
        TrainingTimeout: when the deadline passes.
    """
    _describe(assignment, run)
    bench = _bench(registry, assignment, effort=effort, run=run, report=report)
    if assignment.mandate.recipe is not None:
        return run_refit(bench, assignment.mandate.recipe, key=assignment.study_key)
    with _alone(_home(registry, assignment) / assignment.study_key, effort) as folder:
        return run_study(
            bench,
            assignment.agenda,
            key=assignment.study_key,
            journal=folder / "journal.log",
        )


def judge_training(
    registry: Registry,
    assignment: TrainingPlan,
    study: Study,
    *,
    thresholds: Thresholds,
    fee_bps: float,
    yearly_alpha: float,
    now: datetime,
) -> Judgement:
    """Judge the winner of a study.

    Trials of earlier studies on the same bars are judged with it; the others are allowed for
    by their number. A refit continues the record of its recipe.
    """
    service, dataset = assignment.service, assignment.dataset
    archive = TrialArchive(_home(registry, assignment))
    rows = study.compared_rows
    earlier = {} if study.is_refit else archive.earlier(study.key, dataset.labels.made_at[rows])
    unkept = 0
    if not study.is_refit:
        counted = count_trials(registry.store, service.key)
        unkept = max(0, counted - len(study.trials) - len(earlier))
    alpha = alpha_for_judgement(
        registry.store,
        service,
        assignment.mandate,
        watermark=dataset.content_hash,
        testable=len(rows) >= thresholds.min_test_bars,
        yearly=yearly_alpha,
        now=now,
    )
    champion = champion_of(registry.store, service)
    evidence = evidence_of(
        study,
        dataset,
        baseline=assignment.baseline,
        fee_bps=fee_bps,
        alpha=alpha,
        causality_proven=True,  # plan_training() ends a training whose proof fails
        earlier=earlier,
        n_unkept=unkept,
        before=_record_before(registry, assignment.mandate),
        champion=None if champion is None else load(registry, champion.model_id).forecaster,
        champion_saw=None if champion is None else _fitted_until(champion),
        leak_override=_override(assignment.config),
    )
    return judge_study(
        study, dataset, evidence, baseline=assignment.baseline, thresholds=thresholds
    )


def _record_before(registry: Registry, mandate: RefitPolicy) -> Forecasts | None:
    """What the recipe of a refit forecast out of sample so far."""
    if mandate.continues is None:
        return None
    bundle = load(registry, mandate.continues)
    return read_record(read_tensors(bundle.path / manifest.REFERENCE), bundle.service)


def _override(config: TrainingConfig) -> Override | None:
    given = config.leak_override
    return None if given is None else Override(actor=given.actor, reason=given.reason)


def _fitted_until(version: ModelVersion) -> np.datetime64 | None:
    """When the last label it was fitted on was known; None for a model from elsewhere."""
    noted = version.notes.get("fitted_until")
    until = version.trained_until if noted is None else datetime.fromisoformat(noted)
    return None if until is None else naive_utc(until)


def _describe(assignment: TrainingPlan, run: RunLog) -> None:
    """What was asked and on which bars, in MLflow's words, before anything can fail."""
    dataset = assignment.dataset
    asked = {
        **assignment.config.model_dump(mode="json"),
        "model_type": str(assignment.model_type),
        "reason": assignment.reason,
    }
    # The winner's own parameters are logged under their plain names when it is known.
    run.params({f"asked.{name}": value for name, value in asked.items()})
    run.dataset(
        assignment.service.key,
        content_hash=dataset.content_hash,
        source="unknown" if dataset.provenance is None else dataset.provenance.label,
        rows=len(dataset),
    )


def _bench(
    registry: Registry, assignment: TrainingPlan, *, effort: Effort, run: RunLog, report: Report
) -> StudyContext:
    service, dataset, slices = assignment.service, assignment.dataset, assignment.slices
    key, at = assignment.study_key, last_close(dataset).to_pydatetime()
    archive = TrialArchive(_home(registry, assignment))
    rank = make_ranker(dataset, slices, baseline=assignment.baseline, fee_bps=effort.fee_bps)
    made_at = dataset.labels.made_at

    def keep(trial: Trial) -> None:
        # Counted before it is kept: a kill in between leaves a trial that is done again under
        # its number, never one that goes uncounted.
        numbers = range(archive.count(key) + 1)
        record_trials(registry.store, service.key, study=key, numbers=numbers, at=at)
        archive.keep(key, trial.name, made_at, trial.forecasts)
        log_trial(run, trial, rank({trial.name: trial.forecasts})[trial.name])

    def recall(name: str) -> Floats | None:
        return archive.recall(key, name, made_at)

    return StudyContext(
        dataset=dataset,
        slices=slices,
        context=FitContext(
            seed=assignment.config.seed,
            device=effort.device,
            threads=effort.threads,
            deadline=effort.deadline,
        ),
        rank=rank,
        keep=keep,
        recall=recall,
        report=report,
        allowed_classes=assignment.allowed_classes,
        expected_folds=assignment.agenda.n_trials * len(slices.development) + len(slices.holdout),
    )


@contextmanager
def _alone(folder: Path, effort: Effort) -> Iterator[Path]:
    """Hold a study's folder: whoever asks for the same study meanwhile waits, then recalls it."""
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


def _home(registry: Registry, assignment: TrainingPlan) -> Path:
    return registry.home / "studies" / assignment.service.key
