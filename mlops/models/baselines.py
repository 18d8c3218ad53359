"""The naive forecasts that a model must beat; each service declares one as its baseline.

They read the realised target, which is its value over the last h bars, and fit nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mlops.arrays import BoolArray, FloatArray, RowArray
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, Forecaster, History, Tensors
from mlops.models.recipe import Param, Recipe

MAX_SPAN_BARS = 2_000
TAIL_SPANS = 4
"""An exponential mean is cut after this many spans: 99.97 % of its weight."""


class Baseline(Forecaster):
    """A forecaster that is not fitted; by default it forecasts the last known value."""

    MODEL_TYPE = "persistence"

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        return Recipe(cls.MODEL_TYPE)

    @property
    def warm_up(self) -> int:
        return self.target.warm_up + 1

    def ready(self, dataset: Dataset) -> BoolArray:
        return np.isfinite(dataset.persistence)

    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        return History()

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        return dataset.persistence[rows]

    def state(self) -> tuple[dict[str, Any], Tensors]:
        return self._identity(), {}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        """A baseline has no fitted state."""


class Persistence(Baseline):
    """Volatility of the last h bars, last price, or the base rate of past directions."""


class LastPrice(Baseline):
    """Persistence under the usual name for a price."""

    MODEL_TYPE = "last_price"


class BaseRate(Baseline):
    """Persistence under the usual name for a direction: the past share of rises."""

    MODEL_TYPE = "base_rate"


class Zero(Baseline):
    """Forecasts no change: the baseline of a return."""

    MODEL_TYPE = "zero"

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        return np.zeros(rows.size)


class Ewma(Baseline):
    """The exponential mean of the realised target, cut after `TAIL_SPANS` spans."""

    MODEL_TYPE = "ewma"
    SCHEMA: ClassVar[Mapping[str, Param]] = {"span": Param(24, low=1, high=MAX_SPAN_BARS)}

    @property
    def warm_up(self) -> int:
        return max(super().warm_up, self.target.horizon + len(self._weights))

    def ready(self, dataset: Dataset) -> BoolArray:
        late_enough = np.arange(len(dataset)) >= self.warm_up - 1
        return super().ready(dataset) & late_enough & np.isfinite(self._means(dataset))

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        return self._means(dataset)[rows]

    @property
    def _weights(self) -> FloatArray:
        span = self.recipe.whole("span")
        return np.asarray((1 - 2 / (span + 1)) ** np.arange(TAIL_SPANS * span))

    def _means(self, dataset: Dataset) -> FloatArray:
        realised = _realised(dataset)
        known = np.isfinite(realised)
        total: FloatArray = np.convolve(np.where(known, realised, 0.0), self._weights)[
            : len(realised)
        ]
        weight = np.convolve(known.astype(np.float64), self._weights)[: len(realised)]
        return np.asarray(total / np.where(weight > 0, weight, np.nan))


class Seasonal(Baseline):
    """The mean of the realised target over the same hours of the last seasons.

    ``season_bars`` is the season's length: 24 is a day of hourly bars.
    """

    MODEL_TYPE = "seasonal"
    SCHEMA: ClassVar[Mapping[str, Param]] = {
        "season_bars": Param(24, low=1, high=MAX_SPAN_BARS),
        "seasons": Param(5, low=1, high=60),
    }

    @property
    def warm_up(self) -> int:
        return max(super().warm_up, self._lags[-1] + self.target.horizon + 1)

    def ready(self, dataset: Dataset) -> BoolArray:
        return super().ready(dataset) & np.isfinite(self._means(dataset))

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        return self._means(dataset)[rows]

    @property
    def _lags(self) -> list[int]:
        season, horizon = self.recipe.whole("season_bars"), self.target.horizon
        first = -(-horizon // season)
        return [n * season - horizon for n in range(first, first + self.recipe.whole("seasons"))]

    def _means(self, dataset: Dataset) -> FloatArray:
        realised = _realised(dataset)
        mean: FloatArray = np.mean([_delayed(realised, lag) for lag in self._lags], axis=0)
        return mean


def _realised(dataset: Dataset) -> FloatArray:
    """(N,) the target over the h bars that end here; NaN across a hole."""
    return _delayed(dataset.labels.y, dataset.target.horizon)


def _delayed(values: FloatArray, bars: int) -> FloatArray:
    delayed = np.full(len(values), np.nan)
    delayed[bars:] = values[: max(len(values) - bars, 0)]
    return delayed
