"""Judges a study: puts together the evidence that the gates ask for, and measures the winner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mlops.arrays import FloatArray, RowArray
from mlops.data.splits import Fold
from mlops.features.dataset import Dataset
from mlops.models.base import BASELINES, FitContext, Forecaster, default_recipe
from mlops.models.recipe import Recipe
from mlops.search.slices import Slices
from mlops.search.study import Study
from mlops.search.walk_forward import run_walk_forward
from mlops.service import Target
from mlops.training.champion import forecast_unseen
from mlops.validation.evaluation import Evaluation
from mlops.validation.evidence import Evidence, Integrity, Override, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.gates import judge, rank_trials
from mlops.validation.records import bars_per_year, cut_record, evaluate_record
from mlops.validation.report import GateReport

NAIVE: Mapping[Target, tuple[str, ...]] = {
    Target.VOLATILITY: ("persistence", "ewma", "seasonal"),
    Target.RETURN: ("zero",),
    Target.PRICE: ("last_price",),
    Target.DIRECTION: ("base_rate",),
}
"""By target, the naive model types that a model card compares a model with."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judgement:
    """The gates' report on one candidate, and the records it rests on.

    Args:
        record: What the bundle keeps: the holdout; for a refit, all earlier forecasts of its
            recipe too.
        baselines: By model type all naive forecasts of the target on the holdout rows, the
            declared baseline first.
    """

    report: GateReport
    walk_forward: Forecasts
    holdout: Forecasts
    record: Forecasts
    walk_forward_evaluation: Evaluation
    evaluation: Evaluation
    baselines: Mapping[str, Forecasts]


def evidence_of(
    study: Study,
    dataset: Dataset,
    *,
    baseline: Recipe,
    fee_bps: float,
    alpha: float,
    causality_proven: bool,
    earlier: Mapping[str, FloatArray] | None = None,
    n_unkept: int = 0,
    before: Forecasts | None = None,
    champion: Forecaster | None = None,
    champion_saw: np.datetime64 | None = None,
    leak_override: Override | None = None,
) -> Evidence:
    """What the winner of a study is judged by: the declared baseline and the champion beside it.

    Args:
        baseline: The recipe of the service's declared baseline.
        alpha: The level that this judgement may spend.
        earlier: Forecasts (n,) by other studies' trials on the rows that this study compares;
            they enter gate G2 as if they had been part of this search.
        n_unkept: Trials of the service whose forecasts of these bars were not kept.
        before: The record that a refit continues.
        champion_saw: When the last label that the champion was fitted on was known, None where
            nobody knows: only forecasts made at or after it are compared with the champion.
        leak_override: A person's word that a record too good to be true is no leak.
    """
    naive = walk_baseline(baseline, dataset, (*study.slices.development, *study.slices.holdout))
    folds = study.slices.fold_of_row(len(dataset))
    walked = cut_record(dataset, study.compared_rows, study.winner.forecasts, naive, folds)
    held_rows = _held_rows(study)
    held = cut_record(dataset, held_rows, study.holdout.forecasts, naive, folds)
    trials = {trial.name: trial.forecasts[study.compared_rows] for trial in study.trials}
    pooled = {**trials, **(earlier or {})}
    if study.is_refit:
        walked, pooled = held, {study.winner.name: held.forecast}
    return Evidence(
        candidate=study.winner.name,
        walk_forward=walked,
        holdout=held,
        winner=study.winner.name,
        trials=pooled,
        n_trials=len(pooled) + n_unkept,
        integrity=Integrity(
            gap_bars=study.slices.gap_bars,
            ordered=True,  # a Fold cannot be built otherwise
            feature_schema_matches=study.holdout.last.recipe == study.winner.recipe,
            causality_proven=causality_proven,
        ),
        bars_per_year=bars_per_year(dataset),
        fee_bps=fee_bps,
        champion=None
        if champion is None
        else forecast_unseen(champion, champion_saw, dataset, held_rows),
        refit=study.is_refit,
        record=held.after(before) if study.is_refit and before is not None else None,
        alpha=alpha,
        leak_override=leak_override,
        findings=dataset.findings,
    )


def judge_study(
    study: Study,
    dataset: Dataset,
    evidence: Evidence,
    *,
    baseline: Recipe,
    thresholds: Thresholds,
) -> Judgement:
    """Judge the winner of a study by its `evidence_of`, and measure its forecasts."""
    walked, held = evidence.walk_forward, evidence.holdout
    evaluation = evaluate_record(held, dataset, fee_bps=evidence.fee_bps)
    return Judgement(
        report=judge(evidence, thresholds),
        walk_forward=walked,
        holdout=held,
        record=held if evidence.record is None else evidence.record,
        walk_forward_evaluation=evaluation
        if walked is held
        else evaluate_record(walked, dataset, fee_bps=evidence.fee_bps),
        evaluation=evaluation,
        baselines=_forecast_baselines(study, dataset, held, declared=baseline),
    )


def make_ranker(
    dataset: Dataset, slices: Slices, *, baseline: Recipe, fee_bps: float
) -> Callable[[Mapping[str, FloatArray]], Mapping[str, float]]:
    """A function that ranks trials by the measure of gate G2, by which the winner is judged.

    Args:
        fee_bps: Costs of one turnover of the whole position, in basis points.
    """
    folds = (*slices.development, *slices.holdout)
    naive = walk_baseline(baseline, dataset, folds)
    numbers = slices.fold_of_row(len(dataset))

    def rank(trials: Mapping[str, FloatArray]) -> Mapping[str, float]:
        made = [np.isfinite(forecasts) for forecasts in trials.values()]
        rows = np.flatnonzero(np.logical_and.reduce(made))
        first = next(iter(trials.values()))
        compared = cut_record(dataset, rows, first, naive, numbers)
        chosen = {name: forecasts[rows] for name, forecasts in trials.items()}
        return rank_trials(compared, chosen, fee_bps=fee_bps)

    return rank


def declared_baseline(dataset: Dataset, name: str | None = None) -> Recipe:
    """The recipe of a service's baseline; without a name the usual one of the target."""
    return default_recipe(name or BASELINES[dataset.target.kind], dataset.target)


def walk_baseline(recipe: Recipe, dataset: Dataset, folds: tuple[Fold, ...]) -> FloatArray:
    """(N,) forecasts of a naive forecaster on every fold's test rows."""
    return run_walk_forward(recipe, dataset, folds, FitContext()).forecasts


def _held_rows(study: Study) -> RowArray:
    return np.flatnonzero(np.isfinite(study.holdout.forecasts))


def _forecast_baselines(
    study: Study, dataset: Dataset, holdout: Forecasts, *, declared: Recipe
) -> dict[str, Forecasts]:
    rows = _held_rows(study)
    records = {declared.model_type: holdout.of_baseline()}
    for name in NAIVE[dataset.target.kind]:
        if name not in records:
            recipe = default_recipe(name, dataset.target)
            forecasts = walk_baseline(recipe, dataset, study.slices.holdout)[rows]
            records[name] = holdout.of(forecasts)
    return records
