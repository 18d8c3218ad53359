"""Scaled features and a standardised target, for every forecaster that reads features.

Forecasters inherit this path, so training, batch and live cannot differ: features by the
dataset, a scaler fitted on fit rows only, windows by row number, and the target's inverse
transform.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from mlops.arrays import BoolArray, Float32Array, FloatArray, RowArray
from mlops.data.bar_rules import LARGEST_RATIO
from mlops.errors import ModelError
from mlops.features.dataset import Dataset
from mlops.features.rolling import log_of_ratio
from mlops.features.scaling import Scaler
from mlops.features.spec import FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.models.base import Forecaster
from mlops.models.recipe import Recipe
from mlops.service import Target

RISK = FeatureSpec(("volatility_24",))
"""Log volatility per bar, by which changes of price are divided before a fit."""

WINSOR_SIGMAS = 4.0
"""Standardised labels are cut here during a fit: a network would fit the noise of fat tails."""

PROBABILITY_EDGE = 0.01
"""Forecast probabilities stay this far from 0 and 1, so that the log loss stays finite."""

_FURTHEST = np.log(LARGEST_RATIO)


@dataclass(frozen=True, slots=True)
class TargetTransform:
    """From labels in the target's unit to standardised labels, and back.

    Volatility becomes its change from persistence; a price and a return become log changes in
    units of trailing volatility, so that one volatile week does not outweigh a quiet year; a
    direction becomes its distance from one half.
    """

    kind: Target
    horizon: int
    scale: float = 1.0

    @classmethod
    def fit(cls, dataset: Dataset, rows: RowArray) -> TargetTransform:
        """Fit the scale on fit rows only."""
        raw = cls(dataset.target.kind, dataset.target.horizon)
        changes = raw.encode(dataset, rows)
        scale = float(np.sqrt(np.mean(np.square(changes))))
        return cls(raw.kind, raw.horizon, scale if scale > 0 else 1.0)

    @property
    def by_risk(self) -> bool:
        """Whether changes are divided by trailing volatility."""
        return self.kind in (Target.RETURN, Target.PRICE)

    def encode(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        """Standardised labels (n,), in standard deviations and not cut."""
        y, persistence = dataset.labels.y[rows], dataset.persistence[rows]
        if self.kind is Target.DIRECTION:
            change = y - 0.5
        elif self.kind is Target.PRICE:
            change = log_of_ratio(y, persistence)
        else:
            change = y - persistence
        return np.asarray(change / self._scale_of_rows(dataset, rows))

    def decode(self, learned: FloatArray, dataset: Dataset, rows: RowArray) -> FloatArray:
        """Forecasts in the target's unit (n,) from standardised ones."""
        change = learned * self._scale_of_rows(dataset, rows)
        persistence = dataset.persistence[rows]
        if self.kind is Target.DIRECTION:
            return np.clip(change + 0.5, PROBABILITY_EDGE, 1 - PROBABILITY_EDGE)
        if self.kind is Target.PRICE:
            # A forecast moves no further than a bar may.
            return np.asarray(persistence * np.exp(np.clip(change, -_FURTHEST, _FURTHEST)))
        return np.asarray(persistence + change)

    def errors(self, dataset: Dataset, rows: RowArray, forecasts: FloatArray) -> FloatArray:
        """Label less forecast (..., n), in units of the standardised label."""
        errors = dataset.labels.y[rows] - forecasts
        if self.kind is Target.PRICE:
            errors = errors / dataset.persistence[rows]
        return np.asarray(errors / self._scale_of_rows(dataset, rows))

    def _scale_of_rows(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        if not self.by_risk:
            return np.full(rows.size, self.scale)
        per_bar = np.exp(dataset.matrix(RISK)[rows, 0].astype(np.float64))
        return np.asarray(self.scale * per_bar * np.sqrt(self.horizon))


class FeatureForecaster(Forecaster):
    """A forecaster that reads windows of scaled features."""

    STATE_KEYS: ClassVar[tuple[str, ...]] = ("scaler", "transform")

    def __init__(self, recipe: Recipe, target: TargetSpec) -> None:
        super().__init__(recipe, target)
        self.spec = FeatureSpec(self.recipe.features)
        self.scaler: Scaler | None = None
        self.transform = TargetTransform(target.kind, target.horizon)

    @property
    def warm_up(self) -> int:
        window = self.spec.warm_up + self.recipe.sequence_length
        risk = RISK.warm_up if self.transform.by_risk else 0
        return max(window, self.target.warm_up + 1, risk + 1)

    @property
    def row_by_row(self) -> bool:
        # A registered feature is proven causal, but may read bars before its warm-up.
        return self.spec.built_in

    def ready(self, dataset: Dataset) -> BoolArray:
        usable = dataset.usable(self.spec, self.recipe.sequence_length)
        if self.transform.by_risk:
            usable = usable & dataset.usable(RISK)
        return np.asarray(usable & np.isfinite(dataset.persistence))

    def prepare(self, dataset: Dataset, fit_rows: RowArray) -> None:
        """Fit scaler and target scale on fit rows only."""
        self.scaler = Scaler.fit(dataset.matrix(self.spec)[fit_rows])
        self.transform = TargetTransform.fit(dataset, fit_rows)

    def inputs(self, dataset: Dataset) -> Float32Array:
        """Scaled features (N, F); NaN before their warm-up."""
        if self.scaler is None:
            raise ModelError(f"{self.recipe.model_type} is not fitted; call fit or restore first")
        return self.scaler.transform(dataset.matrix(self.spec))

    def learned(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        """Standardised labels (n,), cut at `WINSOR_SIGMAS`."""
        encoded = self.transform.encode(dataset, rows)
        return np.clip(encoded, -WINSOR_SIGMAS, WINSOR_SIGMAS)

    def path_state(self) -> dict[str, Any]:
        """Recipe, target, scaler and target scale as JSON."""
        if self.scaler is None:
            raise ModelError(f"{self.recipe.model_type} is not fitted; there is no state to keep")
        transform = {**asdict(self.transform), "kind": str(self.transform.kind)}
        return {**self._identity(), "scaler": self.scaler.to_dict(), "transform": transform}

    def load_path(self, config: Mapping[str, Any]) -> None:
        """Read `path_state` back."""
        self.scaler = Scaler.from_dict(config["scaler"])
        parts = config["transform"]
        self.transform = TargetTransform(Target(parts["kind"]), parts["horizon"], parts["scale"])

    def check_state(self) -> None:
        scaler, transform = self.scaler, self.transform
        if scaler is None or {len(scaler.center), len(scaler.scale)} != {len(self.spec)}:
            raise ModelError(
                f"the scaler does not have one center and one scale for each of the "
                f"{len(self.spec)} features"
            )
        # `Scaler.transform` divides in float32, where a small scale may be zero.
        scale = np.asarray(scaler.scale, dtype=np.float32)
        if not (np.isfinite([*scaler.center, *scale]).all() and (scale > 0).all()):
            raise ModelError("the scaler has a number that is not finite, or a scale of zero")
        if (transform.kind, transform.horizon) != (self.target.kind, self.target.horizon):
            raise ModelError(
                f"the transform is of {transform.kind} over {transform.horizon} bars, the target "
                f"{self.target.kind} over {self.target.horizon}; they must be equal"
            )
        if not 0 < transform.scale < np.inf:
            raise ModelError(f"the transform's scale is {transform.scale!r}, not above zero")
