"""What was known of a version at its promotion: its figures, and its losses out of sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

import numpy as np

from mlops.models import manifest
from mlops.models.bundle import Bundle
from mlops.monitoring.performance.degradation import Losses
from mlops.store import ModelVersion
from mlops.store.judgements import find_fitted_until
from mlops.validation.evaluation import Evaluation
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The figures of a version at its promotion, by the names of its evaluation."""

    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, version: ModelVersion, evaluation: Evaluation | None) -> Self:
        """From its evaluation; without one, from its metrics, which may be unproven claims."""
        if evaluation is not None:
            figures = {measure.name: measure.value for measure in evaluation.measures}
        else:
            figures = {
                name: float(value)
                for name, value in version.metrics.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
        return cls(figures={name: x for name, x in figures.items() if not math.isnan(x)})

    @property
    def skill(self) -> float | None:
        return self.figures.get("skill")


def evaluation_at_promotion(bundle: Bundle) -> Evaluation | None:
    """The evaluation that the gates judged; None where no gate judged the version."""
    values = json.loads(bundle.manifest.read(bundle.path, manifest.EVALUATION))
    return Evaluation.from_dict(values) if values else None


def reference_losses(bundle: Bundle, version: ModelVersion) -> Losses:
    """The losses of a version out of sample before it went live, which live ones are judged by.

    They are those of the record in its bundle. A bundle without a record has them on the reference
    bars after the time until which it was fitted.
    """
    table = bundle.tensors(manifest.REFERENCE)
    kept = read_record(table, bundle.service)
    if kept is not None:
        rows = kept.finite_or_none()
        return Losses.none() if rows is None else Losses.of(rows)
    unseen = np.isfinite(table["y"]) & np.isfinite(table["forecast"])
    fitted = find_fitted_until(version)
    if fitted is not None:
        unseen &= table["open_time"] > int(datetime.fromisoformat(fitted).timestamp() * 1e9)
    columns = {name: table[name][unseen] for name in ("y", "forecast", "persistence")}
    # The bundle keeps no baseline here; the declared ones forecast what persistence does.
    columns["baseline"] = columns["persistence"]
    columns["next_return"] = np.full(int(unseen.sum()), np.nan)
    opened = table["open_time"][unseen].astype("datetime64[ns]")
    made_at = np.add(opened, np.timedelta64(bundle.service.timeframe.step))
    made = np.isfinite(columns["forecast"])
    if not made.any():
        return Losses.none()
    arrays = {name: column[made].astype(np.float64) for name, column in columns.items()}
    rows = Forecasts(
        target=bundle.service.target,
        horizon=bundle.service.horizon,
        made_at=made_at[made],
        fold=np.zeros(int(made.sum()), dtype=np.int64),
        **arrays,
    )
    return Losses.of(rows)
