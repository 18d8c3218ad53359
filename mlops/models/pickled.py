"""A model of somebody's own, kept as a signed pickle: for a trusted notebook, never for HTTP.

``predict(features)`` returns n numbers in the target's unit. Where ``sequence_length`` is 1 it
is given a data frame as other custom models are, a column a feature, indexed by bar open time;
else float32 ``(n, T, F)``. Features are scale-free and not standardised. A torch module is
called in eval mode with such a tensor, ``(n, F)`` where T is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
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

    @property
    def row_by_row(self) -> bool:
        # Nobody knows what it does with the rows it is given.
        return False

    def ready(self, dataset: Dataset) -> NDArray[np.bool_]:
        return dataset.usable(self.spec, self.recipe.sequence_length)

    def _predict(self, dataset: Dataset, rows: Rows) -> Floats:
        batches = [rows[first : first + BATCH_ROWS] for first in range(0, rows.size, BATCH_ROWS)]
        parts = [self._checked(self._call(dataset, batch), batch) for batch in batches]
        return np.concatenate(parts) if parts else np.empty(0)

    def _call(self, dataset: Dataset, rows: Rows) -> Any:
        matrix, length = dataset.matrix(self.spec), self.recipe.sequence_length
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(self.model, torch.nn.Module):
            given = np.array(windows(matrix, rows, length))
            tensor = torch.from_numpy(given[:, 0, :] if length == 1 else given)
            from mlops.models.devices import one_thread_each

            with torch.inference_mode(), one_thread_each():
                return self.model.eval()(tensor).cpu().numpy()
        predict = self.model.predict  # type: ignore[attr-defined]
        if length > 1:
            return predict(np.array(windows(matrix, rows, length)))
        values = matrix[rows].astype(np.float64)
        return predict(
            pd.DataFrame(values, index=dataset.frame.index[rows], columns=list(self.spec.names))
        )

    def _checked(self, raw: Any, rows: Rows) -> Floats:
        try:
            answers = np.asarray(raw, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{type(self.model).__name__}.predict gave {type(raw).__name__}; "
                "one number a row is allowed"
            ) from error
        if answers.shape != rows.shape:
            raise ModelError(
                f"{type(self.model).__name__} gave {answers.size} numbers for {rows.size} rows; "
                "one number a row is allowed"
            )
        return answers

    def state(self) -> tuple[dict[str, Any], Tensors]:
        """The configuration alone: the object itself is the pickle."""
        return self._identity(), {}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        """Nothing besides the pickle is loaded."""
