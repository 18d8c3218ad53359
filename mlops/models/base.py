"""`Forecaster`, the base class of every model, and the table from model type to class.

A forecaster turns a dataset into forecasts in its target's own unit. Its fitted state is
JSON plus named arrays, so it is never pickled.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlops.arrays import BoolArray, FloatArray, RowArray
from mlops.errors import ModelError, ModelUnavailable, NotFinite, TrainingTimeout
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.recipe import Param, Recipe
from mlops.service import Target

Tensors: TypeAlias = dict[str, NDArray[Any]]

FORECASTERS: dict[str, str] = {
    "persistence": "mlops.models.baselines:Persistence",
    "zero": "mlops.models.baselines:Zero",
    "ewma": "mlops.models.baselines:Ewma",
    "seasonal": "mlops.models.baselines:Seasonal",
    "last_price": "mlops.models.baselines:LastPrice",
    "base_rate": "mlops.models.baselines:BaseRate",
    "linear": "mlops.models.linear:Linear",
    "lstm": "mlops.models.lstm:Lstm",
    "transformer": "mlops.models.transformer:Transformer",
    "ensemble": "mlops.models.ensemble:Ensemble",
    "custom": "mlops.models.custom:Custom",
}

OUTSIDE_FORECASTERS: dict[str, str] = {"onnx": "mlops.models.onnx_model:OnnxModel"}
"""Types that are registered and served, and cannot be trained here."""

UNFITTED = frozenset({"persistence", "zero", "ewma", "seasonal", "last_price", "base_rate"})
"""The naive types, which learn nothing from the bars."""

BASELINES: dict[Target, str] = {
    Target.VOLATILITY: "persistence",
    Target.RETURN: "zero",
    Target.PRICE: "last_price",
    Target.DIRECTION: "base_rate",
}


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the fit rows; losses are mean squared errors in standardised units."""

    number: int
    fit_loss: float
    selection_loss: float
    best: bool


@dataclass(frozen=True, slots=True)
class History:
    """The record of a fit; models that are fitted in one step have no epochs."""

    epochs: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    samples_per_second: float = 0.0
    device: str = "cpu"
    precision: str = "float64"
    workers: int = 1
    members: tuple[History, ...] = ()

    @property
    def best_epoch(self) -> Epoch | None:
        """The epoch of the weights that were kept."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.best), None)


@dataclass(frozen=True, slots=True)
class FitContext:
    """Seed, device and limits of a fit.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: An upper bound; fitted weights do not depend on it.
        deadline: The second of `time.monotonic` at which the fit is stopped.
        on_epoch: Called after each epoch.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    deadline: float | None = None
    on_epoch: Callable[[Epoch], None] | None = None

    def check_deadline(self, what: str) -> None:
        """Refuse to go on after the deadline.

        Args:
            what: The work that is stopped, for the message.

        Raises:
            TrainingTimeout: when the deadline has passed.
        """
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TrainingTimeout(
                f"{what} stopped: the training deadline passed; allow more time "
                "(TRAINING_JOB_TIMEOUT_HOURS) or train a smaller model"
            )

    def seeded(self, index: int) -> FitContext:
        """This context with an independent seed for the ``index``-th part of the work."""
        mixed = np.random.SeedSequence([self.seed, index]).generate_state(1)
        return replace(self, seed=int(mixed[0]))


