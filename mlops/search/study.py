"""A study: recipes are walked forward in time; the best one forecasts the holdout."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlops.arrays import FloatArray, RowArray
from mlops.data.splits import Fold
from mlops.errors import TrainingError
from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, History, default_recipe
from mlops.models.recipe import Recipe
from mlops.search.search_plan import SearchPlan
from mlops.search.slices import Slices
from mlops.search.tuning import TrialRecord, tune
from mlops.search.walk_forward import WalkForward, run_walk_forward

Rank = Callable[[Mapping[str, FloatArray]], Mapping[str, float]]
"""Maps trials' forecasts (N,) by name to the gates' measure of each, best first."""

Report = Callable[[str, int, int], None]
"""Called with what is being done, the number of folds done, and the number of folds there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One recipe's forecasts (N,) of the development slice; NaN on rows it did not forecast."""

    name: str
    recipe: Recipe
    forecasts: FloatArray
    seconds: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """All trials of one training, the winner, and its walk through the holdout.

    A refit has no development slice: its one trial is the walk through the holdout.
    """

    key: str
    slices: Slices
    trials: tuple[Trial, ...]
    ranks: Mapping[str, float]
    winner: Trial
    holdout: WalkForward

    @property
    def is_refit(self) -> bool:
        return not self.slices.development

    @property
    def compared_rows(self) -> RowArray:
        """Rows (n,) that every trial forecast: trials are compared on these."""
        made = [np.isfinite(trial.forecasts) for trial in self.trials]
        return np.flatnonzero(np.logical_and.reduce(made))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StudyContext:
    """What a study needs to try recipes.

    Args:
        fit_context: Seed, device and deadline of each fit.
        keep: Called with each finished trial at once.
        recall: Returns the forecasts (N,) of a trial kept by an earlier process that died, None
            where none is kept.
        allowed_classes: Class paths of the custom models that it may build.
        expected_folds: Folds to walk in all, for the progress.
        done_folds: Counts the folds that were walked.
    """

    dataset: Dataset
    slices: Slices
    fit_context: FitContext
    rank: Rank
    keep: Callable[[Trial], None]
    recall: Callable[[str], FloatArray | None]
    report: Report
    allowed_classes: Collection[str] = ()
    expected_folds: int = 0
    done_folds: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def walk(self, name: str, recipe: Recipe, folds: Sequence[Fold]) -> WalkForward:
        """Walk a recipe through folds and report each."""
        return run_walk_forward(
            recipe,
            self.dataset,
            folds,
            self.fit_context,
            on_fold=self.fold_reporter(name),
            allowed_classes=self.allowed_classes,
        )

    def fold_reporter(self, name: str) -> Callable[[int, History], None]:
        """A function that reports each finished fold of the named trial."""

        def report_fold(number: int, _: History) -> None:
            self.report(f"{name}, refit {number + 1}", next(self.done_folds), self.expected_folds)

        return report_fold

    def run_trial(self, name: str, recipe: Recipe) -> Trial:
        """One recipe's trial: recalled where it was kept before, else walked and kept."""
        known = self.recall(name)
        if known is not None:
            return Trial(name, recipe, known, 0.0)
        started = time.monotonic()
        walk = self.walk(name, recipe, self.slices.development)
        trial = Trial(name, walk.last.recipe, walk.forecasts, time.monotonic() - started)
        self.keep(trial)
        return trial

    def score(self, walk: WalkForward) -> float:
        """The gates' measure of a walk."""
        return self.rank({"trial": walk.forecasts})["trial"]


def run_study(
    context: StudyContext, plan: SearchPlan, *, key: str, journal: Path | None = None
) -> Study:
    """Run every trial of the plan, and walk the best recipe through the holdout.

    Args:
        key: Identifies the study in the journal and the archive.
        journal: File by which a killed search is resumed.

    Raises:
        TrainingTimeout: when the deadline passes; finished trials are kept.
        TrainingError: when no recipe could be fitted.
    """
    trials = [context.run_trial(name, recipe) for name, recipe in plan.recipes.items()]
    trials += _search(context, plan, key=key, journal=journal)
    if plan.ensemble:
        trials.append(context.run_trial("ensemble", _best_ensemble(context, trials)))
    ranks = _rank_trials(context, trials)
    winner = next(trial for trial in trials if trial.name == next(iter(ranks)))
    holdout = context.walk(f"{winner.name} on the holdout", winner.recipe, context.slices.holdout)
    return Study(
        key=key,
        slices=context.slices,
        trials=tuple(trials),
        ranks=ranks,
        winner=winner,
        holdout=holdout,
    )


def run_refit(context: StudyContext, recipe: Recipe, *, key: str) -> Study:
    """Walk a known recipe through the bars that came since, as the study's only trial."""
    walk = context.walk(recipe.model_type, recipe, context.slices.holdout)
    trial = Trial(recipe.model_type, recipe, walk.forecasts, 0.0)
    return Study(
        key=key,
        slices=context.slices,
        trials=(trial,),
        ranks=context.rank({trial.name: trial.forecasts}),
        winner=trial,
        holdout=walk,
    )


def _search(
    context: StudyContext, plan: SearchPlan, *, key: str, journal: Path | None
) -> list[Trial]:
    if not plan.n_searched:
        return []

    def keep(record: TrialRecord) -> None:
        if record.walk is not None:
            name = trial_name(record)
            context.keep(Trial(name, record.recipe, record.walk.forecasts, record.seconds))
            for number, history in enumerate(record.walk.histories):
                context.fold_reporter(name)(number, history)

    records = tune(
        plan.spaces,
        context.dataset,
        context.slices.development,
        context.fit_context,
        n_trials=plan.n_searched,
        journal=journal,
        study_name=key,
        skill=context.score,
        on_trial=keep,
        allowed_classes=context.allowed_classes,
    )
    fitted: list[Trial] = []
    for record in records:
        name = trial_name(record)
        if record.walk is not None:
            fitted.append(Trial(name, record.recipe, record.walk.forecasts, record.seconds))
        elif record.failure is None:
            fitted.append(context.run_trial(name, record.recipe))
    if not fitted:
        raise TrainingError(
            f"none of {len(records)} searched recipes could be fitted; the last one: "
            f"{records[-1].failure}"
        )
    return fitted


def trial_name(record: TrialRecord) -> str:
    """Family and number, e.g. ``lstm-3``."""
    return f"{record.recipe.model_type}-{record.number}"


def _best_ensemble(context: StudyContext, trials: Sequence[Trial]) -> Recipe:
    """The recipe that averages the best recipe of each model type."""
    ranks = _rank_trials(context, trials)
    best: dict[str, Recipe] = {}
    for name in ranks:
        trial = next(trial for trial in trials if trial.name == name)
        best.setdefault(trial.recipe.model_type, trial.recipe)
    members = [recipe.to_dict() for recipe in best.values()]
    return default_recipe("ensemble", context.dataset.target, {"members": members})


def _rank_trials(context: StudyContext, trials: Sequence[Trial]) -> Mapping[str, float]:
    return context.rank({trial.name: trial.forecasts for trial in trials})
