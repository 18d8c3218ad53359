"""From a study to a verdict: the evidence the gates ask for, put together from what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.data.splits import Fold
from mlops.features.dataset import Dataset
from mlops.models.base import BASELINES, FitContext, Forecaster, default_recipe
from mlops.models.recipe import Recipe
from mlops.service import Target
from mlops.training.study import Study
from mlops.training.walk_forward import WalkForward, run_walk_forward
from mlops.validation.evaluation import Evaluation, evaluate
from mlops.validation.evidence import Evidence, Integrity, Override, Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.gates import judge
from mlops.validation.report import GateReport

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

NAIVE: Mapping[Target, tuple[str, ...]] = {
    Target.VOLATILITY: ("persistence", "ewma", "seasonal"),
    Target.RETURN: ("zero",),
    Target.PRICE: ("last_price",),
    Target.DIRECTION: ("base_rate",),
}
"""The naive forecasts that a model card sets a target's models against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a judgement is held to: costs, limits, the level it may spend, a person's override."""

    fee_bps: float
    thresholds: Thresholds
    alpha: float
    n_trials: int
    require_better: bool = False
    leak_override: Override | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judgement:
    """The verdict on one candidate, and the records it rests on.

    ``baselines`` are all naive forecasts of the target on the holdout rows, the declared one
    first.
    """

    report: GateReport
    walk_forward: Forecasts
    holdout: Forecasts
    walk_forward_evaluation: Evaluation
    evaluation: Evaluation
    baselines: Mapping[str, Forecasts]


def judge_study(
    study: Study,
    dataset: Dataset,
    *,
    candidate: str,
    baseline: Recipe,
    terms: Terms,
    causality_proven: bool,
    earlier: Mapping[str, Floats] | None = None,
    champion: Forecaster | None = None,
) -> Judgement:
    """Judge the winner of a study against the declared baseline and the champion.

    ``earlier`` are trials of other studies on the development rows (n,): they enter G2 as if
    they had been part of this search.
    """
    naive = walk_baseline(baseline, dataset, (*study.slices.development, *study.slices.holdout))
    developed = study.development_rows
    holdout_rows = _judged_rows(study.holdout, dataset, champion)
    walk_forward = record(dataset, developed, study.winner.walk, naive)
    holdout = record(dataset, holdout_rows, study.holdout, naive)
    trials = {trial.name: trial.walk.forecasts[developed] for trial in study.trials}
    report = judge(
        Evidence(
            candidate=candidate,
            walk_forward=walk_forward,
            holdout=holdout,
            winner=study.winner.name,
            trials={**trials, **(earlier or {})},
            n_trials=max(terms.n_trials, len(trials) + len(earlier or {})),
            integrity=Integrity(
                gap_bars=study.slices.gap_bars,
                ordered=True,  # Fold refuses anything else
                feature_schema_matches=study.holdout.last.recipe == study.winner.recipe,
                causality_proven=causality_proven,
            ),
            bars_per_year=bars_per_year(dataset),
            fee_bps=terms.fee_bps,
            champion=None if champion is None else champion.predict(dataset, holdout_rows),
            require_better=terms.require_better,
            alpha=terms.alpha,
            leak_override=terms.leak_override,
        ),
        terms.thresholds,
    )
    return Judgement(
        report=report,
        walk_forward=walk_forward,
        holdout=holdout,
        walk_forward_evaluation=evaluation_of(walk_forward, dataset, fee_bps=terms.fee_bps),
        evaluation=evaluation_of(holdout, dataset, fee_bps=terms.fee_bps),
        baselines=_all_baselines(study, dataset, holdout, holdout_rows, declared=baseline),
    )


def declared_baseline(dataset: Dataset, name: str | None = None) -> Recipe:
    """The recipe of a service's baseline; None names the target's usual one."""
    return default_recipe(name or BASELINES[dataset.target.kind], dataset.target)


def walk_baseline(recipe: Recipe, dataset: Dataset, folds: tuple[Fold, ...]) -> Floats:
    """(N,) forecasts of a naive forecaster on every fold's test rows."""
    return run_walk_forward(recipe, dataset, folds, FitContext()).forecasts


def record(dataset: Dataset, rows: Rows, walk: WalkForward, baseline: Floats) -> Forecasts:
    """What was forecast on ``rows``, beside outcomes and baseline."""
    labels = dataset.labels
    return Forecasts(
        target=dataset.target.kind,
        horizon=dataset.target.horizon,
        made_at=labels.made_at[rows],
        y=labels.y[rows],
        forecast=walk.forecasts[rows],
        persistence=labels.persistence[rows],
        baseline=baseline[rows],
        next_return=dataset.next_returns[rows],
        fold=walk.fold_of_row[rows],
    )


def evaluation_of(rows: Forecasts, dataset: Dataset, *, fee_bps: float) -> Evaluation:
    """Metrics with intervals, annualised by the dataset's own calendar."""
    return evaluate(rows, bars_per_year=bars_per_year(dataset), fee_bps=fee_bps)


def bars_per_year(dataset: Dataset) -> float:
    """Bars of the dataset's calendar in a year."""
    return dataset.calendar.bars_per_year(dataset.timeframe)


def _judged_rows(walk: WalkForward, dataset: Dataset, champion: Forecaster | None) -> Rows:
    both = np.isfinite(walk.forecasts)
    if champion is not None:
        both = both & champion.ready(dataset)
    return np.flatnonzero(both)


def _all_baselines(
    study: Study, dataset: Dataset, holdout: Forecasts, rows: Rows, *, declared: Recipe
) -> dict[str, Forecasts]:
    found = {declared.model_type: holdout.of_baseline()}
    for name in NAIVE[dataset.target.kind]:
        if name not in found:
            recipe = default_recipe(name, dataset.target)
            forecasts = walk_baseline(recipe, dataset, study.slices.holdout)[rows]
            found[name] = holdout.of(forecasts)
    return found
