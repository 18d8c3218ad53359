"""A forecaster's out-of-sample record: forecasts, outcomes and naive forecasts of the same rows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from mlops.arrays import FloatArray, IntArray, TimeArray
from mlops.errors import GateError
from mlops.service import Target
from mlops.stats import metrics
from mlops.stats.trading import positions_from_edge, trailing_volatility


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Forecasts:
    """Forecasts of one forecaster on labelled rows, in time order; every array is ``(n,)``.

    Args:
        horizon: Bars that a label looks ahead.
        made_at: Close of the row's bar (UTC).
        y: Outcome in the target's unit.
        forecast: In the same unit (of a direction, the probability of up); may be NaN, which the
            gates judge.
        persistence: The target's last known value (volatility: the mean over the last h bars;
            price: the last close; return: 0; direction: the base rate).
        baseline: The declared baseline's forecast.
        next_return: Simple return of the bar after the row, NaN where that bar is missing.
        fold: Number of the walk-forward fold.

    Raises:
        GateError: when lengths differ, time does not ascend or an outcome is not finite.
    """

    target: Target
    horizon: int
    made_at: TimeArray
    y: FloatArray
    forecast: FloatArray
    persistence: FloatArray
    baseline: FloatArray
    next_return: FloatArray
    fold: IntArray

    def __post_init__(self) -> None:
        arrays = {f.name: getattr(self, f.name) for f in fields(self)[2:]}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1 or not len(self.y):
            raise GateError(f"forecasts need arrays of one length of at least 1, got {lengths}")
        if not np.all(np.diff(self.made_at.astype("datetime64[ns]").astype(np.int64)) > 0):
            raise GateError("forecasts must be in ascending time without repeats; sort the rows")
        for name in ("y", "persistence", "baseline"):
            if not np.all(np.isfinite(arrays[name])):
                raise GateError(
                    f"{name} holds {int(np.sum(~np.isfinite(arrays[name])))} values that are not "
                    "finite; keep only rows whose label and naive forecasts exist"
                )
        if self.target is Target.PRICE and not np.all(self.persistence > 0):
            raise GateError("price forecasts need a last price above 0 on every row")

    def __len__(self) -> int:
        return len(self.y)

    def of(self, forecast: FloatArray) -> Forecasts:
        """The same rows with another forecaster's forecasts."""
        return replace(self, forecast=np.asarray(forecast, dtype=np.float64))

    def after(self, earlier: Forecasts) -> Forecasts:
        """One record of ``earlier`` and then this one, whose folds are numbered on.

        Raises:
            GateError: when ``earlier`` does not end before this begins, or is of another target.
        """
        if (earlier.target, earlier.horizon) != (self.target, self.horizon):
            raise GateError(
                f"a record of {earlier.target}, {earlier.horizon} bars ahead, cannot be continued "
                f"by one of {self.target}, {self.horizon} bars ahead"
            )
        arrays = {
            f.name: np.concatenate([getattr(earlier, f.name), getattr(self, f.name)])
            for f in fields(self)[2:]
        }
        arrays["fold"] = np.concatenate([earlier.fold, earlier.fold.max() + 1 + self.fold])
        return Forecasts(target=self.target, horizon=self.horizon, **arrays)

    def of_baseline(self) -> Forecasts:
        """The same rows with the declared baseline's forecasts."""
        return self.of(self.baseline)

    def finite(self) -> Forecasts:
        """The rows with a finite forecast; itself where all forecasts are finite.

        Raises:
            GateError: when no forecast is finite.
        """
        keep = np.isfinite(self.forecast)
        if keep.all():
            return self
        if not keep.any():
            raise GateError(
                f"none of {len(self):,} forecasts is finite; there is nothing to measure"
            )
        arrays = {f.name: getattr(self, f.name)[keep] for f in fields(self)[2:]}
        return replace(self, **arrays)

    def finite_or_none(self) -> Forecasts | None:
        """As `finite`; None where no forecast is finite."""
        return self.finite() if np.isfinite(self.forecast).any() else None

    @property
    def takes_sides(self) -> bool:
        """Whether the forecast names a side, so that profit after costs measures its skill.

        A volatility forecast names no side: it is judged by its losses.
        """
        return self.target is not Target.VOLATILITY

    def edge(self) -> FloatArray:
        """(n,) forecast gain of a long position, in the target's unit; NaN without a forecast."""
        if self.target is Target.PRICE:
            return self.forecast / self.persistence - 1.0
        if self.target is Target.DIRECTION:
            return self.forecast - 0.5
        return self.forecast - self._reference()

    def moves(self) -> tuple[FloatArray, FloatArray]:
        """Outcome and forecast as moves; the hit rates compare their signs."""
        if self.target is Target.DIRECTION:
            return self.y - 0.5, self.forecast - 0.5
        return self.y - self._reference(), self.forecast - self._reference()

    def _reference(self) -> FloatArray:
        return np.zeros(len(self)) if self.target is Target.RETURN else self.persistence

    def positions(self) -> FloatArray:
        """(n,) positions in [-1, 1], known when each forecast is made.

        For return, price and direction they follow the edge (`mlops.stats.trading`). A volatility
        forecast names no side; its position is long, min(1, usual / forecast volatility), where
        the usual volatility is the mean log volatility of the rows so far. That position shows
        the value of the forecast for sizing; no gate judges it.
        """
        if self.takes_sides:
            return positions_from_edge(self.edge())
        usual = np.cumsum(self.persistence) / np.arange(1, len(self) + 1)
        return np.exp(np.minimum(np.nan_to_num(usual - self.forecast, nan=-np.inf), 0.0))

    def losses(self) -> FloatArray:
        """(n,) squared error in the target's unit; for a direction the log loss in nats."""
        if self.target is Target.DIRECTION:
            return metrics.log_loss(self.y, self.forecast)
        return metrics.squared_error(self.y, self.forecast)

    def comparable_losses(self) -> FloatArray:
        """`losses` on a scale that does not change over time, so that a test of means has power.

        Squared errors of a return or price are divided by the variance of an h-bar return
        known at the time (NaN for the first 20 rows); the other losses stay as they are.
        """
        if self.target in {Target.VOLATILITY, Target.DIRECTION}:
            return self.losses()
        variance = self.horizon * trailing_volatility(self.next_return) ** 2
        if self.target is Target.PRICE:
            variance = variance * self.persistence**2
        return self.losses() / variance
