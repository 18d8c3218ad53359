"""What was known of a version when it went live: its figures, and its losses out of sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlops.models import manifest
from mlops.models.bundle import Bundle, read_tensors
from mlops.monitoring.performance.degradation import Losses
from mlops.service import Service
from mlops.store import ModelVersion
from mlops.store.outcomes import TimeArray
from mlops.validation.evaluation import Evaluation
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What was known of a version when it was promoted: figures by name, by its evaluation."""

    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, version: ModelVersion, evaluation: Evaluation | None) -> Self:
        """From its evaluation; from its metrics, which may be claims, where it has none."""
        if evaluation is not None:
            found = {measure.name: measure.value for measure in evaluation.measures}
        else:
            found = {
                name: float(value)
                for name, value in version.metrics.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
        return cls(figures={name: x for name, x in found.items() if not math.isnan(x)})

    @property
    def skill(self) -> float | None:
        return self.figures.get("skill")


def evaluation_at_promotion(bundle: Bundle) -> Evaluation | None:
    """What the gates saw of a version; None where no gate did."""
    values = json.loads((bundle.path / manifest.EVALUATION).read_text(encoding="utf-8"))
    return Evaluation.from_dict(values) if values else None


def reference_losses(bundle: Bundle, version: ModelVersion) -> Losses:
    """A version's losses out of sample, before it went live: what live ones are judged against.

    Those of the record its bundle keeps; where none was kept, those on the reference bars it
    was not fitted on.
    """
    table = read_tensors(bundle.path / manifest.REFERENCE)
    kept = read_record(table, bundle.service)
    if kept is not None:
        rows = kept.finite_or_none()
        return Losses.none() if rows is None else Losses.of(rows)
    new = np.isfinite(table["y"]) & np.isfinite(table["forecast"])
    fitted = version.notes.get("fitted_until")
    if isinstance(fitted, str):
        new &= table["open_time"] > int(datetime.fromisoformat(fitted).timestamp() * 1e9)
    columns = {name: table[name][new] for name in ("y", "forecast", "persistence")}
    # Every target's declared baseline says what persistence says.
    columns["baseline"] = columns["persistence"]
    columns["next_return"] = np.full(int(new.sum()), np.nan)
    opened = table["open_time"][new].astype("datetime64[ns]")
    made_at = np.add(opened, np.timedelta64(bundle.service.timeframe.step))
    return _losses(bundle.service, made_at, columns)


def _losses(
    service: Service, made_at: TimeArray, columns: Mapping[str, NDArray[np.floating[Any]]]
) -> Losses:
    """Of the rows with a forecast."""
    made = np.isfinite(columns["forecast"])
    if not made.any():
        return Losses.none()
    arrays = {name: column[made].astype(np.float64) for name, column in columns.items()}
    rows = Forecasts(
        target=service.target,
        horizon=service.horizon,
        made_at=made_at[made],
        fold=np.zeros(int(made.sum()), dtype=np.int64),
        **arrays,
    )
    return Losses.of(rows)
