"""Models that a user wrote: an allow-listed class, or an object kept as a signed pickle.

`Custom` imports a class with ``train`` and ``predict`` and calls it with the recipe's other
parameters as one ``config`` dictionary. The class gets plain data frames. The fitted state must
be plain data too: JSON values and arrays.

`Pickled` wraps an object that was fitted elsewhere, for a trusted notebook, never for HTTP. Its
``predict(features)`` returns n numbers in the target's unit. ``features`` are scale-free and not
standardised: a data frame as for `Custom` where ``sequence_length`` is 1, else a float32 array
``(n, T, F)``. A torch module is called in eval mode with a tensor ``(n, T, F)``, or ``(n, F)``
where T is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from time import perf_counter
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, RowArray
from mlops.errors import ModelError, ModelUnavailable
from mlops.features.dataset import Dataset, windows
from mlops.features.spec import DEFAULT_FEATURES, FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, Forecaster, History, Tensors
from mlops.models.recipe import Param, Recipe

CLASS_PATH = "class_path"
TARGET_COLUMN = "target"


class TradingModel(Protocol):
    """The methods of a custom class.

    ``data`` has a column for each feature and ``target``; ``features`` has the features
    only. Both are indexed by bar open time. ``predict`` returns one number a row, in the
    target's unit.
    """

    def train(self, data: pd.DataFrame) -> Any:
        """Fit; the return value is not used."""

    def predict(self, features: pd.DataFrame) -> Any:
        """One forecast for each row."""


class Custom(Forecaster):
    """Runs a `TradingModel`; ``class_path`` is ``module:Class``, other parameters its config.

    The fitted state is the object's attributes, which must be JSON values or arrays, unless
    the class has its own ``state() -> dict`` and ``load_state(dict)``.
    """

    SCHEMA: ClassVar[Mapping[str, Param]] = {CLASS_PATH: Param("")}

    def __init__(self, recipe: Recipe, target: TargetSpec) -> None:
        super().__init__(recipe, target)
        self.spec = FeatureSpec(self.recipe.features)
        self.model: TradingModel | None = None

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        return Recipe("custom", DEFAULT_FEATURES)

    def validate(self, recipe: Recipe) -> Recipe:
        if recipe.sequence_length != 1:
            raise ModelError(
                f"sequence_length={recipe.sequence_length} is not 1; a custom model sees whole "
                "frames and cuts its own windows"
            )
        return recipe.checked(self.SCHEMA, open_keys=True)

    @property
    def warm_up(self) -> int:
        return max(self.spec.warm_up, self.target.warm_up) + 1

    @property
    def row_by_row(self) -> bool:
        # The class gets the whole frame and may use all of its rows.
        return False

    def ready(self, dataset: Dataset) -> BoolArray:
        return np.asarray(dataset.usable(self.spec) & np.isfinite(dataset.persistence))

    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        started = perf_counter()
        context.check_deadline("custom")
        rows = self.trainable(dataset, np.concatenate([fit_rows, selection_rows]))
        data = _build_frame(dataset, self.spec, rows)
        data[TARGET_COLUMN] = dataset.labels.y[rows]
        self.model = self._create_model()
        self.model.train(data)
        return History(seconds=perf_counter() - started)

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        if self.model is None:
            raise ModelError("custom is not fitted; call fit or restore first")
        forecasts = self.model.predict(_build_frame(dataset, self.spec, rows))
        try:
            return np.asarray(forecasts, dtype=np.float64)
        except (TypeError, ValueError) as error:
            kind = type(forecasts).__name__
            raise ModelError(
                f"{self._path}.predict returned {kind}; return one number a row"
            ) from error

    def state(self) -> tuple[dict[str, Any], Tensors]:
        if self.model is None:
            raise ModelError("custom is not fitted; there is no state to keep")
        own = getattr(self.model, "state", None)
        values = own() if callable(own) else dict(vars(self.model))
        tensors = {
            name: value
            for name, value in values.items()
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        }
        plain = {name: value for name, value in values.items() if name not in tensors}
        for name, value in plain.items():
            if not _is_plain(value):
                raise ModelError(
                    f"{self._path} keeps {name!r} as {type(value).__name__}; keep JSON values and "
                    "number arrays, or give the class state() and load_state()"
                )
        return {**self._identity(), "plain": plain}, tensors

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        self.model = self._create_model()
        values = {**config["plain"], **tensors}
        own = getattr(self.model, "load_state", None)
        if callable(own):
            own(values)
        else:
            vars(self.model).update(values)

    @property
    def _path(self) -> str:
        return str(self.recipe.params[CLASS_PATH])

    def _create_model(self) -> TradingModel:
        kind = self._import_class()
        config = {key: value for key, value in self.recipe.params.items() if key != CLASS_PATH}
        model: TradingModel = kind(config)
        return model

    def _import_class(self) -> type:
        """The class, which its module, or a module inside it, must define and not only import."""
        module, _, name = self._path.partition(":")
        try:
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ModelUnavailable(
                f"class_path={self._path!r} cannot be imported ({error}); write module:Class of "
                "something installed here"
            ) from error
        if not isinstance(kind, type) or not f"{kind.__module__}.".startswith(f"{module}."):
            raise ModelError(
                f"class_path={self._path!r} is no class that {module} defines; name the module "
                "that defines it, and add that to CUSTOM_MODEL_MODULES if it may be trusted"
            )
        return kind


def _build_frame(dataset: Dataset, spec: FeatureSpec, rows: RowArray) -> pd.DataFrame:
    """Features of ``rows`` with a column each, indexed by bar open time."""
    values = dataset.matrix(spec)[rows].astype(np.float64)
    return pd.DataFrame(values, index=dataset.frame.index[rows], columns=list(spec.names))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


BATCH_ROWS = 4096


class Pickled(Forecaster):
    """Forecasts by an object that was fitted elsewhere."""

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
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        raise ModelError(
            "a pickled model is registered as it is; to have it trained here, put its class "
            "into a module of CUSTOM_MODEL_MODULES"
        )

    @property
    def row_by_row(self) -> bool:
        # The object may use all rows that it gets.
        return False

    def ready(self, dataset: Dataset) -> BoolArray:
        return dataset.usable(self.spec, self.recipe.sequence_length)

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        batches = [rows[first : first + BATCH_ROWS] for first in range(0, rows.size, BATCH_ROWS)]
        parts = [self._check_shape(self._call_model(dataset, batch), batch) for batch in batches]
        return np.concatenate(parts) if parts else np.empty(0)

    def _call_model(self, dataset: Dataset, rows: RowArray) -> Any:
        matrix, length = dataset.matrix(self.spec), self.recipe.sequence_length
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(self.model, torch.nn.Module):
            batch = np.array(windows(matrix, rows, length))
            tensor = torch.from_numpy(batch[:, 0, :] if length == 1 else batch)
            from mlops.models.devices import one_torch_thread

            with torch.inference_mode(), one_torch_thread():
                return self.model.eval()(tensor).cpu().numpy()
        predict = self.model.predict  # type: ignore[attr-defined]
        if length > 1:
            return predict(np.array(windows(matrix, rows, length)))
        return predict(_build_frame(dataset, self.spec, rows))

    def _check_shape(self, raw: Any, rows: RowArray) -> FloatArray:
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
        """The configuration alone; the bundle keeps the object as a pickle."""
        return self._identity(), {}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        """The pickle is the only state."""
