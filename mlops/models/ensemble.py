"""The ensemble: several recipes fitted on the same rows, averaged by fitted weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from mlops.arrays import BoolArray, FloatArray, RowArray
from mlops.errors import ModelError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import (
    FitContext,
    Forecaster,
    History,
    Tensors,
    default_recipe,
    forecaster_class,
)
from mlops.models.feature_forecaster import TargetTransform
from mlops.models.recipe import Param, Recipe
from mlops.models.small_networks import compact_config

REFIT = "refit_on_selection"
WEIGHT_TOLERANCE = 1e-6


class Ensemble(Forecaster):
    """A weighted mean of its members; weights are at least zero and sum to one.

    The weights minimise the squared error on selection rows of members that were fitted on fit
    rows only. ``equal_pull`` penalises distance from equal weights, as a share of the members'
    mean squared error. A member whose recipe has ``refit_on_selection`` is then fitted on all
    rows.
    """

    SCHEMA: ClassVar[Mapping[str, Param]] = {"equal_pull": Param(0.1, low=0.0, high=1e6)}
    STATE_KEYS: ClassVar[tuple[str, ...]] = ("weights", "members")

    def __init__(self, recipe: Recipe, target: TargetSpec) -> None:
        super().__init__(recipe, target)
        self.members = [_create_member(member, target) for member in self.recipe.members]
        self.weights = np.full(len(self.members), 1 / len(self.members))

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        network = default_recipe("lstm", target, compact_config("lstm", target))
        return Recipe("ensemble", members=(default_recipe("linear", target), network))

    def validate(self, recipe: Recipe) -> Recipe:
        recipe = super().validate(recipe)
        if not recipe.members:
            raise ModelError("members is empty; an ensemble needs at least one recipe")
        return replace(
            recipe,
            members=tuple(_create_member(member, self.target).recipe for member in recipe.members),
        )

    @property
    def warm_up(self) -> int:
        return max(member.warm_up for member in self.members)

    @property
    def row_by_row(self) -> bool:
        return all(member.row_by_row for member in self.members)

    def ready(self, dataset: Dataset) -> BoolArray:
        return np.asarray(np.all([member.ready(dataset) for member in self.members], axis=0))

    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        started = perf_counter()
        fit_rows = self.trainable(dataset, fit_rows)
        selection_rows = self.trainable(dataset, selection_rows)
        histories = []
        for number, member in enumerate(self.members):
            # The weights need members that have not seen the selection rows.
            recipe = member.recipe
            if recipe.params.get(REFIT):
                recipe = recipe.with_params(**{REFIT: False})
            self.members[number] = _create_member(recipe, self.target)
            histories.append(
                self.members[number].fit(dataset, fit_rows, selection_rows, context.seeded(number))
            )
        self.weights = self._fit_weights(dataset, fit_rows, selection_rows)
        for number, recipe in enumerate(self.recipe.members):
            if recipe.params.get(REFIT):
                self.members[number] = _create_member(recipe, self.target)
                self.members[number].fit(dataset, fit_rows, selection_rows, context.seeded(number))
        return History(
            seconds=perf_counter() - started,
            device=histories[-1].device,
            members=tuple(histories),
        )

    def _fit_weights(self, dataset: Dataset, fit_rows: RowArray, rows: RowArray) -> FloatArray:
        transform = TargetTransform.fit(dataset, fit_rows)
        errors = transform.errors(
            dataset, rows, np.stack([member.predict(dataset, rows) for member in self.members])
        )
        return simplex_weights(errors.T, self.recipe.number("equal_pull"))

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        forecasts = [member.predict(dataset, rows) for member in self.members]
        return np.asarray(self.weights @ np.stack(forecasts))

    def state(self) -> tuple[dict[str, Any], Tensors]:
        states = [member.state() for member in self.members]
        tensors = {
            f"{number}.{name}": value
            for number, (_, member_tensors) in enumerate(states)
            for name, value in member_tensors.items()
        }
        configs = [config for config, _ in states]
        return {**self._identity(), "weights": self.weights.tolist(), "members": configs}, tensors

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        self.weights = np.asarray(config["weights"], dtype=np.float64)
        self.members = [
            forecaster_class(member["recipe"]["model_type"]).restore(
                member,
                {
                    name.removeprefix(f"{number}."): value
                    for name, value in tensors.items()
                    if name.startswith(f"{number}.")
                },
            )
            for number, member in enumerate(config["members"])
        ]

    def check_state(self) -> None:
        recipes = tuple(member.recipe for member in self.members)
        if recipes != self.recipe.members:
            raise ModelError("the members have other recipes than the ensemble's recipe names")
        for member in self.members:
            if member.target != self.target:
                raise ModelError(f"a member forecasts {member.target}, the ensemble {self.target}")
            member.check_state()
        weights = self.weights
        good = weights.shape == (len(recipes),) and np.isfinite(weights).all()
        if not good or (weights < 0).any() or abs(weights.sum() - 1) > WEIGHT_TOLERANCE:
            raise ModelError(
                f"weights={weights.tolist()} are not {len(recipes)} shares, none below zero, that "
                "add up to 1"
            )


def simplex_weights(errors: FloatArray, equal_pull: float) -> FloatArray:
    """Weights (K,) that minimise the mean square of ``errors @ weights``.

    The penalty ``equal_pull`` times the mean squared error times |w - 1/K|^2 keeps weights that
    are fitted on few rows from fitting noise.

    Args:
        errors: The errors of each member (n, K).
    """
    from scipy.optimize import nnls

    members = errors.shape[1]
    moments = errors.T @ errors / len(errors)
    size = max(float(np.trace(moments)) / members, 1e-300)
    penalised = moments / size + equal_pull * np.eye(members)
    # On the simplex |w - 1/K|^2 and |w|^2 differ by a constant; a heavy row sums w to one.
    root = np.linalg.cholesky(penalised + 1e-12 * np.eye(members)).T
    heavy = 1e4 * np.sqrt(np.trace(penalised))
    design = np.vstack([root, np.full((1, members), heavy)])
    weights, _ = nnls(design, np.concatenate([np.zeros(members), [heavy]]))
    return np.asarray(weights / weights.sum())


def _create_member(recipe: Recipe, target: TargetSpec) -> Forecaster:
    # Custom members were checked against the allow-list where the ensemble was built.
    return forecaster_class(recipe.model_type)(recipe, target)
