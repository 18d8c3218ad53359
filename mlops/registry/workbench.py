"""Carries out a training: trials are archived and logged as they finish, counted, and judged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops.models.base import FitContext
from mlops.registry.assignment import Assignment
from mlops.registry.connection import Registry, load
from mlops.registry.judgement import Judgement, Terms, judge_study, ranker
from mlops.registry.mandate import alpha_of, champion_of
from mlops.registry.publication import log_trial
from mlops.registry.tracking import RunLog
from mlops.store import count_trials, record_trials
from mlops.training.study import Bench, Report, Study, Trial, run_refit, run_study
from mlops.training.trials import TrialArchive
from mlops.validation.evidence import Thresholds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a training may use: device, threads, time (a `time.monotonic` second), costs."""

    device: str
    threads: int
    deadline: float
    fee_bps: float


def conduct(
    registry: Registry, assignment: Assignment, *, effort: Effort, run: RunLog, report: Report
) -> Study:
    """Try what is assigned and carry the best through the holdout.

    A killed search goes on where it stopped when the same request meets the same bars.

    Raises:
        TrainingTimeout: when the deadline passes.
    """
    bench = _bench(registry, assignment, effort=effort, run=run, report=report)
    if assignment.mandate.recipe is not None:
        return run_refit(bench, assignment.mandate.recipe, key=assignment.study_key)
    journal = _home(registry, assignment) / assignment.study_key / "journal.log"
    return run_study(bench, assignment.agenda, key=assignment.study_key, journal=journal)


def assess(
    registry: Registry,
    assignment: Assignment,
    study: Study,
    *,
    thresholds: Thresholds,
    fee_bps: float,
    yearly_alpha: float,
    now: datetime,
) -> Judgement:
    """Count the study's trials and judge its winner.

    Trials of earlier studies on the same bars are judged with it; the others are allowed for
    by their number.
    """
    service, dataset = assignment.service, assignment.dataset
    archive = TrialArchive(_home(registry, assignment))
    rows = study.compared_rows
    earlier = {} if study.is_refit else archive.earlier(study.key, dataset.labels.made_at[rows])
    unkept = 0
    if not study.is_refit:
        record_trials(
            registry.store, service.key, study=study.key, numbers=range(len(study.trials)), at=now
        )
        counted = count_trials(registry.store, service.key)
        unkept = max(0, counted - len(study.trials) - len(earlier))
    alpha = alpha_of(
        registry,
        service,
        assignment.mandate,
        watermark=dataset.content_hash,
        testable=len(rows) >= thresholds.min_test_bars,
        yearly=yearly_alpha,
        now=now,
    )
    champion = champion_of(registry, service)
    return judge_study(
        study,
        dataset,
        baseline=assignment.baseline,
        terms=Terms(fee_bps=fee_bps, thresholds=thresholds, alpha=alpha, n_unkept=unkept),
        causality_proven=True,  # assign() ends a training whose proof fails
        earlier=earlier,
        champion=None if champion is None else load(registry, champion.model_id).forecaster,
    )


def _bench(
    registry: Registry, assignment: Assignment, *, effort: Effort, run: RunLog, report: Report
) -> Bench:
    dataset, slices, key = assignment.dataset, assignment.slices, assignment.study_key
    archive = TrialArchive(_home(registry, assignment))
    rank = ranker(dataset, slices, baseline=assignment.baseline, fee_bps=effort.fee_bps)
    made_at = dataset.labels.made_at

    def keep(trial: Trial) -> None:
        archive.keep(key, trial.name, made_at, trial.forecasts)
        log_trial(run, trial, rank({trial.name: trial.forecasts})[trial.name])

    def recall(name: str) -> Floats | None:
        return archive.recall(key, name, made_at)

    recipes = assignment.agenda.recipes.values()
    return Bench(
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
        allowed_classes=frozenset().union(*(registry.trust.classes(r.to_dict()) for r in recipes)),
        expected_folds=assignment.agenda.n_trials * len(slices.development) + len(slices.holdout),
    )


def _home(registry: Registry, assignment: Assignment) -> Path:
    return registry.home / "studies" / assignment.service.key
