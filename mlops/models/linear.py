"""Ridge regression, the model that a network must beat, and linear algebra equal to the bit.

For volatility the features are the HAR terms of Corsi (2009) with the time of day and week.
`one_blas_thread` and `linear_combination` give the same last bit on any number of cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlops.arrays import Float32Array, FloatArray, RowArray
from mlops.errors import ModelError
from mlops.features.dataset import Dataset, windows
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, History, Tensors
from mlops.models.feature_forecaster import FeatureForecaster
from mlops.models.recipe import Param, Recipe
from mlops.models.small_networks import RETURN_FEATURES_WIDE, VOLATILITY_FEATURES
from mlops.service import Target

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run BLAS in one thread, because the number of threads changes the last digits of a sum.

    On 100,000 rows one thread and two give ridge coefficients that differ in the last digits.
    """
    with _find_blas().limit(limits=1):
        yield


@cache
def _find_blas() -> ThreadpoolController:
    """NumPy's BLAS, searched for once: a search of all loaded libraries takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def linear_combination(design: FloatArray, coefficients: FloatArray) -> FloatArray:
    """``design (n, P) @ coefficients (P,)`` without BLAS, bit-equal for any number of threads."""
    combined: FloatArray = np.einsum("np,p->n", design, coefficients)
    return combined


SHARES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"""Penalties tried, as shares of the mean eigenvalue of the features' covariance."""


class Linear(FeatureForecaster):
    """Ridge on the flattened window, with the penalty that is best on selection rows.

    ``alpha`` above zero fixes the penalty (a share of the mean eigenvalue). With
    ``refit_on_selection`` the model is fitted once more on all rows with the chosen penalty.
    """

    SCHEMA: ClassVar[Mapping[str, Param]] = {
        "alpha": Param(0.0, low=0.0, high=1e6),
        "refit_on_selection": Param(True),
    }
    STATE_KEYS: ClassVar[tuple[str, ...]] = (
        *FeatureForecaster.STATE_KEYS,
        "intercept",
        "penalty",
    )

    def __init__(self, recipe: Recipe, target: TargetSpec) -> None:
        super().__init__(recipe, target)
        self.coefficients: FloatArray = np.zeros(0)
        self.intercept = 0.0
        self.penalty = 0.0

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        volatile = target.kind is Target.VOLATILITY
        return Recipe("linear", VOLATILITY_FEATURES if volatile else RETURN_FEATURES_WIDE)

    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        started = perf_counter()
        context.check_deadline("linear")
        with one_blas_thread():
            fit_rows = self.trainable(dataset, fit_rows)
            self.prepare(dataset, fit_rows)
            scaled = self.inputs(dataset)
            path = RidgePath.of(self._design(scaled, fit_rows), self.learned(dataset, fit_rows))
            self.penalty = self._choose_penalty(path, dataset, scaled, selection_rows)
            if self.recipe.params["refit_on_selection"] and selection_rows.size:
                rows = self.trainable(dataset, np.concatenate([fit_rows, selection_rows]))
                path = RidgePath.of(self._design(scaled, rows), self.learned(dataset, rows))
            self.coefficients, self.intercept = path.solve(self.penalty)
        return History(seconds=perf_counter() - started)

    def _choose_penalty(
        self, path: RidgePath, dataset: Dataset, scaled: Float32Array, rows: RowArray
    ) -> float:
        fixed = self.recipe.number("alpha")
        if fixed > 0:
            return fixed
        rows = self.trainable(dataset, rows)
        design, learned = self._design(scaled, rows), self.learned(dataset, rows)
        solved = [path.solve(share) for share in SHARES]
        losses = [np.mean(np.square(learned - design @ b - a)) for b, a in solved]
        return SHARES[int(np.argmin(losses))]

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        design = self._design(self.inputs(dataset), rows)
        learned = linear_combination(design, self.coefficients) + self.intercept
        return self.transform.decode(learned, dataset, rows)

    def _design(self, scaled: Float32Array, rows: RowArray) -> FloatArray:
        chosen = windows(scaled, rows, self.recipe.sequence_length)
        return chosen.reshape(len(rows), -1).astype(np.float64)

    def state(self) -> tuple[dict[str, Any], Tensors]:
        learned = {"intercept": self.intercept, "penalty": self.penalty}
        return {**self.path_state(), **learned}, {"coefficients": self.coefficients}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        self.load_path(config)
        self.intercept, self.penalty = float(config["intercept"]), float(config["penalty"])
        self.coefficients = np.asarray(tensors["coefficients"], dtype=np.float64)

    def check_state(self) -> None:
        super().check_state()
        shape = (len(self.spec) * self.recipe.sequence_length,)
        if self.coefficients.shape != shape:
            raise ModelError(
                f"coefficients have the shape {self.coefficients.shape}; the recipe needs {shape}"
            )
        if not np.isfinite([*self.coefficients, self.intercept]).all():
            raise ModelError("a coefficient or the intercept is not finite")


class RidgePath:
    """Ridge solutions for any penalty from one eigendecomposition."""

    def __init__(
        self,
        mean: FloatArray,
        level: float,
        values: FloatArray,
        basis: FloatArray,
        moment: FloatArray,
    ):
        self._mean, self._level = mean, level
        self._values, self._basis, self._moment = values, basis, moment

    @classmethod
    def of(cls, design: FloatArray, learned: FloatArray) -> RidgePath:
        """Decompose the centred design (n, P); the intercept is not penalised."""
        mean, level = design.mean(axis=0), float(learned.mean())
        centred = design - mean
        values, basis = np.linalg.eigh(centred.T @ centred / len(design))
        moment = basis.T @ (centred.T @ (learned - level) / len(design))
        return cls(mean, level, np.maximum(values, 0.0), basis, moment)

    def solve(self, share: float) -> tuple[FloatArray, float]:
        """Coefficients (P,) and intercept at a penalty of ``share`` mean eigenvalues."""
        penalty = share * max(float(self._values.mean()), 1e-12)
        coefficients = self._basis @ (self._moment / (self._values + penalty))
        return coefficients, self._level - float(self._mean @ coefficients)
