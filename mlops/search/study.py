"""A study: recipes tried forward in time, the best of them carried through the holdout."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops.data.splits import Fold
from mlops.errors import TrainingError
from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, History, default_recipe
from mlops.models.recipe import Recipe
from mlops.search.search_plan import SearchPlan
from mlops.search.slices import Slices
from mlops.search.tuning import TrialRecord, tune
from mlops.search.walk_forward import WalkForward, run_walk_forward

Floats = NDArray[np.float64]

Rank = Callable[[Mapping[str, Floats]], Mapping[str, float]]
"""From trials' forecasts (N,) by name to how good each is, best first: the gates' own measure."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One recipe's forecasts (N,) of the development slice; NaN on rows it did not forecast."""

    name: str
    recipe: Recipe
    forecasts: Floats
    seconds: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """All trials of one training, the winner, and what it forecast on the holdout.

    A refit of an unchanged recipe has no development slice: its one trial is the holdout walk.
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
    def compared_rows(self) -> NDArray[np.intp]:
        """Rows that every trial forecast: the ones a comparison may use."""
        made = [np.isfinite(trial.forecasts) for trial in self.trials]
        return np.flatnonzero(np.logical_and.reduce(made))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StudyContext:
    """Where recipes are tried: data, slices, budget, and who is told.

    ``keep`` gets every finished trial at once and ``recall`` gives a kept one's forecasts (N,)
    back, so that a search survives a crash. ``allowed_classes`` are the custom models allowed.
    """

    dataset: Dataset
    slices: Slices
    context: FitContext
    rank: Rank
    keep: Callable[[Trial], None]
    recall: Callable[[str], Floats | None]
    report: Report
    allowed_classes: Collection[str] = ()
    expected_folds: int = 0
    done_folds: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def walk(self, name: str, recipe: Recipe, folds: Sequence[Fold]) -> WalkForward:
        """Walk a recipe through folds, telling of each."""
        return run_walk_forward(
            recipe,
            self.dataset,
            folds,
            self.context,
            on_fold=self.teller(name),
            allowed_classes=self.allowed_classes,
        )

    def teller(self, name: str) -> Callable[[int, History], None]:
        """Reports each finished fold under a name."""

        def tell(number: int, _: History) -> None:
            self.report(f"{name}, refit {number + 1}", next(self.done_folds), self.expected_folds)

        return tell

    def attempt(self, name: str, recipe: Recipe) -> Trial:
        """One recipe's trial: recalled where it is known, walked and kept otherwise."""
        known = self.recall(name)
        if known is not None:
            return Trial(name, recipe, known, 0.0)
        started = time.monotonic()
        walk = self.walk(name, recipe, self.slices.development)
        trial = Trial(name, walk.last.recipe, walk.forecasts, time.monotonic() - started)
        self.keep(trial)
        return trial

    def score(self, walk: WalkForward) -> float:
        """How good a walk is, by the gates' own measure."""
        return self.rank({"trial": walk.forecasts})["trial"]


def run_study(
    bench: StudyContext, agenda: SearchPlan, *, key: str, journal: Path | None = None
) -> Study:
    """Try everything on the agenda and carry the best through the holdout.

    Raises:
        TrainingTimeout: when the deadline passes; finished trials are kept.
        TrainingError: when no recipe could be fitted.
    """
    trials = [bench.attempt(name, recipe) for name, recipe in agenda.recipes.items()]
    trials += _searched(bench, agenda, key=key, journal=journal)
    if agenda.ensemble:
        trials.append(bench.attempt("ensemble", _ensemble_of(bench, trials)))
    ranks = _ranked(bench, trials)
    winner = next(trial for trial in trials if trial.name == next(iter(ranks)))
    return Study(
        key=key,
        slices=bench.slices,
        trials=tuple(trials),
        ranks=ranks,
        winner=winner,
        holdout=bench.walk(f"{winner.name} on the holdout", winner.recipe, bench.slices.holdout),
    )


def run_refit(bench: StudyContext, recipe: Recipe, *, key: str) -> Study:
    """Fit a known recipe again and walk it through bars that came since: no search, one trial."""
    walk = bench.walk(recipe.model_type, recipe, bench.slices.holdout)
    trial = Trial(recipe.model_type, recipe, walk.forecasts, 0.0)
    return Study(
        key=key,
        slices=bench.slices,
        trials=(trial,),
        ranks=bench.rank({trial.name: trial.forecasts}),
        winner=trial,
        holdout=walk,
    )


def _searched(
    bench: StudyContext, agenda: SearchPlan, *, key: str, journal: Path | None
) -> list[Trial]:
    if not agenda.n_searched:
        return []

    def keep(record: TrialRecord) -> None:
        if record.walk is not None:
            name = trial_name(record)
            bench.keep(Trial(name, record.recipe, record.walk.forecasts, record.seconds))
            for number, history in enumerate(record.walk.histories):
                bench.teller(name)(number, history)

    records = tune(
        agenda.spaces,
        bench.dataset,
        bench.slices.development,
        bench.context,
        n_trials=agenda.n_searched,
        journal=journal,
        study_name=key,
        skill=bench.score,
        on_trial=keep,
        allowed_classes=bench.allowed_classes,
    )
    fitted = [_as_trial(bench, record) for record in records if record.failure is None]
    if not fitted:
        raise TrainingError(
            f"none of {len(records)} searched recipes could be fitted; the last one: "
            f"{records[-1].failure}"
        )
    return fitted


def trial_name(record: TrialRecord) -> str:
    """Family and number, e.g. ``lstm-3``."""
    return f"{record.recipe.model_type}-{record.number}"


def _as_trial(bench: StudyContext, record: TrialRecord) -> Trial:
    name = trial_name(record)
    if record.walk is None:
        return bench.attempt(name, record.recipe)
    return Trial(name, record.recipe, record.walk.forecasts, record.seconds)


def _ensemble_of(bench: StudyContext, trials: Sequence[Trial]) -> Recipe:
    """The best recipe of each family, averaged."""
    ranks = _ranked(bench, trials)
    best: dict[str, Recipe] = {}
    for name in ranks:
        trial = next(trial for trial in trials if trial.name == name)
        best.setdefault(trial.recipe.model_type, trial.recipe)
    return default_recipe(
        "ensemble", bench.dataset.target, {"members": [one.to_dict() for one in best.values()]}
    )


def _ranked(bench: StudyContext, trials: Sequence[Trial]) -> Mapping[str, float]:
    return bench.rank({trial.name: trial.forecasts for trial in trials})