def count_usable_cores() -> int:
    """The processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Forecaster(ABC):
    """A model of one target: `fit` it once, then `predict` any dataset of its service."""

    SCHEMA: ClassVar[Mapping[str, Param]] = {}
    STATE_KEYS: ClassVar[tuple[str, ...]] = ()
    """What the JSON of its state holds beside recipe and target."""

    def __init__(self, recipe: Recipe, target: TargetSpec) -> None:
        self.target = target
        self.recipe = self.validate(recipe)

    @classmethod
    @abstractmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        """The recipe of this type with every parameter at its default."""

    def validate(self, recipe: Recipe) -> Recipe:
        """``recipe`` with every parameter of this class present and legal.

        Raises:
            ModelError: naming the first key that is illegal.
        """
        return recipe.checked(self.SCHEMA)

    @property
    @abstractmethod
    def warm_up(self) -> int:
        """Bars of history needed for one forecast, its own bar included."""

    @property
    def row_by_row(self) -> bool:
        """Whether a forecast depends on the row's own ``warm_up`` bars alone.

        If so, several windows may be forecast in one call.
        """
        return True

    @abstractmethod
    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        """Fit on ``fit_rows``; ``selection_rows`` decide settings and when to stop.

        Rows without a label or a complete window are left out.
        """

    @abstractmethod
    def ready(self, dataset: Dataset) -> BoolArray:
        """Rows from which a forecast can be made, a mask (N,); needs no label."""

    @abstractmethod
    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        """Forecasts (n,) for rows that are ready."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], Tensors]:
        """JSON configuration and named arrays; `restore_forecaster` rebuilds from them."""

    @abstractmethod
    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        """Load the fitted state that `state` returned."""

    def check_state(self) -> None:  # noqa: B027 - the naive types have no state
        """Check a loaded state that nobody here made: its sizes, and that its numbers are finite.

        Raises:
            ModelError: naming the part that does not fit the recipe.
        """

    def predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        """(n,) forecasts made at the closes of ``rows``, in the target's unit.

        Raises:
            ModelError: when a row has no complete window.
            NotFinite: when a forecast is not a finite number.
        """
        if not rows.size:
            return np.empty(0)
        unready = rows[~self.ready(dataset)[rows]]
        if unready.size:
            raise ModelError(
                f"{self.recipe.model_type} cannot forecast from row {int(unready[0])} "
                f"({unready.size} of {rows.size} rows): it needs {self.warm_up} bars of "
                "unbroken history; pass rows where ready() is true"
            )
        return self._predict_finite(dataset, rows)

    def forecast(self, dataset: Dataset, among: BoolArray | None = None) -> FloatArray:
        """Forecasts for every bar (N,); NaN where none can be made.

        Args:
            among: The bars to forecast from, a mask (N,); by default all of them.
        """
        forecasts = np.full(len(dataset), np.nan)
        ready = self.ready(dataset)
        rows = np.flatnonzero(ready if among is None else ready & among)
        if rows.size:
            forecasts[rows] = self._predict_finite(dataset, rows)
        return forecasts

    def _predict_finite(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        forecast = np.asarray(self._predict(dataset, rows), dtype=np.float64)
        if forecast.shape == rows.shape and np.isfinite(forecast).all():
            return forecast
        kind = ModelError if forecast.shape != rows.shape else NotFinite
        raise kind(
            f"{self.recipe.model_type} gave shape {forecast.shape} with "
            f"{int((~np.isfinite(forecast)).sum())} values not finite for {rows.size} rows; "
            "one finite number a row is allowed"
        )

    def trainable(self, dataset: Dataset, rows: RowArray) -> RowArray:
        """Those of ``rows`` that have both a label and a complete window.

        Raises:
            ModelError: when none is left.
        """
        kept = rows[(self.ready(dataset) & dataset.labels.valid)[rows]]
        if not kept.size:
            raise ModelError(
                f"none of {rows.size} rows has both a label and {self.warm_up} bars of history; "
                "give more bars or a shorter sequence_length"
            )
        return kept

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Tensors) -> Self:
        """Rebuild a fitted forecaster from its `state`."""
        target = TargetSpec(Target(config["target"]["kind"]), config["target"]["horizon"])
        forecaster = cls(Recipe.from_dict(config["recipe"]), target)
        forecaster.load_state(config, tensors)
        return forecaster

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_dict(),
            "target": {"kind": str(self.target.kind), "horizon": self.target.horizon},
        }


def forecaster_class(model_type: str) -> type[Forecaster]:
    """The class of a model type, imported on first use.

    Raises:
        ModelError: for a type that is in neither table.
    """
    known = FORECASTERS | OUTSIDE_FORECASTERS
    if model_type not in known:
        raise ModelError(f"model_type={model_type!r} is not one of {', '.join(FORECASTERS)}")
    module, _, name = known[model_type].partition(":")
    forecaster: type[Forecaster] = getattr(import_module(module), name)
    return forecaster


def default_recipe(
    model_type: str, target: TargetSpec, config: Mapping[str, Any] | None = None
) -> Recipe:
    """The default recipe of a type, overridden by a flat platform config and checked.

    Raises:
        ModelError: for an unknown type, key or value.
    """
    kind = forecaster_class(model_type)
    return kind(kind.defaults(target).with_config(config or {}), target).recipe


def build_forecaster(
    recipe: Recipe, target: TargetSpec, *, allowed_classes: Collection[str] = ()
) -> Forecaster:
    """An unfitted forecaster.

    Args:
        allowed_classes: The custom models that may be built, as ``module:Class``.

    Raises:
        ModelError: naming the key that is wrong.
    """
    _require_allowed(recipe, allowed_classes)
    return forecaster_class(recipe.model_type)(recipe, target)


def restore_forecaster(
    config: Mapping[str, Any], tensors: Tensors, *, allowed_classes: Collection[str] = ()
) -> Forecaster:
    """A fitted forecaster from its `Forecaster.state`."""
    recipe = Recipe.from_dict(config["recipe"])
    _require_allowed(recipe, allowed_classes)
    return forecaster_class(recipe.model_type).restore(config, tensors)


def _require_allowed(recipe: Recipe, allowed_classes: Collection[str]) -> None:
    path = recipe.params.get("class_path")
    if recipe.model_type == "custom" and path not in allowed_classes:
        allowed = ", ".join(sorted(allowed_classes)) or "none"
        raise ModelUnavailable(
            f"class_path={path!r} is not an allowed custom model; allowed: {allowed}. "
            "add its module to CUSTOM_MODEL_MODULES wherever it is trained and served"
        )
    for member in recipe.members:
        _require_allowed(member, allowed_classes)
