"""The search over recipes by Optuna's genetic sampler, resumable after a kill.

Each model type is a study of its own and the studies take turns, so that every family gets
its share of the trials. Pruned trials never enter NSGA-II's population, so nothing is pruned.
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
"""Optuna's 50 would spend a small search on its first generation."""

REDRAWS = 10
"""Attempts at a recipe not tried before; a small space may have none left."""

RECIPE, SECONDS, REASON = "recipe", "seconds", "reason"

Skill = Callable[[WalkForward], float]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One recipe tried: its walk-forward forecasts and how they did.

    ``number`` counts over all families. ``skill`` is 1 less the loss over the baseline's,
    or what the caller's own measure gave; NaN for a recipe that could not be fitted, whose
    ``failure`` says why. ``walk`` is None when the trial was finished before a resume.
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

    With a ``journal`` file finished trials survive a kill: the next call with the same
    ``study_name`` returns them without their forecasts (keep those in ``on_trial``), runs
    again what was cut short, and goes on to ``n_trials``. A resumed search is not a replay:
    the sampler's random state is not stored. ``on_trial`` is called once for each new trial.

    Raises:
        TrainingTimeout: when the context's deadline passes; finished trials stay.
        ModelError: when there is nothing to search.
    """
    if n_trials < 1 or not spaces:
        raise ModelError(f"{n_trials} trials over {len(spaces)} spaces; ask for at least one each")
    storage = _storage(journal)
    families = [
        _Family(space, _study(storage, f"{study_name}.{space.model_type}", context.seed + place))
        for place, space in enumerate(spaces)
    ]
    measure = skill or (lambda walk: skill_over_baseline(dataset, walk))
    records = [record for family in families for record in family.finished()]
    while len(records) < n_trials:
        context.check_deadline("tuning")
        searchable = [family for family in families if not family.exhausted]
        if not searchable:
            break
        family = min(searchable, key=lambda one: one.tried)

        def attempt(recipe: Recipe, number: int = len(records)) -> tuple[float, WalkForward]:
            own = context.seeded(number)
            walk = run_walk_forward(
                recipe,
                dataset,
                folds,
                own,
                allowed_classes=allowed_classes,
            )
            return measure(walk), walk

        records.append(family.attempt(attempt, len(records)))
        if on_trial is not None:
            on_trial(records[-1])
    return tuple(records)


def skill_over_baseline(dataset: Dataset, walk: WalkForward) -> float:
    """1 less the mean squared error over that of the naive forecast, in units of risk.

    Above zero means better than persistence; a return's naive forecast is zero.
    """
    rows = np.flatnonzero(np.isfinite(walk.forecasts) & dataset.labels.valid)
    transform = TargetTransform(dataset.target.kind, dataset.target.horizon)
    errors = transform.errors(dataset, rows, walk.forecasts[rows])
    naive = transform.errors(dataset, rows, dataset.labels.persistence[rows])
    return 1.0 - float(np.mean(np.square(errors)) / np.mean(np.square(naive)))


class _Family:
    """One space and its study."""

    def __init__(self, space: SearchSpace, study: optuna.Study) -> None:
        self.space, self.study = space, study
        self.distributions = {key: _distribution(one) for key, one in space.varied.items()}
        self._tidy()
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(_encoded(space))

    @property
    def tried(self) -> int:
        return len(self.finished())

    @property
    def exhausted(self) -> bool:
        """Whether the space is one recipe, and that was tried."""
        return not self.space.varied and self.tried > 0

    def finished(self) -> list[TrialRecord]:
        """Trials with an outcome, also those of an earlier process, without forecasts."""
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

    def attempt(
        self, evaluate: Callable[[Recipe], tuple[float, WalkForward]], number: int
    ) -> TrialRecord:
        """Draw a recipe, evaluate it and store the outcome."""
        trial, recipe = self._draw()
        trial.set_user_attr(RECIPE, recipe.to_dict())
        trial.set_user_attr("number", number)
        started = perf_counter()
        try:
            value, walk = evaluate(recipe)
        except TrainingTimeout:
            # Not an outcome: a resumed search runs it again.
            raise
        except (TrainingError, ModelError) as error:
            seconds = self._close(trial, started, reason=str(error))
            return TrialRecord(number, recipe, float("nan"), seconds, failure=str(error))
        seconds = self._close(trial, started, value=value)
        return TrialRecord(number, recipe, value, seconds, walk)

    def _close(
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

    def _draw(self) -> tuple[optuna.Trial, Recipe]:
        """A recipe not tried before, where the space still has one."""
        values = {record.recipe.digest: record.skill for record in self.finished()}
        for _ in range(REDRAWS):
            trial = self.study.ask(self.distributions)
            recipe = self.space.recipe(self._decoded(trial.params))
            known = values.get(recipe.digest)
            if known is None:
                return trial, recipe
            # The genes still count in the population; the work is not done twice.
            state = TrialState.FAIL if np.isnan(known) else TrialState.COMPLETE
            self.study.tell(trial, None if np.isnan(known) else known, state=state)
        trial = self.study.ask(self.distributions)
        return trial, self.space.recipe(self._decoded(trial.params))

    def _decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        varied = self.space.varied
        return {
            key: json.loads(value) if isinstance(varied[key], Choices) else value
            for key, value in params.items()
        }

    def _tidy(self) -> None:
        """Close what a killed process left running, and queue it again."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)


def _storage(journal: Path | None) -> BaseStorage:
    if journal is None:
        return InMemoryStorage()
    journal.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(journal)))


def _study(storage: BaseStorage, name: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    # A resumed search must not draw its first trials again.
    done = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed + done)
    return study


def _distribution(varied: Choices | Span) -> BaseDistribution:
    if isinstance(varied, Span):
        return FloatDistribution(varied.low, varied.high, log=True)
    return CategoricalDistribution([json.dumps(value) for value in varied.values])


def _encoded(space: SearchSpace) -> dict[str, Any]:
    """The base recipe's own values, so that the search starts from it."""
    recipe = space.base
    own = {"features": recipe.features, "sequence_length": recipe.sequence_length}
    values = {key: own.get(key, recipe.params.get(key)) for key in space.varied}
    return {
        key: value if isinstance(space.varied[key], Span) else json.dumps(value)
        for key, value in values.items()
    }
