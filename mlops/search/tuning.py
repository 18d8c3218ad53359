"""Searches recipes with Optuna's genetic sampler NSGA-II; a killed search can be resumed.

Each model type is an Optuna study of its own, and the studies take turns, so that each gets its
share of the trials. Nothing is pruned: NSGA-II leaves pruned trials out of its population.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mlops.data.splits import Fold
from mlops.errors import ModelError, TrainingError, TrainingTimeout
from mlops.features.dataset import Dataset
from mlops.models.base import FitContext
from mlops.models.feature_forecaster import TargetTransform
from mlops.models.recipe import Recipe
from mlops.search.spaces import Choices, SearchSpace, Span
from mlops.search.walk_forward import WalkForward, run_walk_forward

POPULATION = 10
"""With Optuna's 50 a small search would never leave its first generation."""

REDRAWS = 10
"""Draws of a recipe not tried before; a small space may have none left."""

RECIPE, SECONDS, REASON = "recipe", "seconds", "reason"

Skill = Callable[[WalkForward], float]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One tried recipe.

    Args:
        number: Counted over all model types.
        skill: By the measure of the search; NaN for a recipe that could not be fitted.
        walk: None where the trial was finished before a resume.
        failure: Why the recipe could not be fitted.
    """

    number: int
    recipe: Recipe
    skill: float
    seconds: float
    walk: WalkForward | None = None
    failure: str | None = None


def tune(
    spaces: Sequence[SearchSpace],
    dataset: Dataset,
    folds: Sequence[Fold],
    context: FitContext,
    *,
    n_trials: int,
    journal: Path | None = None,
    study_name: str = "study",
    skill: Skill | None = None,
    on_trial: Callable[[TrialRecord], None] | None = None,
    allowed_classes: Collection[str] = (),
) -> tuple[TrialRecord, ...]:
    """Try ``n_trials`` recipes, in turn from each space, and return all of them.

    A space in which nothing varies is tried once, so there may be fewer.

    Args:
        journal: File by which finished trials survive a kill: the next call with the same
            ``study_name`` returns them without forecasts (keep those in ``on_trial``), repeats
            the trial that was cut short, and continues up to ``n_trials``. The sampler's random
            state is not stored, so a resumed search may draw other recipes.
        skill: Measure to maximise, by default `skill_over_baseline`.
        on_trial: Called once with each new trial.
        allowed_classes: Class paths of the custom models that may be built.

    Raises:
        TrainingTimeout: when the context's deadline passes; finished trials stay.
        ModelError: when there is nothing to search.
    """
    if n_trials < 1 or not spaces:
        raise ModelError(f"{n_trials} trials over {len(spaces)} spaces; ask for at least one each")
    storage = _open_storage(journal)
    families = [
        _Family(space, _load_study(storage, f"{study_name}.{space.model_type}", seed))
        for seed, space in enumerate(spaces, start=context.seed)
    ]
    measure = skill or (lambda walk: skill_over_baseline(dataset, walk))
    records = [record for family in families for record in family.finished()]
    while len(records) < n_trials:
        context.check_deadline("tuning")
        searchable = [family for family in families if not family.exhausted]
        if not searchable:
            break
        family = min(searchable, key=lambda family: family.tried)

        def evaluate(recipe: Recipe, number: int = len(records)) -> tuple[float, WalkForward]:
            seeded = context.seeded(number)
            walk = run_walk_forward(recipe, dataset, folds, seeded, allowed_classes=allowed_classes)
            return measure(walk), walk

        records.append(family.run_trial(evaluate, len(records)))
        if on_trial is not None:
            on_trial(records[-1])
    return tuple(records)


def skill_over_baseline(dataset: Dataset, walk: WalkForward) -> float:
    """1 - MSE / MSE of the naive forecast, both in units of risk.

    Above zero is better than persistence; the naive forecast of a return is zero.
    """
    rows = np.flatnonzero(np.isfinite(walk.forecasts) & dataset.labels.valid)
    transform = TargetTransform(dataset.target.kind, dataset.target.horizon)
    errors = transform.errors(dataset, rows, walk.forecasts[rows])
    naive = transform.errors(dataset, rows, dataset.labels.persistence[rows])
    return 1.0 - float(np.mean(np.square(errors)) / np.mean(np.square(naive)))


class _Family:
    """One space and its Optuna study."""

    def __init__(self, space: SearchSpace, study: optuna.Study) -> None:
        self.space, self.study = space, study
        self.distributions: dict[str, BaseDistribution] = {
            key: FloatDistribution(values.low, values.high, log=True)
            if isinstance(values, Span)
            else CategoricalDistribution([json.dumps(value) for value in values.values])
            for key, values in space.varied.items()
        }
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            # A killed process left it running: it is closed, and queued again.
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(self._encode(space.base_values()))

    @property
    def tried(self) -> int:
        return len(self.finished())

    @property
    def exhausted(self) -> bool:
        """Whether the space is a single recipe that was tried already."""
        return not self.space.varied and self.tried > 0

    def finished(self) -> list[TrialRecord]:
        """Trials with an outcome, without forecasts; those of an earlier process too."""
        trials = self.study.get_trials(deepcopy=False)
        return [
            TrialRecord(
                number=trial.user_attrs["number"],
                recipe=Recipe.from_dict(trial.user_attrs[RECIPE]),
                skill=float("nan") if trial.value is None else trial.value,
                seconds=trial.user_attrs[SECONDS],
                failure=trial.user_attrs.get(REASON),
            )
            for trial in trials
            if REASON in trial.user_attrs
            or (trial.state is TrialState.COMPLETE and SECONDS in trial.user_attrs)
        ]

    def run_trial(
        self, evaluate: Callable[[Recipe], tuple[float, WalkForward]], number: int
    ) -> TrialRecord:
        """Draw a recipe, evaluate it and store the outcome."""
        trial, recipe = self._draw_untried()
        trial.set_user_attr(RECIPE, recipe.to_dict())
        trial.set_user_attr("number", number)
        started = perf_counter()
        try:
            value, walk = evaluate(recipe)
        except TrainingTimeout:
            # Not an outcome: a resumed search runs it again.
            raise
        except (TrainingError, ModelError) as error:
            seconds = self._store_outcome(trial, started, reason=str(error))
            return TrialRecord(number, recipe, float("nan"), seconds, failure=str(error))
        seconds = self._store_outcome(trial, started, value=value)
        return TrialRecord(number, recipe, value, seconds, walk)

    def _store_outcome(
        self,
        trial: optuna.Trial,
        started: float,
        *,
        value: float | None = None,
        reason: str | None = None,
    ) -> float:
        seconds = perf_counter() - started
        trial.set_user_attr(SECONDS, seconds)
        if reason is not None:
            trial.set_user_attr(REASON, reason)
        state = TrialState.COMPLETE if reason is None else TrialState.FAIL
        self.study.tell(trial, value, state=state)
        return seconds

    def _draw_untried(self) -> tuple[optuna.Trial, Recipe]:
        """Draw a recipe that was not tried before, where the space still has one."""
        values = {record.recipe.digest: record.skill for record in self.finished()}
        for _ in range(REDRAWS):
            trial = self.study.ask(self.distributions)
            recipe = self.space.recipe(self._decode(trial.params))
            known = values.get(recipe.digest)
            if known is None:
                return trial, recipe
            # Its values count in the population, but the recipe is not fitted twice.
            state = TrialState.FAIL if np.isnan(known) else TrialState.COMPLETE
            self.study.tell(trial, None if np.isnan(known) else known, state=state)
        trial = self.study.ask(self.distributions)
        return trial, self.space.recipe(self._decode(trial.params))

    def _encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's values as Optuna's: its choices are JSON texts."""
        varied = self.space.varied
        return {
            key: json.dumps(value) if isinstance(varied[key], Choices) else value
            for key, value in values.items()
        }

    def _decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        varied = self.space.varied
        return {
            key: json.loads(value) if isinstance(varied[key], Choices) else value
            for key, value in params.items()
        }


def _open_storage(journal: Path | None) -> BaseStorage:
    if journal is None:
        return InMemoryStorage()
    journal.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(journal)))


def _load_study(storage: BaseStorage, name: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    # By its own seed a resumed search does not draw its first trials again.
    done = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed + done)
    return study
