"""A model of somebody's own, kept as a signed pickle: for a trusted notebook, never for HTTP.

The object is given what our models see: ``predict(features)`` gets float32 ``(n, T, F)``, the
scale-free features of the last ``sequence_length`` bars, not standardised (``(n, F)`` where
T is 1), and returns n numbers in the target's unit. A torch module is called in eval mode.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.errors import ModelError
from mlops.features.dataset import Dataset, windows
from mlops.features.spec import DEFAULT_FEATURES, FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, Floats, Forecaster, History, Rows, Tensors
from mlops.models.recipe import Recipe

BATCH_ROWS = 4096


class Pickled(Forecaster):
    """Forecasts by an object that is not one of our classes."""

    def __init__(self, recipe: Recipe, target: TargetSpec, model: object) -> None:
        super().__init__(recipe, target)
        self.model = model
        self.spec = FeatureSpec(self.recipe.features)

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        return Recipe("custom", features=DEFAULT_FEATURES)

    def validate(self, recipe: Recipe) -> Recipe:
        return recipe

    @property
    def warm_up(self) -> int:
        return self.spec.warm_up + self.recipe.sequence_length

    def fit(
        self, dataset: Dataset, fit_rows: Rows, selection_rows: Rows, context: FitContext
    ) -> History:
        raise ModelError(
            "a pickled model is registered as it is; to have it trained here, put its class "
            "into a module of CUSTOM_MODEL_MODULES"
        )

    def ready(self, dataset: Dataset) -> NDArray[np.bool_]:
        return dataset.usable(self.spec, self.recipe.sequence_length)

    def _predict(self, dataset: Dataset, rows: Rows) -> Floats:
        matrix = dataset.matrix(self.spec)
        parts = [
            self._call(windows(matrix, rows[first : first + BATCH_ROWS], self._length))
            for first in range(0, rows.size, BATCH_ROWS)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def _length(self) -> int:
        return self.recipe.sequence_length

    def _call(self, inputs: NDArray[np.float32]) -> Floats:
        given = np.array(inputs[:, 0, :] if self._length == 1 else inputs)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(self.model, torch.nn.Module):
            with torch.inference_mode():
                raw = self.model.eval()(torch.from_numpy(given)).cpu().numpy()
        else:
            raw = self.model.predict(given)  # type: ignore[attr-defined]
        answers = np.asarray(raw, dtype=np.float64).reshape(-1)
        if answers.shape != (len(given),):
            raise ModelError(
                f"{type(self.model).__name__} answered {len(answers)} numbers for {len(given)} "
                f"rows of shape {given.shape[1:]}; one forecast a row is allowed"
            )
        return answers

    def state(self) -> tuple[dict[str, Any], Tensors]:
        """The configuration alone: the object itself is the pickle."""
        return self._identity(), {}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        """Nothing besides the pickle is loaded."""
